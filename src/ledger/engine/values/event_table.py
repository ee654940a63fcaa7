"""The meaning of events outside their aggregates: a row per event class, in the class's module.

    EXECUTION_TABLE, RUN_TABLE …  ─▶  records.EVENT_TABLE  ─▶  codec       topics
                                                           ─▶  published   types and payloads
                                                           ─▶  audited     actions
                                                           ─▶  decisions   notes

A row fills every column, if need be with a word for "nothing", so that none is forgotten.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from ledger.engine.values.recorded import Event

LANGUAGE = 1
"""The number of the language of events that this version understands: the highest ``since``."""


class DecisionEffect(Enum):
    """The change that an event makes to the decision tables (``engine/log/decisions.py``)."""

    PASSES = auto()
    IDENTIFIED = auto()
    """Only the event's own ``identities``."""
    ISSUED = auto()
    """A stream with an issued id begins; the event's own ``identities`` are noted too."""
    OWNED = auto()
    """The organization owns one more of the things that are counted: endpoints, watches."""
    DISOWNED = auto()
    LINE_BEGAN = auto()
    CHECKED_IN = auto()
    RUN_REQUESTED = auto()
    RUN_STARTED = auto()
    RUN_ENDED = auto()
    RUN_CANCELLED = auto()
    RUN_MOVED = auto()
    """Only the version of the run's stream."""
    RUN_ERASED = auto()
    KEY_CREATED = auto()
    KEY_CHANGED = auto()


PASSES: Final = DecisionEffect.PASSES


class _Same(Enum):
    SAME = auto()


SAME: Final = _Same.SAME
"""Publish all fields, unchanged and in their order."""


class Part(NamedTuple):
    """The payload is the value of one field; ``types`` are its fields' types."""

    field: str
    types: Mapping[str, Any]


PayloadFields = _Same | tuple[str, ...] | Part
"""The published fields of an event: all, some in this order, or those of a part.

Instants are published as texts. The payload's class is named after the published type, and the
event's docstring describes it.
"""


EVERY_TYPE = "*"
"""Stands for all published types."""


class EventRow(NamedTuple):
    """The row of one event class."""

    event: type[Event]
    published_as: str | None
    """The type in feeds, histories and webhooks (contract, Feeds); None if it is not published."""
    payload: PayloadFields | None
    """The payload there; events ``execution.*`` also have the line's states."""
    fact: str | None
    """The type of the fact that the event records, which is then the audit log's action."""
    command: str | None
    """The audit log's action if no fact was reported; None if the event is not a write."""
    noted: DecisionEffect
    since: int = 1
    """The first language with this event. It is recorded only while all beating nodes understand it
    (contract, Several nodes)."""
