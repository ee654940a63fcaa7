"""Events as they are told outside: in feeds, histories and webhooks, and in the audit log.

The view keeps what an event does not say by itself: its type, which may depend on the events
before, and the line's state before and after. All else is in the stored event. Feeds and the audit
log tell the same times and the same actor (contract, Feeds).
"""

from typing import Any, NamedTuple

from ledger.domain.recorded import Recorded
from ledger.domain.refusals import WriteRefused
from ledger.language.audited import resource_of, write_of
from ledger.language.published import PUBLISHED, SUBJECTS
from ledger.language.rendering import time_text


class Told(NamedTuple):
    """A published event, with the facts about it that follow from the events before it."""

    event: Recorded
    type: str
    """The published type."""
    state_before: str | None
    """The line's state before the event; None at its first event, and without a line."""
    state_after: str | None
    """The line's state after the event; None without a line."""

    @property
    def states(self) -> dict[str, str | None]:
        """The line's state before and after, as fields of an answer."""
        return {"state_before": self.state_before, "state_after": self.state_after}


def line_of(event: Recorded) -> str | None:
    """The line whose history an event belongs to; None for keys, endpoints and refusals."""
    line_id = event.line_id
    return line_id if line_id.startswith("LIN") else None


def envelope_of(told: Told) -> dict[str, Any]:
    """The envelope of a published event, the same in feeds, histories and webhooks."""
    event = told.event
    payload = PUBLISHED[type(event.body)].tell(event.body)
    if told.type.startswith("execution."):
        payload |= told.states
    return {
        "id": event.event_id,
        "type": told.type,
        **_circumstances(event),
        "subject": {"type": SUBJECTS[event.originator_id[:3]], "id": event.originator_id},
        "service_line_id": line_of(event),
        "organization_id": event.organization_id,
        "workspace_id": event.workspace_id,
        "causation_id": event.causation_id,
        "payload": payload,
    }


def audit_entry_of(event: Recorded) -> dict[str, Any]:
    """The entry of a write in the audit log. The event must be a write."""
    write, body = write_of(event), event.body
    assert write is not None
    return {
        "id": f"AUD{event.event_id[3:]}",
        "action": write.action,
        "resource": resource_of(event),
        "outcome": write.outcome,
        "code": body.code if isinstance(body, WriteRefused) else None,
        "request_id": event.request_id,
        **_circumstances(event),
    }


def _circumstances(event: Recorded) -> dict[str, Any]:
    """The fields that feeds and the audit log share: times, position and actor."""
    return {
        "occurred_at": time_text(event.occurred_at),
        "recorded_at": time_text(event.recorded_at),
        "position": event.position,
        "actor": event.actor,
        "reported_by": event.reported_by,
    }
