"""The proof that nothing in the log was changed: the sealed log, and the comparison with it."""
