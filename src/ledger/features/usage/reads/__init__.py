"""Sums of many lines at a position and a clock."""
