"""The published language: what an event of ours is called outside, and what it says (contract 5).

It is a language of its own, not a dump of domain events: a field appears here because somebody
outside needs it, and payloads never carry a run's input, output or error. Each class below is one
type's payload, and its docstring the type's description; ``api/event_types.py`` serves them as
JSON Schemas. Within a version fields are only added.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from ledger.domain import endpoint as endpoints
from ledger.domain import execution_events as lines
from ledger.domain import run as runs
from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.recorded import Event
from ledger.domain.values import Cause, ExecutionModel, HoldName, ProductLine, State
from ledger.projection.rendering import time_text

VERSION = 1
"""Of the language as a whole."""

Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an event says; all keys are always there."""


class Change(Payload, frozen=True, kw_only=True):
    """What happened to a line, with its state before and after."""

    state_before: State | None
    state_after: State


class ExecutionStarted(Change, frozen=True, kw_only=True):
    """A service line became active: its execution record exists from here on."""

    execution_id: str
    product_line: ProductLine
    execution_model: ExecutionModel
    project_tags: list[str]
    resources: list[lines.Resource]
    started_at: Instant


class ExecutionUpdated(Change, frozen=True, kw_only=True):
    """The line's project tags were replaced."""

    project_tags: list[str]


class ExecutionPaused(Change, frozen=True, kw_only=True):
    """A hold was put on the line: work stops until the same side lifts it."""

    hold: HoldName
    reason: str | None


class ExecutionResumed(Change, frozen=True, kw_only=True):
    """A hold was lifted by the side that had put it on."""

    hold: HoldName
    reason: str | None


class ExecutionBlocked(Change, frozen=True, kw_only=True):
    """A blocker was opened: someone must act before the line can go on."""

    blocker_id: str
    cause: Cause
    reason: str | None


class ExecutionUnblocked(Change, frozen=True, kw_only=True):
    """A blocker was cleared."""

    blocker_id: str
    reason: str | None


class ExecutionIdle(Change, frozen=True, kw_only=True):
    """The line had no open run and no activity for its threshold."""

    threshold_seconds: int


class ExecutionActive(Change, frozen=True, kw_only=True):
    """An activity ended the line's idleness; its own event follows."""


class ExecutionClosed(Change, frozen=True, kw_only=True):
    """The line ended; its open runs were cancelled just before."""

    reason: str | None


class ExecutionCheckedIn(Change, frozen=True, kw_only=True):
    """Work was reported on the line."""

    hours: float | None
    note: str | None
    resource_id: str | None


class ExecutionCheckInVoided(Change, frozen=True, kw_only=True):
    """A check-in no longer counts; what it said is repeated."""

    fact_id: str
    reason: str | None
    hours: float | None
    resource_id: str | None
    checked_in_at: Instant


class ResourceAllocated(Payload, frozen=True, kw_only=True):
    """A resource was allocated to the line; the same id again replaces it."""

    type: str
    id: str
    name: str | None
    role: str | None
    allocated_hours_per_week: float | None
    status: str


class ResourceReleased(Payload, frozen=True, kw_only=True):
    """A resource left the line."""

    id: str


class HealthChanged(Payload, frozen=True, kw_only=True):
    """A health signal has another status than before, or a first one."""

    signal: SignalName
    status: SignalStatus
    value: Any
    evidence: Any


class RunRequested(Payload, frozen=True, kw_only=True):
    """A run was asked for: it is pending until it starts."""

    triggered_by: runs.Trigger | None


class RunStarted(Payload, frozen=True, kw_only=True):
    """A run began."""

    triggered_by: runs.Trigger | None


class RunCompleted(Payload, frozen=True, kw_only=True):
    """A run came to its end as meant; ``late`` when its line's closing had cancelled it."""

    tokens_used: int | None
    duration_ms: int | None
    late: bool


class RunFailed(Payload, frozen=True, kw_only=True):
    """A run ended in an error; ``late`` when its line's closing had cancelled it."""

    tokens_used: int | None
    duration_ms: int | None
    late: bool


class RunCancelled(Payload, frozen=True, kw_only=True):
    """A run was called off, by its reporter or because its line closed."""

    reason: str | None
    by_closing: bool
    duration_ms: int | None


class RunErased(Payload, frozen=True, kw_only=True):
    """A run's input, output and error became unreadable for good."""

    reason: str


class WebhookDeliveryFailed(Payload, frozen=True, kw_only=True):
    """The last attempt to deliver an event to a webhook endpoint failed; the subject is that one.

    The endpoint itself is not told so.
    """

    event_id: str
    sequence: int
    attempts: int
    response_status: int | None
    error: str | None


class Published(NamedTuple):
    """How one kind of event is told."""

    name: str
    """Its type, outside."""
    payload: type[Payload]
    tell: Callable[[Any], dict[str, Any]]
    """The payload's fields of an event, but for the states."""


def _same(type_: str, payload: type[Payload]) -> Published:
    """An event whose payload has fields of the event as they are."""
    states = Change.__struct_fields__
    names = [name for name in payload.__struct_fields__ if name not in states]
    return Published(type_, payload, lambda body: {name: getattr(body, name) for name in names})


def _started(body: lines.Activated) -> dict[str, Any]:
    return {
        "execution_id": body.execution_id,
        "product_line": body.product_line,
        "execution_model": body.execution_model,
        "project_tags": body.project_tags,
        "resources": body.resources,
        "started_at": time_text(body.started_at),
    }


def _voided(body: lines.CheckInVoided) -> dict[str, Any]:
    return {
        "fact_id": body.fact_id,
        "reason": body.reason,
        "hours": body.hours,
        "resource_id": body.resource_id,
        "checked_in_at": time_text(body.checked_in_at),
    }


def _allocated(body: lines.ResourceAllocated) -> dict[str, Any]:
    return {name: getattr(body.resource, name) for name in lines.Resource.__struct_fields__}


PUBLISHED: Mapping[type[Event], Published] = {
    lines.Activated: Published("execution.started", ExecutionStarted, _started),
    lines.Updated: _same("execution.updated", ExecutionUpdated),
    lines.Paused: _same("execution.paused", ExecutionPaused),
    lines.Resumed: _same("execution.resumed", ExecutionResumed),
    lines.Blocked: _same("execution.blocked", ExecutionBlocked),
    lines.Unblocked: _same("execution.unblocked", ExecutionUnblocked),
    lines.WentIdle: _same("execution.idle", ExecutionIdle),
    lines.Woken: _same("execution.active", ExecutionActive),
    lines.Closed: _same("execution.closed", ExecutionClosed),
    lines.CheckedIn: _same("execution.checked_in", ExecutionCheckedIn),
    lines.CheckInVoided: Published("execution.check_in_voided", ExecutionCheckInVoided, _voided),
    lines.ResourceAllocated: Published("resource.allocated", ResourceAllocated, _allocated),
    lines.ResourceReleased: _same("resource.released", ResourceReleased),
    lines.HealthSignalReported: _same("health.changed", HealthChanged),
    runs.RunRequested: _same("run.requested", RunRequested),
    runs.RunStarted: _same("run.started", RunStarted),
    runs.RunCompleted: _same("run.completed", RunCompleted),
    runs.RunFailed: _same("run.failed", RunFailed),
    runs.RunCancelled: _same("run.cancelled", RunCancelled),
    runs.RunErased: _same("run.erased", RunErased),
    endpoints.WebhookDeliveryFailed: _same("webhook.delivery_failed", WebhookDeliveryFailed),
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
