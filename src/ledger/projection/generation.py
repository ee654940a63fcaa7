"""A generation of a view: one set of its tables, beside which the next one can be filled.

The live generation's rows are found under ``ledger.<table>``; all have tables of their own,
``ledger.<table>_g<number>``. Statements are made here from a table's description, once each.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from psycopg import Connection, Cursor

from ledger.projection.contract import Projection, Table
from ledger.store.arrays import array, copy_text

_EXPOSE = """
DROP VIEW IF EXISTS ledger.{name};
CREATE VIEW ledger.{name} WITH (security_invoker = true) AS SELECT * FROM {table};
GRANT SELECT ON ledger.{name}, {table} TO ledger_api
"""

_INSERT = """
INSERT INTO {table} ({columns}) SELECT {values} FROM unnest({arrays}) AS u ({columns})
"""

_REPLACE = " ON CONFLICT ({key}) DO UPDATE SET {changes}"


_COPY_FROM = 100
"""Rows from which on COPY is cheaper, its extra messages included."""


class Generation:
    """The tables of one generation, through a cursor whose transaction is someone else's."""

    def __init__(self, cursor: Cursor[Any], number: int) -> None:
        self._cursor = cursor
        self.number = number

    def write(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows, each a value a column, set-based."""
        rows = list(rows)
        if len(rows) >= _COPY_FROM and not table.replaces:
            with self._cursor.copy(_copy(table, self.number)) as copy:
                copy.write(copy_text(rows))
        elif rows:
            columns = [array(column) for column in zip(*rows, strict=True)]
            self._cursor.execute(_insert(table, self.number), columns, prepare=True)

    def fetch(self, statement: str, parameters: Sequence[Any]) -> list[Any]:
        """Rows of a statement that names its table as ``{g}``: the number is put there."""
        text = statement.replace("{g}", f"g{self.number}")
        return self._cursor.execute(text.encode(), parameters, prepare=True).fetchall()


def table_of(table: Table, generation: int) -> str:
    """The table that holds a generation's rows."""
    return f"ledger.{table.name}_g{generation}"


def create(connection: Connection[Any], projection: Projection, generation: int) -> None:
    """Create the empty tables of a generation from the projection's ``.sql``."""
    text = (files("projections") / f"{projection.name}.sql").read_text()
    connection.execute(Template(text).substitute(generation=generation).encode())


def expose(connection: Connection[Any], projection: Projection, generation: int) -> None:
    """Let queries find this generation's rows."""
    for table in projection.tables:
        statement = _EXPOSE.format(name=table.name, table=table_of(table, generation))
        connection.execute(statement.encode())


@cache
def _cached_insert(
    name: str, key: tuple[str, ...], columns: tuple[tuple[str, str], ...], replaces: bool
) -> bytes:
    names = [column for column, _ in columns]
    # A row's own array travels as text: unnest would flatten it.
    values = [f"{c}::{t}" if t.endswith("[]") else c for c, t in columns]
    arrays = ["%s::text[]" if t.endswith("[]") else f"%s::{t}[]" for _, t in columns]
    statement = _INSERT.format(
        table=name,
        columns=", ".join(names),
        values=", ".join(values),
        arrays=", ".join(arrays),
    )
    if replaces:
        changes = ", ".join(f"{c} = excluded.{c}" for c in names if c not in key)
        statement += _REPLACE.format(key=", ".join(key), changes=changes)
    return statement.encode()


def _copy(table: Table, generation: int) -> bytes:
    return f"COPY {table_of(table, generation)} ({', '.join(table.columns)}) FROM STDIN".encode()


def _insert(table: Table, generation: int) -> bytes:
    return _cached_insert(
        table_of(table, generation), table.key, tuple(table.columns.items()), table.replaces
    )
