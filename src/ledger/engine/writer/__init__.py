"""The write side: commands, the group that they commit in, the memory of aggregates, turns."""
