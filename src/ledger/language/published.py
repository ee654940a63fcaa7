"""The published language: what an event of ours is called outside, and what it says (contract 5).

It is a language of its own, not a dump of domain events: a field is told because somebody outside
needs it, and payloads never carry a run's input, output or error. Which fields of an event are told
stands in its row of the aggregate's table (``domain/event_table.py``); its docstring is the type's
description. ``api/routes/event_types.py`` serves the payloads as JSON Schemas. Within a version
fields are only added.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from inspect import cleandoc  # Python itself does so from 3.13 on
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec

from ledger.domain import execution_events as lines
from ledger.domain.event_table import SAME, EventRow, Part
from ledger.domain.events import EVENT_TABLE
from ledger.domain.health import SignalStatus
from ledger.domain.recorded import Event
from ledger.domain.values import State
from ledger.language.rendering import time_text

LANGUAGE_VERSION = 1
"""Of the language as a whole."""

_Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event says; all keys are always there."""


class Change(Payload, frozen=True, kw_only=True):
    """What happened to a line, with its state before and after."""

    state_before: State | None
    state_after: State


class Published(NamedTuple):
    """How one kind of event is told."""

    name: str
    """Its type, outside."""
    payload: type[Payload]
    tell: Callable[[Any], dict[str, Any]]
    """The payload's fields of an event, but for the states."""


def _published(row: EventRow) -> Published:
    assert row.told_as is not None
    fields = _fields(row)
    payload: Any = msgspec.defstruct(
        "".join(word.capitalize() for word in row.told_as.replace(".", "_").split("_")),
        list(fields.items()),
        bases=(Change if row.told_as.startswith("execution.") else Payload,),
        namespace={"__doc__": cleandoc(row.event.__doc__ or "")},
        frozen=True,
        kw_only=True,
    )
    part = row.told.field if isinstance(row.told, Part) else None
    instants = frozenset(name for name, type_ in fields.items() if type_ is _Instant)
    names = tuple(fields)

    def tell(body: Any) -> dict[str, Any]:
        said = body if part is None else getattr(body, part)
        told = {name: getattr(said, name) for name in names}
        for name in instants:
            told[name] = time_text(told[name])
        return told

    return Published(row.told_as, payload, tell)


def _fields(row: EventRow) -> Mapping[str, Any]:
    """The fields that are told, with their types outside."""
    if isinstance(row.told, Part):
        return row.told.types
    types = get_type_hints(row.event)
    names = row.event.__struct_fields__ if row.told is SAME else row.told
    assert isinstance(names, tuple)
    return {name: _Instant if types[name] is datetime else types[name] for name in names}


PUBLISHED: Mapping[type[Event], Published] = {
    row.event: _published(row) for row in EVENT_TABLE if row.told_as is not None
}

TYPES: Mapping[str, type[Payload]] = {p.name: p.payload for p in PUBLISHED.values()}
"""Every type of the language, with its payload (contract 5)."""

UNCHANGED_HEALTH = "health.signal_reported"
"""A health report that left the signal's status as it was: in a line's history, not in feeds."""

SUBJECTS: Mapping[str, str] = {
    "LIN": "service_line",
    "RUN": "run",
    "KEY": "api_key",
    "WHK": "webhook",
}
"""What kind of thing a stream's prefix says it is."""


def changes_health(body: lines.HealthSignalReported, before: SignalStatus | None) -> bool:
    """Whether a report changes the signal's status; the score never changes without one."""
    return before != body.status
