"""Stored events as the documentation describes them, without the ledger's code.

A stored event's state is a JSON array, whose elements have names by their places.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

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
    "traceparent",
)  # fmt: skip


def stored_object(text: str | bytes) -> dict[str, Any]:
    """A stored state as an object of names, with texts as instants and without null values."""
    elements = json.loads(text)
    named = dict(zip(_NAMES[: max(13, len(elements))], elements, strict=True))
    assert named.pop("format") == 2
    for name in ("occurred_at", "recorded_at"):
        instant = _EPOCH + timedelta(microseconds=named[name])
        named[name] = instant.isoformat().replace("+00:00", "Z")
    named["actor"] = dict(zip(("type", "id"), named["actor"], strict=True))
    if named["fact"] is not None:
        named["fact"] = dict(zip(("source", "id", "digest"), named["fact"], strict=True))
    return {name: value for name, value in named.items() if value is not None}
