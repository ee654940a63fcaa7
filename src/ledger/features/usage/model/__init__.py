"""The aggregate of a statement; sums, and what differs between two of them."""
