"""An HTTP/1.1 client for receivers: public addresses, kept connections, bounded answers."""
