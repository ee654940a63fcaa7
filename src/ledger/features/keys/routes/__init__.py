"""The routes of keys, and of a request's own credential."""
