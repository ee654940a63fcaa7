"""Rows of described tables: the statements that write them, and that find them by their keys.

The statements are generated from the description. Rows are sent as one array for each column, so a
statement is prepared once, for any number of rows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any

from ledger.postgres.binary import array, unnested
from ledger.postgres.pipeline import Statement, Value
from ledger.postgres.table import Table

_INSERT = "INSERT INTO ledger.{table} ({columns}) SELECT {values}"

_REPLACE = " ON CONFLICT ({key}) DO UPDATE SET {changes}"

# OFFSET 0 keeps the look-up in a large table a look-up by key. A generic plan stays
# (``planned_once``), and a plan made while the table is empty would prefer a sequential scan.
_FIND = """
SELECT found.* FROM unnest({keys}) AS asked ({key})
CROSS JOIN LATERAL (
    SELECT {columns} FROM ledger.{table} AS stored WHERE {is_asked} OFFSET 0
) AS found
"""


def insert(
    rows: Mapping[Table, Sequence[Sequence[Any]]], select: str = "", value: Value = None
) -> Statement:
    """Return one statement that writes rows; each table must have at least one row.

    A row has one value for each column. The statement may also select an expression, in which
    ``{}`` stands for ``value``.
    """
    values: list[Value] = []
    for table, of_table in rows.items():
        columns = zip(*of_table, strict=True)
        values += map(array, table.columns.values(), columns)
    if select:
        values.append(value)
    return Statement(_insert_all(tuple(rows), select), values)


def find(table: Table, keys: Collection[Sequence[Any]]) -> Statement:
    """Return the statement for the rows of these keys, at least one key.

    A key has one value for each key column.
    """
    parts = zip(*keys, strict=True)
    types = [table.columns[column] for column in table.key]
    return Statement(_find(table), [*map(array, types, parts)])


@lru_cache(256)
def _insert_all(tables: tuple[Table, ...], select: str) -> bytes:
    """Return one INSERT for all these tables. Its parameters are all columns, then the value.

    A statement for each table would cost more than the rows, if the rows are few.
    """
    numbers = count(1)
    parts = [f"i{n} AS ({_insert(table, numbers)})" for n, table in enumerate(tables)]
    selected = select.replace("{}", f"${next(numbers)}")
    return f"WITH {', '.join(parts)} SELECT {selected}".encode()


def _insert(table: Table, numbers: Iterator[int]) -> str:
    statement = _INSERT.format(
        table=table.name,
        columns=", ".join(table.columns),
        values=", ".join(unnested(f"${next(numbers)}", type_) for type_ in table.columns.values()),
    )
    if table.replaces:
        changed = [c for c in table.columns if c not in table.key]
        changes = ", ".join(f"{c} = excluded.{c}" for c in changed)
        statement += _REPLACE.format(key=", ".join(table.key), changes=changes)
    return statement


@lru_cache(64)
def _find(table: Table) -> bytes:
    types = enumerate((table.columns[column] for column in table.key), 1)
    return _FIND.format(
        table=table.name,
        columns=", ".join(table.columns),
        keys=", ".join(f"${number}::{type_}[]" for number, type_ in types),
        key=", ".join(table.key),
        is_asked=" AND ".join(f"stored.{column} = asked.{column}" for column in table.key),
    ).encode()
