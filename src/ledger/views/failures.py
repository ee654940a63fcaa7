"""Telling failures apart: those of the moment from those that an event brings about each time."""

import psycopg

_PASSING = ("08", "40", "53", "55", "57")
"""SQLSTATE classes that are about the connection or the server's state, not about an event."""


def is_passing(error: Exception) -> bool:
    """Whether a failure says nothing about the events: then it is tried again, not skipped."""
    if isinstance(error, psycopg.OperationalError):
        return error.sqlstate is None or error.sqlstate[:2] in _PASSING
    return isinstance(error, psycopg.InterfaceError)
