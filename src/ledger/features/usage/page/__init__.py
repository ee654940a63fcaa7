"""The pages of usage, comparisons and statements."""
