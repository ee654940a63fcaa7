"""The tables of the log: migrations, the role that reads, and what it may see."""
