"""The data of each type of facts with all of its fields, from the golden sample of its event."""

from typing import Any

import msgspec

from ledger.engine.values.event_table import EventRow, Part
from ledger.engine.values.recorded import Event
from ledger.features.facts.fact_types import FACT_TYPES
from ledger.records import EVENT_TABLE
from tests.whole.golden.samples import BODIES, GROWN_BODIES, envelope

FULL: dict[type[Event], Event] = {type(body): body for body in (*BODIES, *GROWN_BODIES)}
"""The fullest sample of each class."""


def _data(row: EventRow) -> dict[str, Any]:
    """The values of the envelope, and those of the body or of the part that is published."""
    recorded = envelope(FULL[row.event])
    part = (
        getattr(recorded.body, row.payload.field)
        if isinstance(row.payload, Part)
        else recorded.body
    )
    values = _as_json(recorded) | _as_json(part)
    fields = FACT_TYPES[row.fact or ""].data.model_fields
    return {name: values[name] for name in fields if name in values}


def _as_json(value: msgspec.Struct) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, Any])


RECORDED_AS = {row.fact: row.event for row in EVENT_TABLE if row.fact in FACT_TYPES}
"""The type of each fact → the event that records it."""

DATA = {row.fact: _data(row) for row in EVENT_TABLE if row.fact in FACT_TYPES and row.event in FULL}
"""The type of each fact → its data, if the event has a sample."""

_ONCE = {"service_line.activated", "service_line.closed", "execution.check_in_voided"}
"""The facts that begin a line, end it, or name another fact."""

ON_OPEN_LINES = {
    type: data
    for type, data in DATA.items()
    if FACT_TYPES[type].subject == "line" and type not in _ONCE
}
"""Of ``DATA``, those that an open line takes one after the other."""
