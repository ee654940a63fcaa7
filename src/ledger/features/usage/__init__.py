"""Usage, comparisons, and statements of a month."""
