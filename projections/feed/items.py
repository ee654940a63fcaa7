"""Found events as JSON for feeds and histories, or as events for the audit log.

A statement finds an event's row by its keys, and returns it with the stored event.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ledger.engine.log.codec import EnvelopeMapper, StoredBeginning
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.rendering import json_text
from ledger.features.feed import envelopes

COLUMNS = "position, type, state_before, state_after, stream, version, topic, state"

# Find all events before one call looks them up in the log.
_WITH_STORED = """
WITH found AS MATERIALIZED ({rows})
SELECT {columns}
FROM found LEFT JOIN ledger.stored_events(ARRAY(SELECT position FROM found)) AS stored
    USING (position)
"""

_decode = EnvelopeMapper().decode
_decode_beginning = msgspec.json.Decoder(StoredBeginning).decode


def with_stored(rows: str, *more: str) -> str:
    """SQL: the found events of ``rows`` as stored, after the columns of ``more``."""
    return _WITH_STORED.format(rows=rows, columns=", ".join((*more, COLUMNS)))


def feed_envelope(found: Sequence[Any]) -> envelopes.Envelope:
    return envelopes.envelope_of(*_parts(found))


def feed_item(found: Sequence[Any]) -> str:
    return json_text(feed_envelope(found))


def history_item(found: Sequence[Any]) -> str:
    """A found event in a history: its envelope, and the line's state before and after."""
    return json_text(envelopes.history_item_of(*_parts(found)))


def delivery_item(found: Sequence[Any], sequence: int) -> str:
    """A found event in a webhook delivery: its envelope, and its number at the endpoint."""
    return json_text(envelopes.delivery_of(*_parts(found), sequence))


def occurred_at(found: Sequence[Any]) -> int:
    """When the event occurred, in microseconds since 1970-01-01 UTC."""
    return _decode_beginning(found[-1]).occurred_at


def recorded_event(found: Sequence[Any]) -> Recorded:
    position, _, _, _, stream, version, topic, state = found
    return _decode(stream, version, topic, state, position)


def _parts(found: Sequence[Any]) -> tuple[Recorded, str, envelopes.States]:
    _, type_, before, after, *_ = found
    return recorded_event(found), type_, envelopes.States(before, after)
