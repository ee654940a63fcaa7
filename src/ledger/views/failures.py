"""Failures: transient ones and those that an event causes at each try, and how one is told."""

import psycopg

_PASSING = ("08", "40", "53", "55", "57")
"""SQLSTATE classes of the connection or of the server's state, which no event causes."""


def is_passing(error: Exception) -> bool:
    """Whether a failure is transient: then the events are tried again, and no view is stopped."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate[:2] in _PASSING
    return isinstance(error, psycopg.InterfaceError)


def told(error: Exception) -> str:
    """An error in one line. PostgreSQL repeats values of rows behind the first line of its own."""
    if isinstance(error, psycopg.Error):
        first, _, _ = str(error).partition("\n")
        return f"{type(error).__name__}({first!r})"
    return repr(error)
