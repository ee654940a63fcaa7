"""The page of keys and its forms."""
