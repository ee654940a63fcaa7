"""Databases of the tests' server: copies of a migrated template, or of what a test has made."""

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

TEMPLATE = "ledger_template"

_sessions: dict[tuple[str, int], psycopg.Connection[Any]] = {}
"""A session for each server and thread: a new one would cost as much as the copy of a database."""


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
    place = url, threading.get_ident()
    if place not in _sessions:
        _sessions[place] = _connect(url)
        atexit.register(_sessions[place].close)
    _sessions[place].execute(statement.encode())


def copy(url: str, name: str, template: str = TEMPLATE) -> None:
    _manage(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")


def drop(url: str, name: str) -> None:
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
