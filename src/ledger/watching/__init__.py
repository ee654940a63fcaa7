"""Watches: the loop that finds what is due or over, by the views, and has it decided."""
