"""Differences and findings of the comparisons of stored data with the log (contract, Proof).

A finding is the result of the last comparison of a part. ``ledger.verification`` stores it until
the same part is compared again. While any finding has a difference, the service is degraded.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg

from ledger.engine.values.values import escaped
from ledger.engine.views.definitions import Differing

NEW = "new"
"""The events since the last nightly comparison, with their leaves and checkpoints."""

OLD = tuple(f"old_{number}" for number in range(1, 8))
"""The older events, in seven parts. Each night compares one part."""

TABLES = "tables"
"""The tables on which decisions rest, against all events."""

SCHEMA = "schema"
"""The definitions of the schema's objects, against those that the code makes."""

NAMED = 100
"""The most differences that a finding names; all are counted."""

KEEP = """
INSERT INTO ledger.verification
    (part, started_at, ended_at, first, last, compared, differences, named)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s::jsonb)
ON CONFLICT (part) DO UPDATE SET started_at = excluded.started_at, ended_at = excluded.ended_at,
    first = excluded.first, last = excluded.last, compared = excluded.compared,
    differences = excluded.differences, named = excluded.named
"""

FINDINGS = """
SELECT part, started_at, ended_at, first, last, compared, differences, named
FROM ledger.verification ORDER BY part
"""


class Difference(NamedTuple):
    """A stored row, or a column of it, that differs from the log."""

    table: str
    """The table without the schema, which is ``ledger``; or the kind of an object of the schema."""
    key: str
    """The row's key as columns and values, such as ``notification_id=12``; or the object's name."""
    column: str | None
    """The column that differs. None if the row is missing, if the log has no such row, or if an
    object of the schema differs."""
    says: str

    @classmethod
    def of_object(cls, found: Differing) -> "Difference":
        kind, name, says = found.printable
        return cls(kind, name, None, says)

    def __str__(self) -> str:
        return escaped(f"{self.table} {self.key}: {self.says}")


Report = Callable[[Difference], None]

Progress = Callable[[int, int], None]
"""Takes the position that was reached, and the last one."""


class Finding(NamedTuple):
    """The result of the last comparison of a part."""

    part: str
    started_at: datetime
    ended_at: datetime
    first: int
    """The position of the first event that was compared; 0 if none was."""
    last: int
    compared: int
    """The number of events, of rows of the derived tables, or of objects of the schema."""
    differences: int
    named: Sequence[dict[str, Any]] = ()
    """The first ``NAMED`` differences: {table, key, column}; the column is null for whole rows."""


def keep(connection: psycopg.Connection[Any], finding: Finding) -> None:
    """Store a finding, in place of the earlier one of its part."""
    named = msgspec.json.encode(finding.named).decode()
    connection.execute(KEEP, (*finding[:-1], named))


def findings(connection: psycopg.Connection[Any]) -> dict[str, Finding]:
    return {row[0]: Finding(*row) for row in connection.execute(FINDINGS)}


def as_named(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    return [
        {"table": table, "key": key, "column": column}
        for table, key, column, _ in differences[:NAMED]
    ]
