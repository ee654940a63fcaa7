"""Reads: a question as a value, and what answers it (contract 4)."""
