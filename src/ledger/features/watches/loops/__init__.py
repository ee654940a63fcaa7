"""The loop that opens and resolves alerts."""
