"""The HTTP edge: parse, call, serialise."""
