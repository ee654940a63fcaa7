"""The read pool: pipelined connections, and the reads that wait for them."""
