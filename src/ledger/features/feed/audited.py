"""The audit log's language: the name of each write and read there (contract, Feeds).

The action of a fact is the fact's type; commands and management acts have their own names. An event
that a write merely causes (a line wakes up, a closing cancels runs) is not a write and has no
entry. Feeds and histories name writes by event type: ``actions_of`` understands both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.engine.values import refusals
from ledger.engine.values.recorded import Event, Recorded
from ledger.features.directory import model as directory
from ledger.features.feed.published import PUBLISHED, SUBJECTS, UNCHANGED_HEALTH
from ledger.features.lines.model import execution_events as lines
from ledger.features.runs.model import reads
from ledger.features.runs.model import run as runs
from ledger.features.sign_in import model as session
from ledger.records import EVENT_TABLE

EntryKind = Literal["fact", "command", "refused", "read"]
Outcome = Literal["succeeded", "refused", "read"]


SessionWord = Literal["provider", "token", "self", "administrator"]
"""How a person signed in, or who ended the session."""


class Write(NamedTuple):
    """The write, or the read, that an event records."""

    kind: EntryKind
    action: str
    outcome: Outcome


class AuditResource(msgspec.Struct, frozen=True, gc=False):
    """The resource of a write.

    ``count`` is present if the entry stands for that many refused writes, ``reason`` if the write
    erased a run. Of a session, ``by`` says how the person signed in, or who ended it; at its
    beginning ``provider`` is the issuer, or null, and ``permissions`` are those in the tenant.
    """

    type: str
    id: str
    count: int | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | msgspec.UnsetType | None = msgspec.UNSET
    by: SessionWord | msgspec.UnsetType = msgspec.UNSET
    provider: str | msgspec.UnsetType | None = msgspec.UNSET
    permissions: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


_FACTS: Mapping[type[Event], str] = {row.event: row.fact for row in EVENT_TABLE if row.fact}

FACT_EVENT_TYPES: Sequence[tuple[str, str]] = (
    *((action, PUBLISHED[event].name) for event, action in _FACTS.items()),
    (_FACTS[lines.HealthSignalReported], UNCHANGED_HEALTH),
)
"""(action, type) pairs: the event types of accepted facts in histories and feeds."""

_COMMANDS: Mapping[type[Event], str | None] = {row.event: row.command for row in EVENT_TABLE}
"""The action of an event that no fact reported; None if the event is not a write."""

OMITTED_ACTION = "write.omitted"
"""The action of an entry that counts refusals; its resource has the credential and the count."""

COMMANDS: frozenset[str] = frozenset(filter(None, _COMMANDS.values())) | {
    OMITTED_ACTION,
    reads.READ_ACTION,
    session.REFUSED_ACTION,
}
"""Actions that are not types of facts."""

FACTS: frozenset[str] = frozenset(_FACTS.values())

ACTIONS: frozenset[str] = FACTS | COMMANDS | {refusals.UNKNOWN_ACTION}
"""The known actions of entries.

The action of a refused fact of an unknown type is the type as sent. Senders can invent such types,
so they are not listed here: a reader finds these entries by their outcome.
"""

_WRITES: Mapping[str, frozenset[str]] = {
    row.published_as: frozenset(filter(None, (row.fact, row.command)))
    for row in EVENT_TABLE
    if row.published_as is not None
}
"""Event type → the actions whose writes record such an event."""


def actions_of(word: str) -> frozenset[str]:
    """The actions that a word means: an action, an event type, or both; empty if neither.

    An event type's actions include the type itself, to find refused facts of this type too.
    """
    if word in _WRITES:
        return _WRITES[word] | {word}
    return frozenset({word}) & ACTIONS


_FACT_WRITES = {event: Write("fact", action, "succeeded") for event, action in _FACTS.items()}
_COMMAND_WRITES = {
    event: None if action is None else Write("command", action, "succeeded")
    for event, action in _COMMANDS.items()
}


def write_of(event: Recorded) -> Write | None:
    """The entry that an event records; None if another write merely caused the event."""
    body = event.body
    if event.fact is not None:
        return _FACT_WRITES[type(body)]
    if isinstance(body, refusals.WriteRefused):
        return Write("refused", body.action, "refused")
    if isinstance(body, refusals.RefusalsOmitted):
        return Write("refused", OMITTED_ACTION, "refused")
    if isinstance(body, reads.RunDataRead):
        return Write("read", reads.READ_ACTION, "read")
    return _COMMAND_WRITES[type(body)]


def resource_of(event: Recorded) -> AuditResource | None:
    """The resource of a write in the audit log; None if a refused write named none."""
    tell = _RESOURCES.get(type(event.body))
    return subject_of(event.originator_id) if tell is None else tell(event.body, event)


def about_line_of(event: Recorded, line_id: str | None) -> str | None:
    """The line that an entry is about; ``line_id`` is the line whose history has the event.

    Refused writes and reads are in no line's history: they name their resource or line.
    """
    body = event.body
    if isinstance(body, reads.RunDataRead):
        return body.service_line_id
    if not isinstance(body, refusals.WriteRefused):
        return line_id
    return body.resource_id if body.resource_type == SUBJECTS["LIN"] else None


def subject_of(stream: str) -> AuditResource:
    kind = SUBJECTS.get(stream[:3])
    if kind is None:
        identifier = directory.id_of(stream)
        return AuditResource(directory.kind_of(identifier), identifier)
    return AuditResource(kind, stream)


def _erased(body: runs.RunErased, event: Recorded) -> AuditResource:
    return AuditResource(SUBJECTS["RUN"], event.originator_id, reason=body.reason)


def _refused(body: refusals.WriteRefused, event: Recorded) -> AuditResource | None:
    if body.resource_type is None or body.resource_id is None:
        return None
    return AuditResource(body.resource_type, body.resource_id)


def _read(body: reads.RunDataRead, event: Recorded) -> AuditResource:
    return AuditResource(SUBJECTS["LIN"], body.service_line_id)


def _omitted(body: refusals.RefusalsOmitted, event: Recorded) -> AuditResource:
    credential = event.originator_id.removeprefix(refusals.STREAM_PREFIX)
    return AuditResource("refused_writes", credential, count=body.count)


def _begun(body: session.SessionBegun, event: Recorded) -> AuditResource:
    return AuditResource(
        SUBJECTS["SES"],
        event.originator_id,
        by=body.by,
        provider=body.issuer,
        permissions=body.permissions,
    )


def _ended(body: session.SessionEnded, event: Recorded) -> AuditResource:
    return AuditResource(SUBJECTS["SES"], event.originator_id, by=body.by)


_RESOURCES: Mapping[type[Event], Callable[[Any, Recorded], AuditResource | None]] = {
    runs.RunErased: _erased,
    refusals.WriteRefused: _refused,
    refusals.RefusalsOmitted: _omitted,
    reads.RunDataRead: _read,
    session.SessionBegun: _begun,
    session.SessionEnded: _ended,
}
"""The resources that differ from the event's stream."""
