"""Runs of lines: their data, leases, parents and reads."""
