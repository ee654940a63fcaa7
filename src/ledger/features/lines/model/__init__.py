"""The aggregate of a line, its events, its health."""
