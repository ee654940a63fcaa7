"""The published language: the external type and payload of each event (contract, Feeds).

It is not a dump of domain events: a field is published because consumers need it, and payloads
never have a run's input, output or error. The row of an event in its aggregate's table
(``engine/values/event_table.py``) names the published fields; the event's docstring describes the
type. ``features/feed/routes/event_types.py`` serves the payloads as JSON Schemas. Within a version
of the language, fields are only added.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from inspect import cleandoc  # Python itself cleans docstrings from 3.13 on
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from ledger.engine.values.event_table import SAME, EventRow, Part
from ledger.engine.values.recorded import Event, outside
from ledger.engine.values.rendering import time_text
from ledger.engine.values.values import InstantText, State
from ledger.features.lines.model import execution_events as lines
from ledger.features.lines.model.health import SignalStatus
from ledger.features.runs.model.token_usage import ShownTokenUsage, TokenUsage, tokens_view
from ledger.records import EVENT_TABLE

LANGUAGE_VERSION = 1

_Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
_WAYS: Mapping[Any, tuple[Any, Callable[[Any], Any]]] = {
    datetime: (_Instant, time_text),
    datetime | None: (_Instant | None, time_text),
    InstantText: (_Instant, str),
    tuple[TokenUsage, ...] | None: (list[ShownTokenUsage] | None, tokens_view),
}
"""The types of fields whose published form differs: its type, and the conversion."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of an event; all keys are always present."""


class Change(Payload, frozen=True, kw_only=True):
    """The payload of a change of a line, with the line's state before and after."""

    state_before: State | None
    state_after: State


class Published(NamedTuple):
    """How one class of events is published."""

    name: str
    payload: type[Payload]
    tell: Callable[[Any], dict[str, Any]]
    """Returns the payload's fields for an event, without the line's states."""


def _published(row: EventRow) -> Published:
    assert row.published_as is not None
    fields = _fields(row)
    payload: Any = msgspec.defstruct(
        "".join(word.capitalize() for word in row.published_as.replace(".", "_").split("_")),
        list(fields.items()),
        bases=(Change if row.published_as.startswith("execution.") else Payload,),
        namespace={"__doc__": cleandoc(row.event.__doc__ or "")},
        rename=outside,
        frozen=True,
        kw_only=True,
    )
    part = row.payload.field if isinstance(row.payload, Part) else None
    names = [(outside(name), name) for name in fields]
    types = {} if part is not None else get_type_hints(row.event)
    ways = [(key, _WAYS[types[name]][1]) for key, name in names if types.get(name) in _WAYS]

    def tell(body: Any) -> dict[str, Any]:
        source = body if part is None else getattr(body, part)
        values = {name: getattr(source, field) for name, field in names}
        for name, way in ways:
            values[name] = way(values[name])
        return values

    return Published(row.published_as, payload, tell)


def _fields(row: EventRow) -> Mapping[str, Any]:
    if isinstance(row.payload, Part):
        return row.payload.types
    types = get_type_hints(row.event)
    names = row.event.__struct_fields__ if row.payload is SAME else row.payload
    assert isinstance(names, tuple)
    return {name: _WAYS[types[name]][0] if types[name] in _WAYS else types[name] for name in names}


PUBLISHED: Mapping[type[Event], Published] = {
    row.event: _published(row) for row in EVENT_TABLE if row.published_as is not None
}

TYPES: Mapping[str, type[Payload]] = {p.name: p.payload for p in PUBLISHED.values()}

UNCHANGED_HEALTH = "health.signal_reported"
"""The type of a health report with an unchanged status: in histories, but not in feeds."""

SUBJECTS: Mapping[str, str] = {
    "LIN": "service_line",
    "RUN": "run",
    "KEY": "api_key",
    "WHK": "webhook",
    "STM": "statement",
    "WCH": "watch",
    "ALR": "alert",
    "SES": "session",
}
"""Prefix of a stream's id → the type of its resource, if the stream has the resource's id."""


def changes_health(body: lines.HealthSignalReported, before: SignalStatus | None) -> bool:
    """True if a report changes the signal's status; otherwise the score stays the same."""
    return before != body.status
