"""The routes of usage, comparisons and statements."""
