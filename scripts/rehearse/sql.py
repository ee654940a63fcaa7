"""Statements that a rehearsal sends to a database, as an operator would."""

from typing import Any

import psycopg

from scripts.rehearse.packages import postgres_programs
from scripts.rehearse.programs import run

_OPTIONS = "connect_timeout=2"


def run_psql(url: str, script: str) -> None:
    """Run a script of several statements by ``psql``. Raises RuntimeError."""
    run([str(postgres_programs() / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", url], script)


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of a statement. Raises psycopg.Error."""
    separator = "&" if "?" in url else "?"
    with psycopg.connect(f"{url}{separator}{_OPTIONS}", autocommit=True) as connection:
        return connection.execute(statement.encode(), values or None).fetchall()


def execute(url: str, statement: str) -> None:
    """Run a statement that returns nothing. Raises psycopg.Error."""
    separator = "&" if "?" in url else "?"
    with psycopg.connect(f"{url}{separator}{_OPTIONS}", autocommit=True) as connection:
        connection.execute(statement.encode())
