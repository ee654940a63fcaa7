"""The events of a line: the events of the Execution aggregate (one stream per LIN id)."""

from datetime import datetime
from typing import Any, get_type_hints

import msgspec

from ledger.engine.values.event_table import PASSES, SAME, DecisionEffect, EventRow, Part
from ledger.engine.values.recorded import Event, Identity, Recorded
from ledger.engine.values.values import Cause, ExecutionModel, HoldName, Origin, ProductLine
from ledger.features.lines.model.health import SignalName, SignalStatus


class Resource(msgspec.Struct, frozen=True):
    """A resource allocated to a line: a person, a pod, an agent, a machine."""

    type: str
    id: str
    name: str | None = None
    role: str | None = None
    allocated_hours_per_week: int | float | None = None
    status: str = "active"


class Activated(Event, frozen=True, kw_only=True):
    """A service line became active: its execution record exists from here on."""

    TOPIC = "execution.activated/1"
    execution_id: str
    execution_id_origin: Origin
    product_line: ProductLine
    execution_model: ExecutionModel
    project_tags: tuple[str, ...] = ()
    resources: tuple[Resource, ...] = ()
    started_at: datetime
    name: str | None = None


class Updated(Event, frozen=True, kw_only=True):
    """The line's project tags or its name were replaced; the event has both as they are now."""

    TOPIC = "execution.updated/1"
    project_tags: tuple[str, ...]
    name: str | None = None


class Paused(Event, frozen=True, kw_only=True):
    """A hold was put on the line: work stops until the same side lifts the hold."""

    TOPIC = "execution.paused/1"
    hold: HoldName
    reason: str | None = None
    until: datetime | None = None
    """When the ledger lifts the hold, unless its own side does so before; None if never."""


class HoldChanged(Event, frozen=True, kw_only=True):
    """A hold that is on got this reason and this end in the place of its former ones."""

    TOPIC = "execution.hold_changed/1"
    hold: HoldName
    reason: str | None = None
    until: datetime | None = None


class Resumed(Event, frozen=True, kw_only=True):
    """A hold was lifted by the side that had put it on, or by the ledger at the hold's end."""

    TOPIC = "execution.resumed/1"
    LEADS = True
    hold: HoldName
    reason: str | None = None


class Blocked(Event, frozen=True, kw_only=True):
    """A blocker was opened: somebody must act before work on the line can continue."""

    TOPIC = "execution.blocked/1"
    blocker_id: str
    cause: Cause
    reason: str | None = None
    assignee: str | None = None
    """The person or system that should act."""
    due_at: datetime | None = None
    """By when the assignee should have acted."""


class Unblocked(Event, frozen=True, kw_only=True):
    """A blocker was cleared."""

    TOPIC = "execution.unblocked/1"
    blocker_id: str
    reason: str | None = None


class WentIdle(Event, frozen=True, kw_only=True):
    """The line had no open run and no activity for the length of its idle threshold."""

    # The event's time is the instant at which the threshold ran out.

    TOPIC = "execution.idle/1"
    threshold_seconds: int


class Woken(Event, frozen=True, kw_only=True):
    """An activity ended the line's idleness; the event of the activity follows."""

    TOPIC = "execution.active/1"
    LEADS = True


class Closed(Event, frozen=True, kw_only=True):
    """The line was closed; its open runs were cancelled just before."""

    # The closing also ends all holds and blockers.

    TOPIC = "execution.closed/1"
    reason: str | None = None


class CheckedIn(Event, frozen=True, kw_only=True):
    """Work was reported on the line."""

    TOPIC = "execution.checked_in/1"
    hours: float | None = None
    note: str | None = None
    resource_id: str | None = None


class CheckInVoided(Event, frozen=True, kw_only=True):
    """A check-in no longer counts; the event repeats its hours, time and resource."""

    # A view therefore need not look the check-in up.

    TOPIC = "execution.check_in_voided/1"
    fact_id: str
    reason: str | None = None
    hours: float | None
    checked_in_at: datetime
    resource_id: str | None

    def identities(self, recorded: Recorded) -> tuple[Identity, ...]:
        own = recorded.identity
        return () if own is None else (own._replace(name=self.fact_id).void,)


class ResourceAllocated(Event, frozen=True, kw_only=True):
    """A resource was allocated to the line; it replaces an earlier resource with the same id."""

    TOPIC = "resource.allocated/1"
    resource: Resource


class ResourceReleased(Event, frozen=True, kw_only=True):
    """A resource left the line."""

    TOPIC = "resource.released/1"
    id: str


class HealthSignalReported(Event, frozen=True, kw_only=True):
    """A health signal has a new status, or its first one."""

    # The status may also be unchanged, which only a fold can detect. Feeds and webhooks omit it.

    TOPIC = "health.signal_reported/1"
    signal: SignalName
    status: SignalStatus
    value: Any = None
    evidence: Any = None


_STARTED = (
    "execution_id",
    "product_line",
    "execution_model",
    "project_tags",
    "resources",
    "started_at",
    "name",
)
_VOIDED = ("fact_id", "reason", "hours", "resource_id", "checked_in_at")
_RESOURCE = Part("resource", get_type_hints(Resource) | {"allocated_hours_per_week": float | None})

# Columns: event, published type, published payload, fact, command, note.
EXECUTION_TABLE: tuple[EventRow, ...] = (
    EventRow(
        Activated,
        "execution.started",
        _STARTED,
        "service_line.activated",
        None,
        DecisionEffect.LINE_BEGAN,
    ),
    EventRow(Updated, "execution.updated", SAME, "service_line.updated", None, PASSES),
    EventRow(Paused, "execution.paused", SAME, "service_line.paused", "execution.pause", PASSES),
    EventRow(HoldChanged, "execution.hold_changed", SAME, None, "execution.pause", PASSES),
    EventRow(
        Resumed, "execution.resumed", SAME, "service_line.resumed", "execution.resume", PASSES
    ),
    EventRow(Blocked, "execution.blocked", SAME, "execution.blocked", None, PASSES),
    EventRow(Unblocked, "execution.unblocked", SAME, "execution.unblocked", None, PASSES),
    EventRow(WentIdle, "execution.idle", SAME, None, None, PASSES),
    EventRow(Woken, "execution.active", SAME, None, None, PASSES),
    EventRow(Closed, "execution.closed", SAME, "service_line.closed", None, PASSES),
    EventRow(
        CheckedIn,
        "execution.checked_in",
        SAME,
        "execution.checked_in",
        None,
        DecisionEffect.CHECKED_IN,
    ),
    EventRow(
        CheckInVoided,
        "execution.check_in_voided",
        _VOIDED,
        "execution.check_in_voided",
        None,
        DecisionEffect.IDENTIFIED,
    ),
    EventRow(
        ResourceAllocated, "resource.allocated", _RESOURCE, "resource.allocated", None, PASSES
    ),
    EventRow(ResourceReleased, "resource.released", SAME, "resource.released", None, PASSES),
    EventRow(HealthSignalReported, "health.changed", SAME, "health.signal_reported", None, PASSES),
)

EXECUTION_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in EXECUTION_TABLE)

CHECK_INS: frozenset[type[Event]] = frozenset({CheckedIn, CheckInVoided})
"""The events of a line's own stream that change neither its state nor its tags or resources."""
