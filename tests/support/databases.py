"""Databases of the tests' server: copies of a migrated template, or of what a test has made."""

import atexit
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.rows import tuple_row

TEMPLATE = "ledger_template"

_sessions: dict[tuple[str, int], psycopg.Connection[Any]] = {}
"""A session for each server and thread: a new one would cost as much as the copy of a database."""

_readers: dict[str, psycopg.Connection[Any] | None] = {}
"""A session, once there is one, for the statements of tests on each database that is made here."""

_OF_SESSION = re.compile(rb"\s*(?!SELECT|INSERT|UPDATE|DELETE)|.*\b(pg_|set_config)", re.DOTALL)
"""A statement about sessions or other objects of the server, which needs a session of its own."""


def named(url: str, database: str) -> str:
    """The server's address for another database."""
    return url.replace("/ledger?", f"/{database}?")


def execute(url: str, statement: str) -> None:
    with _connect(url) as connection:
        connection.execute(statement.encode())


def _connect(url: str) -> psycopg.Connection[Any]:
    # A test may have set PGOPTIONS for itself while the next databases are made.
    return psycopg.connect(url, autocommit=True, options="-c statement_timeout=0")


def _manage(url: str, statement: str) -> None:
    """Execute a statement about databases, in a session that lasts."""
    key = url, threading.get_ident()
    if key not in _sessions:
        _sessions[key] = _connect(url)
        atexit.register(_sessions[key].close)
    _sessions[key].execute(statement.encode())


def query(conninfo: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement. A new session for each would cost ten times as much."""
    is_shared = conninfo in _readers and threading.current_thread() is threading.main_thread()
    if not is_shared or _OF_SESSION.match(statement.encode()):
        with _session(conninfo) as connection:
            return _rows(connection, statement, values)
    for _ in range(2):
        connection = _readers[conninfo] = _readers[conninfo] or _session(conninfo)
        try:
            return _rows(connection, statement, values)
        except psycopg.OperationalError:
            # A test may end all sessions.
            if not connection.closed:
                raise
            _readers[conninfo] = None
    raise AssertionError("two sessions ended at once")


def _session(conninfo: str) -> psycopg.Connection[Any]:
    return psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row, prepare_threshold=None)


def _rows(
    connection: psycopg.Connection[Any], statement: str, values: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    cursor = connection.execute(statement.encode(), values or None)
    has_rows = cursor.pgresult.status == ExecStatus.TUPLES_OK  # also rows without columns
    return cursor.fetchall() if has_rows else []


def _leave(url: str, name: str) -> None:
    """Close the session on a database."""
    session = _readers.pop(named(url, name), None)
    if session is not None:
        session.close()


def copy(url: str, name: str, template: str = TEMPLATE) -> None:
    _leave(url, template)
    _manage(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    _readers[named(url, name)] = None


def drop(url: str, name: str) -> None:
    _leave(url, name)
    _manage(url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def copied(url: str, name: str, template: str = TEMPLATE) -> Iterator[str]:
    """The address of a copy, which is dropped at the end."""
    copy(url, name, template)
    try:
        yield named(url, name)
    finally:
        drop(url, name)


@contextmanager
def empty(url: str, name: str) -> Iterator[str]:
    """The address of a new database without any schema, which is dropped at the end."""
    _manage(url, f"CREATE DATABASE {name}")
    try:
        yield named(url, name)
    finally:
        drop(url, name)
