"""Filling a view's next generation beside the live one, and comparing both."""
