"""Differences between a stored row and the row that follows from the log, in words."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.datetime import TimestamptzBinaryLoader

from ledger.engine.log.lineage import IDS_MOVED
from ledger.engine.log.tables import ID_COUNTER, LEASE
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.values import format_instant
from ledger.features.proof.tables import Difference

Columns = Mapping[str, Any]

MISSING = "the row is missing"
EXTRA = "the log has no such row"


class Instants(TimestamptzBinaryLoader):
    """Loads instants that Python cannot represent, such as infinity, as None."""

    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return None


def key_text(table: Table, values: Sequence[Any]) -> str:
    return " ".join(
        f"{column}={text_of(value)}" for column, value in zip(table.key, values, strict=True)
    )


def missing(table: Table, key: Sequence[Any]) -> Difference:
    return Difference(table.name, key_text(table, key), None, MISSING)


def extra(table: Table, key: Sequence[Any]) -> Difference:
    return Difference(table.name, key_text(table, key), None, EXTRA)


def differs(
    table: Table, key: Sequence[Any], column: str, stored: Any, expected: Any
) -> Difference:
    says = f"its column {column} says {text_of(stored)}, the log {text_of(expected)}"
    return Difference(table.name, key_text(table, key), column, says)


def differing(table: Table, expected: Columns, stored: Columns) -> list[str]:
    """The columns of a stored row whose values are impossible."""
    return _RULES.get(table, _unequal)(expected, stored)


def may_be_extra(table: Table, stored: Columns) -> bool:
    """Return True if the log may lack a row: a counter that began ahead of ids that may be lost."""
    return table is ID_COUNTER and (stored["last"] or 0) >= IDS_MOVED


def _unequal(expected: Columns, stored: Columns) -> list[str]:
    return [column for column, value in expected.items() if stored[column] != value]


def _differing_counter(expected: Columns, stored: Columns) -> list[str]:
    """A counter may be ahead: it only must not issue an id again."""
    return [] if (stored["last"] or 0) >= expected["last"] else ["last"]


def _differing_lease(begun: Columns, stored: Columns) -> list[str]:
    """Heartbeats only put off the end of a lease, and leave no event.

    So does time in which the service could take none, between the last heartbeat and the last
    instant at which the service listened.
    """
    heard_at, ends_at, due_at = stored["heard_at"], stored["ends_at"], stored["due_at"]
    lasts = timedelta(seconds=begun["seconds"])
    has_both = heard_at is not None and ends_at is not None
    is_ordered = has_both and ends_at >= heard_at + lasts
    sound = {
        "seconds": stored["seconds"] == begun["seconds"],
        "heard_at": is_ordered and heard_at >= begun["heard_at"],
        "ends_at": is_ordered and ends_at <= max(heard_at, stored["listened_at"]) + lasts,
        "due_at": due_at is not None and begun["due_at"] <= due_at <= (ends_at or due_at),
        "organization_id": stored["organization_id"] == begun["organization_id"],
    }
    return [column for column, is_sound in sound.items() if not is_sound]


_RULES: Mapping[Table, Callable[[Columns, Columns], list[str]]] = {
    ID_COUNTER: _differing_counter,
    LEASE: _differing_lease,
}
"""The tables with values that the log does not determine."""


def plain(value: Any) -> Any:
    """A value that psycopg loaded, in the form that rows of the fold have."""
    if isinstance(value, UUID):
        return value.bytes
    return tuple(value) if isinstance(value, list) else value


def text_of(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, datetime):
        return format_instant(value)
    return " ".join(map(text_of, value)) if isinstance(value, tuple) else str(value)
