"""An HTTP/1.1 client for receivers: public addresses, reused connections, bounded answers."""
