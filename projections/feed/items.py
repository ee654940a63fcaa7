"""Rows of found events as the JSON of feeds and histories, or as events for the audit log.

A statement finds the row of an event by its keys, and returns it with the event as it is stored.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ledger.engine.log.codec import EnvelopeMapper, StoredBeginning
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.rendering import json_text
from ledger.features.feed import envelopes

COLUMNS = "position, type, state_before, state_after, stream, version, topic, state"
"""The columns of a found event, in the order in which this module's functions take them."""

# All events are found before any is looked up in the log, by one call.
_WITH_STORED = """
WITH found AS MATERIALIZED ({rows})
SELECT {columns}
FROM found LEFT JOIN ledger.stored_events(ARRAY(SELECT position FROM found)) AS stored
    USING (position)
"""

_decode = EnvelopeMapper().decode
_decode_beginning = msgspec.json.Decoder(StoredBeginning).decode


def with_stored(rows: str, *more: str) -> str:
    """SQL: the found events of ``rows`` as they are stored, behind the columns of ``more``."""
    return _WITH_STORED.format(rows=rows, columns=", ".join((*more, COLUMNS)))


def feed_envelope(found: Sequence[Any]) -> envelopes.Envelope:
    return envelopes.envelope_of(*_parts(found))


def feed_item(found: Sequence[Any]) -> str:
    return json_text(feed_envelope(found))


def history_item(found: Sequence[Any]) -> str:
    """A found event as a history has it: its envelope, and the line's state before and after."""
    return json_text(envelopes.history_item_of(*_parts(found)))


def delivery_item(found: Sequence[Any], sequence: int) -> str:
    """A found event as a webhook delivers it: its envelope, and its number at the endpoint."""
    return json_text(envelopes.delivery_of(*_parts(found), sequence))


def occurred_at(found: Sequence[Any]) -> int:
    """When a found event occurred, in microseconds since 1970-01-01 UTC."""
    return _decode_beginning(found[-1]).occurred_at


def recorded_event(found: Sequence[Any]) -> Recorded:
    position, _, _, _, stream, version, topic, state = found
    return _decode(stream, version, topic, state, position)


def _parts(found: Sequence[Any]) -> tuple[Recorded, str, envelopes.States]:
    _, type_, before, after, *_ = found
    return recorded_event(found), type_, envelopes.States(before, after)
