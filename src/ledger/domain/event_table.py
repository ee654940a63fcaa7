"""What an event means to everybody but its own aggregate: a row a class, in the class's module.

    EXECUTION_TABLE, RUN_TABLE …  ─▶  events.EVENT_TABLE  ─▶  codec             topics
                                                          ─▶  published         types and payloads
                                                          ─▶  audited           actions
                                                          ─▶  decision_tables   notes

A row has a word for "nothing" in each column, so that none is left out by accident.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from ledger.domain.recorded import Event


class Note(Enum):
    """What decisions that span streams note of an event (``log/decisions.py``)."""

    PASSES = auto()
    """Nothing."""
    LINE_BEGAN = auto()
    CHECKED_IN = auto()
    CHECK_IN_VOIDED = auto()
    RUN_REQUESTED = auto()
    RUN_STARTED = auto()
    RUN_ENDED = auto()
    RUN_CANCELLED = auto()
    RUN_ERASED = auto()
    KEY_CREATED = auto()
    KEY_REVOKED = auto()
    ENDPOINT_CREATED = auto()
    ENDPOINT_DELETED = auto()


PASSES: Final = Note.PASSES


class _Same(Enum):
    SAME = auto()


SAME: Final = _Same.SAME
"""All fields are told, as they are and in their order."""


class Part(NamedTuple):
    """The fields of one field's value are told instead, with these types outside."""

    field: str
    types: Mapping[str, Any]


Told = _Same | tuple[str, ...] | Part
"""What is told outside of an event's fields: all, some of them in this order, or a part's.

Instants are told as texts. A payload is called after its type, and described by the docstring of
the event.
"""


class EventRow(NamedTuple):
    """One class of events."""

    event: type[Event]
    told_as: str | None
    """Its type in feeds, histories and webhooks (contract 5); None: nobody outside is told."""
    told: Told | None
    """Its payload there; ``execution.*`` have the line's states besides."""
    fact: str | None
    """The type of the fact that it records: so the audit log calls it then."""
    command: str | None
    """What the audit log calls it where no fact was reported; None: nobody's write."""
    noted: Note
