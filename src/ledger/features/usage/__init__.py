"""Usage across lines, comparisons of two instants, and statements of a month."""
