"""The event log in the library's table: append, decisions, codec, snapshots, vault, leases."""
