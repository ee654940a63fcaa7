"""The engine: it knows no feature by name."""
