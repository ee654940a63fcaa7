"""Events as the outside sees them: in feeds, histories, webhooks and the audit log.

The view has what an event itself lacks: its type, which may depend on earlier events, and the
line's state before and after. All else is in the stored event (contract, Feeds). A page has a
hundred of these values. So each is a struct, made and encoded in a third of a dictionary's time.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from ledger.engine.values.recorded import Actor, FactIdentity, Recorded
from ledger.engine.values.refusals import WriteRefused
from ledger.engine.values.rendering import ViewInstant, doc, time_text
from ledger.engine.values.values import AUDIT_ID, EVENT_ID, State, format_id
from ledger.features.feed.audited import AuditResource, Outcome, resource_of, subject_of, write_of
from ledger.features.feed.published import PUBLISHED

T = TypeVar("T")


class FactReference(msgspec.Struct, frozen=True, gc=False):
    """The fact that an event records: `source` and `id` of the CloudEvent, as sent."""

    source: str
    id: str


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The subject of an event."""

    type: Literal["service_line", "run", "webhook", "workspace", "project", "statement", "alert"]
    id: str


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """An event as feeds and webhooks show it. `/v1/event-types` describes each type's payload."""

    id: Annotated[str, Meta(pattern=EVENT_ID)]
    type: str
    occurred_at: ViewInstant
    recorded_at: ViewInstant
    position: int
    actor: Actor
    reported_by: str
    subject: Subject
    service_line_id: str | None
    organization_id: str
    workspace_id: str | None
    causation_id: str | None
    payload: dict[str, Any]
    fact: Annotated[
        FactReference | None,
        doc("Null where no fact was reported, and on events that a fact merely caused."),
    ]
    trace_id: Annotated[
        str | None, doc("The trace of the fact's `traceparent`: 32 hexadecimal digits.")
    ]


class HistoryItem(Envelope, frozen=True, gc=False):
    """An event of a line or its runs, with the line's state before and after the event."""

    state_before: State | None
    state_after: State


class Delivery(Envelope, frozen=True, gc=False):
    """A published event in a webhook, with its number at the endpoint."""

    sequence: int


class WrongPlace(msgspec.Struct, frozen=True, gc=False):
    """A field or parameter that was wrong; what it held is not kept."""

    pointer: Annotated[str, doc("A JSON pointer; empty for the whole request.")]


class AuditEntry(msgspec.Struct, frozen=True, gc=False):
    """A write, succeeded or refused."""

    id: Annotated[str, Meta(pattern=AUDIT_ID)]
    action: str
    resource: AuditResource | None
    outcome: Outcome
    code: str | None
    errors: Annotated[
        list[WrongPlace] | None,
        doc(
            "What was wrong in a refused write, as its answer named it; empty if nothing was"
            " named. Null for other entries."
        ),
    ]
    reason: Annotated[
        str | None,
        doc(
            "Why a command was given. Null for facts, whose event has it, for refused"
            " writes, and where no reason was given."
        ),
    ]
    request_id: str | None
    occurred_at: ViewInstant
    recorded_at: ViewInstant
    position: int
    actor: Actor
    reported_by: str
    reported_by_name: Annotated[
        str | None,
        doc(
            "The present name of the API key `reported_by`. Null for other credentials,"
            " for a key without a name, and for a key that is not of the credential's tenant."
        ),
    ]
    fact: Annotated[
        FactReference | None,
        doc("The fact, also a refused one if its source and id could be read."),
    ]


class States(NamedTuple):
    """The state of an event's line before and after the event."""

    before: str | None
    """None at the line's first event, and without a line."""
    after: str | None
    """None without a line."""


def line_of(event: Recorded) -> str | None:
    """The line whose history an event belongs to; None for keys, endpoints and refusals."""
    if event.service_line_id is not None:
        return event.service_line_id
    return event.originator_id if event.originator_id.startswith("LIN") else None


def envelope_of(event: Recorded, type_: str, states: States) -> Envelope:
    return _make(Envelope, event, type_, states)


def history_item_of(event: Recorded, type_: str, states: States) -> HistoryItem:
    return _make(HistoryItem, event, type_, states, *states)


def delivery_of(event: Recorded, type_: str, states: States, sequence: int) -> Delivery:
    return _make(Delivery, event, type_, states, sequence)


def audit_entry_of(event: Recorded, reported_by_name: str | None) -> AuditEntry:
    """The entry of a write in the audit log. The event must be a write."""
    write, body = write_of(event), event.body
    assert write is not None
    return AuditEntry(
        format_id("AUD", event.recorded_at.year, event.position),
        write.action,
        resource_of(event),
        write.outcome,
        body.code if isinstance(body, WriteRefused) else None,
        list(map(WrongPlace, getattr(body, "pointers", ()))) if write.kind == "refused" else None,
        getattr(body, "reason", None) if write.kind == "command" else None,
        event.request_id,
        time_text(event.occurred_at),
        time_text(event.recorded_at),
        event.position,
        event.actor,
        event.reported_by,
        reported_by_name,
        _refused_fact(body) if isinstance(body, WriteRefused) else _recorded_fact(event.fact),
    )


def _recorded_fact(fact: FactIdentity | None) -> FactReference | None:
    return None if fact is None else FactReference(fact.source, fact.id)


def _refused_fact(body: WriteRefused) -> FactReference | None:
    """The refused fact; None for commands, and if its source or id was unreadable."""
    if body.source is None or body.fact_id is None:
        return None
    return FactReference(body.source, body.fact_id)


def _make(make: Callable[..., T], event: Recorded, type_: str, states: States, *more: Any) -> T:
    """Make a struct of an envelope's values, in the order of its fields, and ``more``."""
    payload = PUBLISHED[type(event.body)].tell(event.body)
    if type_.startswith("execution."):
        payload["state_before"], payload["state_after"] = states
    return make(
        format_id("EVT", event.recorded_at.year, event.position),
        type_,
        time_text(event.occurred_at),
        time_text(event.recorded_at),
        event.position,
        event.actor,
        event.reported_by,
        subject_of(event.originator_id),
        line_of(event),
        event.organization_id,
        event.workspace_id,
        event.causation_id,
        payload,
        _recorded_fact(event.fact),
        event.trace_id,
        *more,
    )
