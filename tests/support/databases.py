"""Databases of the tests' server: copies of a migrated template, or of what a test has made."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

TEMPLATE = "ledger_template"


def named(url: str, database: str) -> str:
    """The server's address for another database."""
    return url.replace("/ledger?", f"/{database}?")


def execute(url: str, statement: str) -> None:
    # A test may have set PGOPTIONS for itself while the next databases are made.
    with psycopg.connect(url, autocommit=True, options="-c statement_timeout=0") as connection:
        connection.execute(statement.encode())


def copy(url: str, name: str, template: str = TEMPLATE) -> None:
    execute(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")


def drop(url: str, name: str) -> None:
    execute(url, f"DROP DATABASE {name} WITH (FORCE)")


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
    execute(url, f"CREATE DATABASE {name}")
    try:
        yield named(url, name)
    finally:
        drop(url, name)
