"""The write side: commands, their group, the memory of aggregates, the fair queue."""
