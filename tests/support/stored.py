"""Stored events as the documentation describes them, without the ledger's code.

A stored event's state is JSON. In format 1 it is an object of names; in format 2 it is an array,
whose elements have the same names by their places.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

_STATES = "SELECT notification_id, state FROM ledger.ledger_events"
_STORE = "UPDATE ledger.ledger_events SET state = %s WHERE notification_id = %s"

DROP_CHECK = (
    b"ALTER TABLE ledger.ledger_events"
    b" DROP CONSTRAINT IF EXISTS ledger_events_recorded_at_as_stored"
)
"""Lets a test store what is no event, as only the owner of the database can."""

CHECK = """
SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID', conrelid::regclass, conname,
    replace(pg_get_constraintdef(oid), ' NOT VALID', ''))
FROM pg_constraint WHERE conname = 'ledger_events_recorded_at_as_stored'
"""
"""Gives the statement that makes the check again, for the rows to come."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_NAMES = (
    "format", "organization_id", "workspace_id", "service_line_id", "occurred_at", "recorded_at",
    "actor", "reported_by", "fact", "request_id", "causation_id", "nonce", "body",
)  # fmt: skip


def stored_object(text: str | bytes) -> dict[str, Any]:
    """The state of either format with the names and values of format 1, without null values."""
    stored = json.loads(text)
    return stored if isinstance(stored, dict) else _named(stored)


def store_in_format_1(conninfo: str) -> None:
    """Rewrite all stored events as versions before format 2 wrote them; no other code may."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for position, state in connection.execute(_STATES).fetchall():
            stored = msgspec.json.encode(stored_object(state))
            connection.execute(_STORE, (stored, position))


def _named(elements: list[Any]) -> dict[str, Any]:
    named = dict(zip(_NAMES, elements, strict=True))
    assert named.pop("format") == 2
    for name in ("occurred_at", "recorded_at"):
        instant = _EPOCH + timedelta(microseconds=named[name])
        named[name] = instant.isoformat().replace("+00:00", "Z")
    named["actor"] = dict(zip(("type", "id"), named["actor"], strict=True))
    if named["fact"] is not None:
        named["fact"] = dict(zip(("source", "id", "digest"), named["fact"], strict=True))
    return {name: value for name, value in named.items() if value is not None}
