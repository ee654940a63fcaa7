"""Runs of lines: their data, leases, names, parents and reads."""
