"""Events as they are told outside: in feeds, histories and webhooks, and in the audit log.

The view keeps what an event does not say by itself: its type, which may depend on the events
before, and the line's state before and after. All else is in the stored event (contract, Feeds).
A page has a hundred of these values, so each is a struct, which is made and encoded in a third of
a dictionary's time.
"""

from typing import Any, NamedTuple

import msgspec

from ledger.domain.recorded import Actor, Recorded
from ledger.domain.refusals import WriteRefused
from ledger.domain.values import format_id, format_instant
from ledger.language.audited import resource_of, write_of
from ledger.language.published import PUBLISHED, SUBJECTS


class Told(NamedTuple):
    """A published event, with the facts about it that follow from the events before it."""

    event: Recorded
    type: str
    """The published type."""
    state_before: str | None
    """The line's state before the event; None at its first event, and without a line."""
    state_after: str | None
    """The line's state after the event; None without a line."""


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The resource of an event."""

    type: str
    id: str


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A published event, the same in feeds, histories and webhooks."""

    id: str
    type: str
    occurred_at: str
    recorded_at: str
    position: int
    actor: Actor
    reported_by: str
    subject: Subject
    service_line_id: str | None
    organization_id: str | None
    workspace_id: str | None
    causation_id: str | None
    payload: dict[str, Any]


class HistoryItem(Envelope, frozen=True, gc=False):
    """A published event in a history, with the line's state before and after."""

    state_before: str | None
    state_after: str | None


class Delivery(Envelope, frozen=True, gc=False):
    """A published event in a webhook, with its number at the endpoint."""

    sequence: int


class AuditEntry(msgspec.Struct, frozen=True, gc=False):
    """A write in the audit log."""

    id: str
    action: str
    resource: dict[str, Any] | None
    outcome: str
    code: str | None
    request_id: str | None
    occurred_at: str
    recorded_at: str
    position: int
    actor: Actor
    reported_by: str


def line_of(event: Recorded) -> str | None:
    """The line whose history an event belongs to; None for keys, endpoints and refusals."""
    line_id = event.line_id
    return line_id if line_id.startswith("LIN") else None


def envelope_of(told: Told) -> Envelope:
    """The envelope of a published event."""
    return Envelope(*_members(told))


def history_item_of(told: Told) -> HistoryItem:
    """The item of a published event in a history."""
    return HistoryItem(*_members(told, told.state_before, told.state_after))


def delivery_of(told: Told, sequence: int) -> Delivery:
    """The body of a webhook."""
    return Delivery(*_members(told, sequence))


def audit_entry_of(event: Recorded) -> AuditEntry:
    """The entry of a write in the audit log. The event must be a write."""
    write, body = write_of(event), event.body
    assert write is not None
    return AuditEntry(
        format_id("AUD", event.recorded_at.year, event.position),
        write.action,
        resource_of(event),
        write.outcome,
        body.code if isinstance(body, WriteRefused) else None,
        event.request_id,
        format_instant(event.occurred_at),
        format_instant(event.recorded_at),
        event.position,
        event.actor,
        event.reported_by,
    )


def _members(told: Told, *more: Any) -> tuple[Any, ...]:
    """The values of an envelope in the order of its fields, and more behind them."""
    event, type_, before, after = told
    payload = PUBLISHED[type(event.body)].tell(event.body)
    if type_.startswith("execution."):
        payload["state_before"], payload["state_after"] = before, after
    stream = event.originator_id
    return (
        event.event_id,
        type_,
        format_instant(event.occurred_at),
        format_instant(event.recorded_at),
        event.position,
        event.actor,
        event.reported_by,
        Subject(SUBJECTS[stream[:3]], stream),
        line_of(event),
        event.organization_id,
        event.workspace_id,
        event.causation_id,
        payload,
        *more,
    )
