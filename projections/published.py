"""The published language: what an event of ours is called outside, and what it says (contract 5).

It is a language of its own, not a dump of domain events: a field appears here because somebody
outside needs it, and payloads never carry a run's input, output or error.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ledger.domain import execution_events as lines
from ledger.domain import run as runs
from ledger.domain.recorded import Event
from ledger.projection.rendering import time_text


class Published(NamedTuple):
    """How one kind of event is told."""

    type: str
    payload: Callable[[Any], dict[str, Any]]


def _names(*names: str) -> Callable[[Any], dict[str, Any]]:
    """The payload that has these fields of the event, as they are."""
    return lambda body: {name: getattr(body, name) for name in names}


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
    lines.Activated: Published("execution.started", _started),
    lines.Updated: Published("execution.updated", _names("project_tags")),
    lines.Paused: Published("execution.paused", _names("hold", "reason")),
    lines.Resumed: Published("execution.resumed", _names("hold", "reason")),
    lines.Blocked: Published("execution.blocked", _names("blocker_id", "cause", "reason")),
    lines.Unblocked: Published("execution.unblocked", _names("blocker_id", "reason")),
    lines.WentIdle: Published("execution.idle", _names("threshold_seconds")),
    lines.Woken: Published("execution.active", _names()),
    lines.Closed: Published("execution.closed", _names("reason")),
    lines.CheckedIn: Published("execution.checked_in", _names("hours", "note", "resource_id")),
    lines.CheckInVoided: Published("execution.check_in_voided", _voided),
    lines.ResourceAllocated: Published("resource.allocated", _allocated),
    lines.ResourceReleased: Published("resource.released", _names("id")),
    lines.HealthSignalReported: Published(
        "health.changed", _names("signal", "status", "value", "evidence")
    ),
    runs.RunRequested: Published("run.requested", _names("triggered_by")),
    runs.RunStarted: Published("run.started", _names("triggered_by")),
    runs.RunCompleted: Published("run.completed", _names("tokens_used", "duration_ms", "late")),
    runs.RunFailed: Published("run.failed", _names("tokens_used", "duration_ms", "late")),
    runs.RunCancelled: Published("run.cancelled", _names("reason", "by_closing", "duration_ms")),
}

UNCHANGED_HEALTH = "health.signal_reported"
"""A health report that left the signal's status as it was: in a line's history, not in feeds."""
