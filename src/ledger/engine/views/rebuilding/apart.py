"""A shadow in another database than the live view's: nothing is written beside the live rows.

So a view of a standby can be compared with the log, too. The two databases have no statement in
common. Therefore both tables are read in the order of their keys, with a digest of each row, and
the rows whose digests differ are read again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.postgres.schema.table import Table
from ledger.engine.views.contract import Projection
from ledger.engine.views.rebuilding.compare import Difference, difference
from ledger.engine.views.schema import table_of

# The keys of a table in order, each with a digest of its row, and the row's position.
_SCAN = "SELECT {key}, md5(ROW({columns})::text), position FROM {table} ORDER BY {order}"

# The columns of a row as text.
_ROW = "SELECT {columns} FROM {table} WHERE {key}"

_RECORDED_AT = "SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = %s"

_AT_ONCE = 2000


class _Side(NamedTuple):
    connection: psycopg.Connection[TupleRow]
    table: str


class _Met(NamedTuple):
    """A row that the scan meets."""

    key: tuple[Any, ...]
    digest: str
    position: int


def differences_apart(
    live: psycopg.Connection[TupleRow],
    shadow: psycopg.Connection[TupleRow],
    projection: Projection,
    numbers: tuple[int, int],
) -> Iterator[Difference]:
    """The rows that differ between two generations of two databases, by table.

    ``live`` is in a transaction whose snapshot has the live rows. ``numbers`` are those of the live
    generation and of the shadow.
    """
    for table in projection.tables:
        left = _Side(live, table_of(table, numbers[0]))
        right = _Side(shadow, table_of(table, numbers[1]))
        for theirs, ours in _pairs(table, left, right):
            if theirs is None or ours is None or theirs.digest != ours.digest:
                yield _named(table, left, right, theirs, ours)


def _pairs(table: Table, live: _Side, shadow: _Side) -> Iterator[tuple[_Met | None, _Met | None]]:
    with contextlib.ExitStack() as stack:
        theirs, ours = (stack.enter_context(_walking(table, side)) for side in (live, shadow))
        left, right = next(theirs, None), next(ours, None)
        while left is not None or right is not None:
            if right is None or (left is not None and left.key < right.key):
                yield left, None
                left = next(theirs, None)
            elif left is None or right.key < left.key:
                yield None, right
                right = next(ours, None)
            else:
                yield left, right
                left, right = next(theirs, None), next(ours, None)


@contextlib.contextmanager
def _walking(table: Table, side: _Side) -> Iterator[Iterator[_Met]]:
    """Scan a table by its keys, in an order that Python has too."""
    collated = {c: f'{c} COLLATE "C"' for c, type_ in table.columns.items() if type_ == "text"}
    statement = _SCAN.format(
        key=", ".join(table.key),
        columns=", ".join(table.columns),
        table=side.table,
        order=", ".join(collated.get(column, column) for column in table.key),
    )
    with side.connection.transaction(), side.connection.cursor(name="ledger_walk") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(statement.encode())
        yield (_Met(row[:-2], row[-2], row[-1]) for row in cursor)


def _named(
    table: Table, live: _Side, shadow: _Side, theirs: _Met | None, ours: _Met | None
) -> Difference:
    met = ours or theirs
    assert met is not None
    columns: Sequence[str] = ()
    if theirs is not None and ours is not None:
        others = [column for column in table.columns if column not in table.key]
        rows = [_row(table, others, side, met.key) for side in (live, shadow)]
        columns = [c for c, a, b in zip(others, *rows, strict=True) if a != b]
    found = live.connection.execute(_RECORDED_AT, (met.position,)).fetchone()
    recorded_at = None if found is None else found[0]
    no_live, no_shadow = theirs is None, ours is None
    return difference(table, met.key, no_live, no_shadow, columns, met.position, recorded_at)


def _row(table: Table, columns: Sequence[str], side: _Side, key: Sequence[Any]) -> Sequence[Any]:
    statement = _ROW.format(
        columns=", ".join(f"{column}::text" for column in columns),
        table=side.table,
        key=" AND ".join(f"{column} = %s" for column in table.key),
    )
    (row,) = side.connection.execute(statement.encode(), key)
    return row
