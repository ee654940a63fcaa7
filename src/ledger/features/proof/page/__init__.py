"""The page of the sealed log."""
