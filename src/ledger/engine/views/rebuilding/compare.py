"""Comparing a live view with its shadow, row by row and column by column."""

import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.values import format_id, id_of_key
from ledger.engine.views.contract import Projection
from ledger.engine.views.schema import table_of

DifferenceKind = Literal["missing", "extra", "differs"]


class Difference(NamedTuple):
    """A row of the live view that differs from the fold of the log."""

    table: str
    key: str
    kind: DifferenceKind
    columns: tuple[str, ...]
    """The columns that differ, if both sides have the row."""
    event_id: str
    """The event that should have changed the row last; for an extra row, the event in the row."""


# The rows that are missing on one side or differ, and the instants of their events.
_DIFFERENCES = """
SELECT {key}, live.position IS NULL, shadow.position IS NULL,
    ARRAY_REMOVE(ARRAY[{columns}], NULL),
    COALESCE(shadow.position, live.position),
    (SELECT recorded_at FROM ledger.ledger_events
     WHERE notification_id = COALESCE(shadow.position, live.position))
FROM {live} AS live FULL JOIN {shadow} AS shadow USING ({key})
WHERE ({live_row}) IS DISTINCT FROM ({shadow_row})
ORDER BY COALESCE(shadow.position, live.position)
"""

# A digest of a table's rows, independent of their order.
_DIGEST = "SELECT bit_xor(hash_record_extended(ROW({columns}), {seed})) FROM {table}"


def differences(
    connection: psycopg.Connection[TupleRow], projection: Projection, live: int, shadow: int
) -> Iterator[Difference]:
    """The rows that differ between two generations, in the connection's snapshot, by table."""
    for table in projection.tables:
        yield from _differences(connection, table, live, shadow)


def count_differing(
    connection: psycopg.Connection[TupleRow], projection: Projection, live: int, shadow: int
) -> int:
    """Return how many rows differ between two generations, in the connection's snapshot.

    Joining two tables row by row takes longer than one scan of each, and space on the disk. So only
    tables with different digests are joined. A digest has 64 bits and a random seed: enough for an
    informal count, but not for a proof.
    """
    return sum(
        sum(1 for _ in _differences(connection, table, live, shadow))
        for table in projection.tables
        if not _agree(connection, table, live, shadow)
    )


def _agree(connection: psycopg.Connection[TupleRow], table: Table, live: int, shadow: int) -> bool:
    columns, seed = ", ".join(table.columns), secrets.randbits(63)
    digests = [
        connection.execute(
            _DIGEST.format(columns=columns, seed=seed, table=table_of(table, number)).encode()
        ).fetchone()
        for number in (live, shadow)
    ]
    return digests[0] == digests[1]


def _differences(
    connection: psycopg.Connection[TupleRow], table: Table, live: int, shadow: int
) -> Iterator[Difference]:
    with connection.cursor(name="ledger_differences") as cursor:
        cursor.execute(_statement(table, live, shadow))
        for row in cursor:
            *key, no_live, no_shadow, columns, position, recorded_at = row
            yield difference(table, key, no_live, no_shadow, columns, position, recorded_at)


def count_rows(
    connection: psycopg.Connection[TupleRow], projection: Projection, generation: int
) -> int:
    total = 0
    for table in projection.tables:
        statement = f"SELECT count(*) FROM {table_of(table, generation)}"
        ((rows,),) = connection.execute(statement.encode())
        total += rows
    return total


def difference(
    table: Table,
    key: Sequence[object],
    no_live: bool,
    no_shadow: bool,
    columns: Sequence[str],
    position: int,
    recorded_at: datetime | None,
) -> Difference:
    """The difference at a key; ``recorded_at`` is the instant of the event at the position."""
    kind: DifferenceKind = "missing" if no_live else "extra" if no_shadow else "differs"
    return Difference(
        table.name,
        " ".join(map(_rendered, map(table.prefixes.get, table.key), key)),
        kind,
        tuple(columns) if kind == "differs" else (),
        format_id("EVT", recorded_at.year if recorded_at is not None else 0, position),
    )


def _rendered(prefix: str | None, part: object) -> str:
    """A part of a key, as an id if it is an id's number."""
    return str(part) if prefix is None else id_of_key(prefix, part)  # type: ignore[arg-type]


def _statement(table: Table, live: int, shadow: int) -> bytes:
    others = [column for column in table.columns if column not in table.key]
    differing = [f"CASE WHEN live.{c} IS DISTINCT FROM shadow.{c} THEN '{c}' END" for c in others]
    return _DIFFERENCES.format(
        key=", ".join(table.key),
        columns=", ".join(differing) or "NULL::text",
        live=table_of(table, live),
        shadow=table_of(table, shadow),
        live_row=", ".join(f"live.{c}" for c in table.columns),
        shadow_row=", ".join(f"shadow.{c}" for c in table.columns),
    ).encode()
