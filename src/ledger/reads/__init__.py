"""Reads: questions as values, and their answers (contract, Reading)."""
