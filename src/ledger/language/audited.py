"""The audit log's language: what each recorded write is called there (contract 5).

Facts are called by their type, commands and management acts by names of their own. What a write
merely causes (a line waking up, the runs that its closing cancels) is no write of anybody. Feeds
and histories call the same writes by the types of their events: ``actions_of`` knows both
languages.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ledger.domain import execution_events as lines
from ledger.domain import refusals
from ledger.domain import run as runs
from ledger.domain.events import EVENT_TABLE
from ledger.domain.recorded import Event, Recorded
from ledger.language.published import PUBLISHED, SUBJECTS, UNCHANGED_HEALTH

EntryKind = Literal["fact", "command", "refused"]


class Entry(NamedTuple):
    """What an entry says beside who and when."""

    kind: EntryKind
    action: str
    resource: dict[str, Any] | None
    code: str | None = None

    @property
    def outcome(self) -> str:
        """As the audit log calls it."""
        return "refused" if self.kind == "refused" else "succeeded"


_FACTS: Mapping[type[Event], str] = {row.event: row.fact for row in EVENT_TABLE if row.fact}

FACT_EVENT_TYPES: Sequence[tuple[str, str]] = (
    *((action, PUBLISHED[event].name) for event, action in _FACTS.items()),
    (_FACTS[lines.HealthSignalReported], UNCHANGED_HEALTH),
)
"""(action, type): what the events of accepted facts are called in histories and feeds."""

_COMMANDS: Mapping[type[Event], str | None] = {row.event: row.command for row in EVENT_TABLE}
"""The action of an event that no fact reported; None: the event is nobody's write."""

OMITTED_ACTION = "write.omitted"
"""Refusals beyond those that are recorded singly; the resource says whose and how many."""

COMMANDS: frozenset[str] = frozenset(filter(None, _COMMANDS.values())) | {OMITTED_ACTION}
"""Actions that are no facts."""

FACTS: frozenset[str] = frozenset(_FACTS.values())
"""Types of facts."""

ACTIONS: frozenset[str] = FACTS | COMMANDS | {refusals.UNKNOWN_ACTION}
"""The names of entries.

A refused fact of a type that there is not is called by that word. Any sender may invent one, so it
is none of these: such an entry is found by its outcome.
"""

SYSTEM_TYPES: frozenset[str] = frozenset(
    {"execution.idle", "execution.active", "webhook.delivery_failed"}
)
"""Types of events that only the ledger itself records: no write of anybody leads to them."""

_WRITES: Mapping[str, frozenset[str]] = {
    row.told_as: frozenset(filter(None, (row.fact, row.command)))
    for row in EVENT_TABLE
    if row.told_as is not None
}
"""Type of an event → the actions whose own event it is."""


def actions_of(word: str) -> frozenset[str]:
    """The actions that a word means: an action's name, a type of events, or both; empty: neither.

    A type finds refused facts too that a sender called by it.
    """
    if word in _WRITES:
        return _WRITES[word] | {word}
    return frozenset({word}) & ACTIONS


def entry_of(event: Recorded) -> Entry | None:
    """What the audit log says of an event; None where it is no write of anybody."""
    tell = _REFUSALS.get(type(event.body))
    if tell is not None:
        return tell(event.body, event)
    resource = {"type": SUBJECTS[event.originator_id[:3]], "id": event.originator_id}
    if event.fact is not None:
        return Entry("fact", _FACTS[type(event.body)], resource)
    if isinstance(event.body, runs.RunErased):
        # Here too: it is the audit log that is asked why something is gone.
        resource["reason"] = event.body.reason
    action = _COMMANDS[type(event.body)]
    return None if action is None else Entry("command", action, resource)


def _refused(body: refusals.WriteRefused, event: Recorded) -> Entry:
    resource = None
    if body.resource_id is not None:
        resource = {"type": body.resource_type, "id": body.resource_id}
    return Entry("refused", body.action, resource, body.code)


def _omitted(body: refusals.RefusalsOmitted, event: Recorded) -> Entry:
    credential = event.originator_id.removeprefix(refusals.STREAM_PREFIX)
    resource = {"type": "refused_writes", "id": credential, "count": body.count}
    return Entry("refused", OMITTED_ACTION, resource)


_REFUSALS: Mapping[type[Event], Callable[[Any, Recorded], Entry]] = {
    refusals.WriteRefused: _refused,
    refusals.RefusalsOmitted: _omitted,
}
