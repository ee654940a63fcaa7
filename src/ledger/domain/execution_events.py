"""What can happen to a line: the events of the Execution stream (one stream a LIN id)."""

from datetime import datetime
from typing import Any

import msgspec

from ledger.domain.health import SignalName, SignalStatus
from ledger.domain.recorded import Event
from ledger.domain.values import Cause, ExecutionModel, HoldName, Origin, ProductLine


class Resource(msgspec.Struct, frozen=True):
    """Something allocated to a line: a person, a pod, an agent, a machine."""

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


class Updated(Event, frozen=True, kw_only=True):
    """The line's project tags were replaced."""

    TOPIC = "execution.updated/1"
    project_tags: tuple[str, ...]


class Paused(Event, frozen=True, kw_only=True):
    """A hold was put on the line: work stops until the same side lifts it."""

    TOPIC = "execution.paused/1"
    hold: HoldName
    reason: str | None = None


class Resumed(Event, frozen=True, kw_only=True):
    """A hold was lifted by the side that had put it on."""

    TOPIC = "execution.resumed/1"
    hold: HoldName
    reason: str | None = None


class Blocked(Event, frozen=True, kw_only=True):
    """A blocker was opened: someone must act before the line can go on."""

    TOPIC = "execution.blocked/1"
    blocker_id: str
    cause: Cause
    reason: str | None = None


class Unblocked(Event, frozen=True, kw_only=True):
    """A blocker was cleared."""

    TOPIC = "execution.unblocked/1"
    blocker_id: str
    reason: str | None = None


class WentIdle(Event, frozen=True, kw_only=True):
    """No open run and no activity for the threshold; occurred when the threshold ran out."""

    TOPIC = "execution.idle/1"
    threshold_seconds: int


class Woken(Event, frozen=True, kw_only=True):
    """An activity ended the line's idleness; appended before the activity that caused it."""

    TOPIC = "execution.active/1"


class Closed(Event, frozen=True, kw_only=True):
    """The line ended: holds and blockers are gone, open runs were cancelled just before."""

    TOPIC = "execution.closed/1"
    reason: str | None = None


class CheckedIn(Event, frozen=True, kw_only=True):
    """Work was reported on a line, with hours where hours count."""

    TOPIC = "execution.checked_in/1"
    hours: float | None = None
    note: str | None = None
    resource_id: str | None = None


class CheckInVoided(Event, frozen=True, kw_only=True):
    """A check-in no longer counts; repeats what it said, so that a view need not look it up."""

    TOPIC = "execution.check_in_voided/1"
    fact_id: str
    reason: str | None = None
    hours: float | None
    checked_in_at: datetime
    resource_id: str | None


class ResourceAllocated(Event, frozen=True, kw_only=True):
    """A resource was allocated to the line; the same id again replaces it."""

    TOPIC = "resource.allocated/1"
    resource: Resource


class ResourceReleased(Event, frozen=True, kw_only=True):
    """A resource left the line."""

    TOPIC = "resource.released/1"
    id: str


class HealthSignalReported(Event, frozen=True, kw_only=True):
    """A health signal was reported; whether its status changed is for the fold to see."""

    TOPIC = "health.signal_reported/1"
    signal: SignalName
    status: SignalStatus
    value: Any = None
    evidence: Any = None


EXECUTION_EVENTS: tuple[type[Event], ...] = (
    Activated,
    Updated,
    Paused,
    Resumed,
    Blocked,
    Unblocked,
    WentIdle,
    Woken,
    Closed,
    CheckedIn,
    CheckInVoided,
    ResourceAllocated,
    ResourceReleased,
    HealthSignalReported,
)
