"""Distinguishing transient failures from failures that an event causes at each try."""

import psycopg

_PASSING = ("08", "40", "53", "55", "57")
"""SQLSTATE classes of the connection or of the server's state, which no event causes."""


def is_passing(error: Exception) -> bool:
    """Whether a failure is transient: then the events are tried again, and no view is stopped."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate[:2] in _PASSING
    return isinstance(error, psycopg.InterfaceError)
