"""The time that PostgreSQL takes for the same rows without the product's code.

`copy_seconds`: COPY of given rows into tables with the same indexes. `copied_table_seconds`: COPY
of a table's own rows. `commit_seconds`: one row and one fsync.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

SCHEMA = "bench_limit"
PART = 1 << 18  # bytes of a file at a time


@dataclass(frozen=True)
class TableRows:
    """Rows of one table, in COPY's binary format."""

    table: str  # the product's name of the table, with its schema
    columns: tuple[str, ...]
    data: bytes

    @property
    def clone(self) -> sql.Identifier:
        """The table to copy the rows into, with the same columns and indexes."""
        return sql.Identifier(SCHEMA, self.table.replace(".", "_"))

    @property
    def original(self) -> sql.Identifier:
        """The product's table."""
        return sql.Identifier(*self.table.split("."))

    @property
    def names(self) -> sql.Composed:
        """The columns, as a statement lists them."""
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))

    @property
    def copy_in(self) -> sql.Composed:
        """The statement that copies into the clone."""
        return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self.clone, self.names)


def read_rows(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], query: str
) -> TableRows:
    """Read the rows of `query`, ready to be copied in without any encoding."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy,
    ):
        return TableRows(table, tuple(columns), b"".join(bytes(part) for part in copy))


def create_clones(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> None:
    """Create the tables to copy into, with the originals' indexes, constraints and defaults.

    Earlier ones are dropped.
    """
    drop_clones(connection)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    for rows in batch:
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(rows.clone, rows.original)
        )
    connection.commit()


def drop_clones(connection: psycopg.Connection[Any]) -> None:
    """Remove all tables that these measurements made in the database."""
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    connection.commit()


def fill_clones(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> None:
    """Insert all rows of the originals into the tables to copy into."""
    for rows in batch:
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                rows.clone, rows.names, rows.names, rows.original
            )
        )
    connection.commit()


def copy_seconds(
    connection: psycopg.Connection[Any], batches: Sequence[Sequence[TableRows]], seconds: float
) -> list[float]:
    """Copy each batch, again and again for about `seconds`; return the time of each COPY.

    The tables are emptied before each pass over the batches, outside the measured time. This
    favours the limit, never our product.
    """
    times: list[float] = []
    while sum(times) < seconds:
        for rows in batches[0]:
            connection.execute(sql.SQL("TRUNCATE {}").format(rows.clone))
        connection.commit()
        times += [copy_batch(connection, batch) for batch in batches]
    return times


def copy_batch(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> float:
    """Copy a batch in one transaction; return the seconds, including the commit."""
    began = time.perf_counter()
    for rows in batch:
        with connection.cursor() as cursor, cursor.copy(rows.copy_in) as copy:
            copy.write(rows.data)
    connection.commit()
    return time.perf_counter() - began


def copied_table_seconds(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], folder: Path
) -> float:
    """The seconds of a COPY of a whole table into an empty table with the same indexes.

    The COPY is one transaction, and its commit is included. The rows pass through a file, since
    they may be too many for memory.
    """
    clone, file = TableRows(table, tuple(columns), b""), folder / "rows"
    create_clones(connection, [clone])
    try:
        with connection.cursor() as cursor, file.open("wb") as output:
            out = sql.SQL("COPY {} ({}) TO STDOUT (FORMAT BINARY)").format(
                clone.original, clone.names
            )
            with cursor.copy(out) as copy:
                for part in copy:
                    output.write(part)
        connection.commit()
        began = time.perf_counter()
        with (
            connection.cursor() as cursor,
            file.open("rb") as rows,
            cursor.copy(clone.copy_in) as copy,
        ):
            while part := rows.read(PART):
                copy.write(part)
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.rollback()
        drop_clones(connection)
        file.unlink(missing_ok=True)


def commit_seconds(url: str, seconds: float) -> float:
    """The median time of a transaction that inserts one row: one fsync."""
    with psycopg.connect(url, autocommit=True) as connection:
        drop_clones(connection)
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        connection.execute(f"CREATE TABLE {SCHEMA}.commits (n bigint PRIMARY KEY)")
        times: list[float] = []
        while sum(times) < seconds:
            began = time.perf_counter()
            connection.execute(
                f"INSERT INTO {SCHEMA}.commits VALUES (%s)", [len(times)], prepare=True
            )
            times.append(time.perf_counter() - began)
        drop_clones(connection)
    return statistics.median(times)
