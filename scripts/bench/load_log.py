"""Loads rows into the log's tables by COPY. Their indexes are made after the rows."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg.copy import QueuedLibpqWriter
from psycopg.rows import tuple_row

# The constraints that COPY would have to maintain, with their definitions: foreign keys come last,
# after the keys that they refer to.
_CONSTRAINTS = """
SELECT c.conname, c.conrelid::regclass::text, pg_get_constraintdef(c.oid)
FROM pg_constraint AS c
WHERE c.contype IN ('p', 'u', 'f')
  AND (c.conrelid = ANY(%(tables)s::regclass[]) OR c.confrelid = ANY(%(tables)s::regclass[]))
ORDER BY c.contype = 'f', c.conname
"""
_INDEXES = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
FROM pg_index AS i
WHERE i.indrelid = ANY(%(tables)s::regclass[])
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
"""
_SEQUENCE = "SELECT setval('ledger.ledger_events_notification_id_seq', %s)"


def load(
    conninfo: str, tables: Mapping[str, str], parts: Iterable[Mapping[str, list[str]]]
) -> None:
    """Copy rows, in COPY's text format, into empty tables of the schema `ledger`.

    ``parts`` are rows by table, some at a time; each list is emptied once it is sent. A COPY per
    table stays open, on its own connection and thread. So PostgreSQL takes rows in while the next
    rows are made.
    """
    names = [f"ledger.{table}" for table in tables]
    with _without_indexes(conninfo, names), ExitStack() as stack:
        copies = {}
        for table, columns in tables.items():
            connection = stack.enter_context(psycopg.connect(conninfo))
            statement = f"COPY ledger.{table} ({', '.join(columns.split())}) FROM STDIN"
            cursor = connection.cursor()
            copy = cursor.copy(statement.encode(), writer=QueuedLibpqWriter(cursor))
            copies[table] = stack.enter_context(copy)
        for part in parts:
            for table, rows in part.items():
                if rows:
                    copies[table].write("".join(rows))
                    rows.clear()


def move_sequence(conninfo: str, last: int) -> None:
    """Set the sequence, so that the next event comes after this position."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(_SEQUENCE, (last,))


@contextmanager
def _without_indexes(conninfo: str, tables: list[str]) -> Iterator[None]:
    """Drop the tables' indexes and constraints, and make them again after the rows are in."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'")
        constraints = connection.execute(_CONSTRAINTS, {"tables": tables}).fetchall()
        indexes = connection.execute(_INDEXES, {"tables": tables}).fetchall()
        for name, table, _ in reversed(constraints):
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}".encode())
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        yield
        for _, definition in indexes:
            connection.execute(definition.encode())
        for name, table, definition in constraints:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}".encode())
