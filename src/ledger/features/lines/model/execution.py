"""Execution: the state of one service line (contract, State).

The state follows from the stream in log order: closed once the line is closed; else paused while a
hold is on; else blocked while a blocker is open; else running or idle. The file has, in this order,
the state, the decisions (methods that check and return an event, and change nothing) and the fold,
which only assigns. The writer, the views, a rebuild and a read of the past use the same fold.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import field

from ledger.engine.values.errors import InvalidState, RunsNotSupported
from ledger.engine.values.recorded import Actor, Event, Folded, Recorded
from ledger.engine.values.values import MODELS_WITH_RUNS, Cause, HoldName, State
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model import health
from ledger.features.lines.model.execution_events import Resource
from ledger.features.lines.model.health import HealthLevel, Signal

MOST_BYTES = 512 * 1024
"""The most bytes of a line's state as JSON: each change of a line stores the whole state."""

_encode = msgspec.json.Encoder().encode

E = TypeVar("E", bound=Event)


class Began(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a lasting condition: its effective time, and the position of its event."""

    since: datetime
    position: int


STUCK = "paused or blocked"
"""The key of the state span in which a line is paused or blocked."""


class Hold(msgspec.Struct, frozen=True, array_like=True):
    """A hold that is on; ``since`` is an effective time."""

    hold: HoldName
    reason: str | None
    since: datetime
    by: Actor
    until: datetime | None = None
    """When the ledger lifts the hold; None if only its own side does."""


class Blocker(msgspec.Struct, frozen=True, array_like=True):
    """An open blocker; ``since`` is an effective time."""

    id: str
    cause: Cause
    reason: str | None
    since: datetime
    assignee: str | None
    due_at: datetime | None
    reported_by: str
    position: int = 0


class Execution(Folded, array_like=True):
    """The state of one line, folded from its own stream. Runs have streams of their own.

    Views and snapshots store many of these objects: as arrays, without field names.
    """

    organization_id: str = ""
    workspace_id: str = ""
    product_line: str = ""
    execution_model: str = ""
    execution_id: str = ""
    project_tags: tuple[str, ...] = ()
    state: State = "running"
    started_at: datetime | None = None
    state_since: datetime | None = None
    changed_at: datetime | None = None
    """Effective time of the latest change; effective times never fall along a stream."""
    idle: bool = False
    holds: dict[HoldName, Hold] = field(default_factory=dict)
    held_since: datetime | None = None
    """Since when at least one hold is on without a break; None if no hold is on."""
    blockers: dict[str, Blocker] = field(default_factory=dict)
    blocked_since: datetime | None = None
    """Since when at least one blocker is open without a break; None if no blocker is open."""
    resources: dict[str, Resource] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    """The latest signals by name, in order of their first report."""
    closed_at: datetime | None = None
    name: str | None = None
    spans: dict[str, Began] = field(default_factory=dict)
    """The span of the present state, and the span of ``STUCK`` if it applies.

    Interruptions without length do not end a span.
    """
    ended: dict[str, Began] = field(default_factory=dict)
    """The spans that ended when the present state began: they go on if it has no length."""
    busy_changed_at: datetime | None = None
    """While a line is idle, the effective time of its latest change before; else None."""
    crossed: dict[HealthLevel, Began] = field(default_factory=dict)
    """By level: the latest report that took the health to this level or worse, or back."""

    @property
    def service_line_id(self) -> str:
        return self.id

    @property
    def last_change(self) -> datetime | None:
        """The effective time of the latest change, apart from going idle and waking up."""
        return self.busy_changed_at or self.changed_at

    def is_below(self, level: HealthLevel) -> bool:
        return health.is_below(health.score(self.signals.values()), level)

    # Decisions: pure methods; each returns the event that it allows.

    def pause(
        self, hold: HoldName, reason: str | None, until: datetime | None = None
    ) -> events.Paused:
        """Put a hold on. Refused if the same hold is on, or if the line is closed."""
        self.require_open()
        if hold in self.holds:
            raise InvalidState(f"The line already has the {hold} hold.")
        return events.Paused(hold=hold, reason=reason, until=until)

    def pause_anew(
        self, hold: HoldName, reason: str | None, until: datetime | None
    ) -> events.Paused | events.HoldChanged | None:
        """Give a hold this reason and end, or put it on; None if nothing changes."""
        current = self.holds.get(hold)
        if current is None:
            return self.pause(hold, reason, until)
        if (current.reason, current.until) == (reason, until):
            return None
        return events.HoldChanged(hold=hold, reason=reason, until=until)

    def resume(self, hold: HoldName, reason: str | None) -> events.Resumed:
        """Lift a hold. Refused if it is not on: only the side that paused can resume."""
        self.require_open()
        if hold not in self.holds:
            raise InvalidState(f"The line does not have the {hold} hold.")
        return events.Resumed(hold=hold, reason=reason)

    def lift_due(self, now: datetime) -> tuple[events.Resumed, datetime] | None:
        """(event, its time) if the operator's hold has reached its end, else None."""
        hold = self.holds.get("operator")
        if hold is None or hold.until is None or hold.until > now:
            return None
        return events.Resumed(hold="operator", reason="until"), hold.until

    def block(
        self,
        blocker_id: str,
        cause: Cause,
        reason: str | None,
        assignee: str | None = None,
        due_at: datetime | None = None,
    ) -> events.Blocked:
        """Open a blocker under an id that no open blocker has."""
        self.require_open()
        if blocker_id in self.blockers:
            raise InvalidState("A blocker with this blocker_id is already open.")
        blocked = events.Blocked(
            blocker_id=blocker_id, cause=cause, reason=reason, assignee=assignee, due_at=due_at
        )
        return self._with_room(blocked, None)

    def unblock(self, blocker_id: str, reason: str | None) -> events.Unblocked:
        self.require_open()
        if blocker_id not in self.blockers:
            raise InvalidState("No blocker with this blocker_id is open.")
        return events.Unblocked(blocker_id=blocker_id, reason=reason)

    def update(self, project_tags: tuple[str, ...], name: str | None) -> events.Updated:
        self.require_open()
        replaced = (self.project_tags, self.name)
        return self._with_room(events.Updated(project_tags=project_tags, name=name), replaced)

    def allocate(self, resource: Resource) -> events.ResourceAllocated:
        self.require_open()
        replaced = self.resources.get(resource.id)
        return self._with_room(events.ResourceAllocated(resource=resource), replaced)

    def release(self, resource_id: str) -> events.ResourceReleased:
        self.require_open()
        if resource_id not in self.resources:
            raise InvalidState("No resource with this id is allocated to the line.")
        return events.ResourceReleased(id=resource_id)

    def report_signal(self, signal: Signal) -> events.HealthSignalReported:
        self.require_open()
        return self._with_room(
            events.HealthSignalReported(
                signal=signal.signal,
                status=signal.status,
                value=signal.value,
                evidence=signal.evidence,
            ),
            self.signals.get(signal.signal),
        )

    def close(self, reason: str | None) -> events.Closed:
        """Close the line. The caller must cancel its open runs in the same append."""
        self.require_open()
        return events.Closed(reason=reason)

    def go_idle(
        self, last_activity_at: datetime, open_runs: int, now: datetime, threshold: timedelta
    ) -> tuple[events.WentIdle, datetime] | None:
        """(event, its time) if a running line's idle threshold has passed, else None."""
        if self.state != "running" or open_runs or self.changed_at is None:
            return None
        due = max(last_activity_at, self.changed_at) + threshold
        if due > now:
            return None
        return events.WentIdle(threshold_seconds=int(threshold.total_seconds())), due

    def wake(
        self, activity_at: datetime, opens_run: bool, now: datetime, threshold: timedelta
    ) -> events.Woken | None:
        """The event with which an activity wakes an idle line, or None.

        An activity wakes the line if it opens a run, or if it is more recent than the threshold.
        """
        if self.state == "idle" and (opens_run or activity_at > now - threshold):
            return events.Woken()
        return None

    def require_open(self) -> None:
        if self.state == "closed":
            raise InvalidState("The line is closed.")

    def require_open_at(self, at: datetime) -> None:
        """Refuse a report about a time after the line's closing; late reports are accepted."""
        if self.closed_at is not None and at > self.closed_at:
            raise InvalidState("The line was already closed at that time.")

    def require_runs(self) -> None:
        """Refuse runs on the four continuous execution models."""
        if self.execution_model not in MODELS_WITH_RUNS:
            raise RunsNotSupported

    def require_startable(self, at: datetime) -> None:
        """Refuse the start of a run that happened while the line was held or blocked.

        A start before the present hold or blocker is accepted: it is only reported late.
        """
        self.require_open()
        began = [since for since in (self.held_since, self.blocked_since) if since is not None]
        if began and at >= min(began):
            raise InvalidState(f"The line is {self.state}: no run starts on it.")

    def _with_room(self, event: E, replaced: Any) -> E:
        """Return the event unless it makes the line's state too large, in place of ``replaced``.

        Holds are not checked: a line has at most two, and pausing a line must always succeed.
        """
        if len(_encode(self)) + len(_encode(event)) - len(_encode(replaced)) > MOST_BYTES:
            raise InvalidState(
                "The line's tags, resources, blockers and signals would be larger than 512 KB."
            )
        return event

    # The fold.

    def _changed(self, recorded: Recorded) -> datetime:
        """Set and return the effective time of a change: the event's time, or the latest change's.

        The later of the two counts, so that effective times never fall along the stream.
        """
        at = recorded.occurred_at
        if self.changed_at is not None and self.changed_at > at:
            at = self.changed_at
        self.changed_at, self.busy_changed_at = at, None
        return at

    def state_with(self, holds: Collection[HoldName]) -> State:
        if self.closed_at is not None:
            return "closed"
        if holds:
            return "paused"
        if self.blockers:
            return "blocked"
        return "idle" if self.idle else "running"

    def _settle(self, at: datetime, position: int) -> None:
        """Derive the state; ``state_since`` changes only if the state changes."""
        state = self.state_with(self.holds)
        if state == self.state:
            return
        before, self.ended = self.spans, self.ended if at == self.state_since else {}
        keys = (state, STUCK) if state in ("paused", "blocked") else (state,)
        former = self.ended | before
        self.spans = {key: former.get(key) or Began(at, position) for key in keys}
        self.ended = self.ended | {k: v for k, v in before.items() if k not in self.spans}
        self.state = state
        self.state_since = at

    def _activated(self, body: events.Activated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id or ""
        self.workspace_id = recorded.workspace_id or ""
        self.product_line = body.product_line
        self.execution_model = body.execution_model
        self.execution_id = body.execution_id
        self.project_tags = body.project_tags
        self.resources = {resource.id: resource for resource in body.resources}
        self.started_at = body.started_at
        self.name = body.name
        self.state_since = self._changed(recorded)
        self.spans = {self.state: Began(self.state_since, recorded.position)}

    def _updated(self, body: events.Updated, recorded: Recorded) -> None:
        self.project_tags = body.project_tags
        self.name = body.name

    def _paused(self, body: events.Paused, recorded: Recorded) -> None:
        at = self._changed(recorded)
        hold = Hold(body.hold, body.reason, at, recorded.actor, body.until)
        self.holds = self.holds | {body.hold: hold}
        self.held_since = self.held_since or at
        self._interrupted(at, recorded.position)

    def _hold_changed(self, body: events.HoldChanged, recorded: Recorded) -> None:
        current = self.holds.get(body.hold)
        if current is not None:
            hold = Hold(body.hold, body.reason, current.since, recorded.actor, body.until)
            self.holds = self.holds | {body.hold: hold}

    def _resumed(self, body: events.Resumed, recorded: Recorded) -> None:
        at = self._changed(recorded)
        self.holds = {name: hold for name, hold in self.holds.items() if name != body.hold}
        if not self.holds:
            self.held_since = None
        self._settle(at, recorded.position)

    def _blocked(self, body: events.Blocked, recorded: Recorded) -> None:
        at = self._changed(recorded)
        blocker = Blocker(
            body.blocker_id,
            body.cause,
            body.reason,
            at,
            body.assignee,
            body.due_at,
            recorded.reported_by,
            recorded.position,
        )
        self.blockers = self.blockers | {body.blocker_id: blocker}
        self.blocked_since = self.blocked_since or at
        self._interrupted(at, recorded.position)

    def _unblocked(self, body: events.Unblocked, recorded: Recorded) -> None:
        at = self._changed(recorded)
        self.blockers = {k: v for k, v in self.blockers.items() if k != body.blocker_id}
        if not self.blockers:
            self.blocked_since = None
        self._settle(at, recorded.position)

    def _interrupted(self, at: datetime, position: int) -> None:
        # Resume and unblock lead to running, never back to idle (contract, State).
        self.idle = False
        self._settle(at, position)

    def _went_idle(self, body: events.WentIdle, recorded: Recorded) -> None:
        self._rested(True, recorded)

    def _woken(self, body: events.Woken, recorded: Recorded) -> None:
        self._rested(False, recorded)

    def _rested(self, idle: bool, recorded: Recorded) -> None:
        self.idle, before = idle, self.last_change
        self._settle(self._changed(recorded), recorded.position)
        self.busy_changed_at = before

    def _closed(self, body: events.Closed, recorded: Recorded) -> None:
        at = self._changed(recorded)
        self.closed_at = at
        self.holds, self.held_since = {}, None
        self.blockers, self.blocked_since = {}, None
        self._settle(at, recorded.position)

    def _allocated(self, body: events.ResourceAllocated, recorded: Recorded) -> None:
        self.resources = self.resources | {body.resource.id: body.resource}

    def _released(self, body: events.ResourceReleased, recorded: Recorded) -> None:
        self.resources = {k: v for k, v in self.resources.items() if k != body.id}

    def _signalled(self, body: events.HealthSignalReported, recorded: Recorded) -> None:
        signal = Signal(body.signal, body.status, body.value, body.evidence)
        before = health.score(self.signals.values())
        self.signals = self.signals | {body.signal: signal}
        score = health.score(self.signals.values())
        for level in health.LEVELS if score != before else ():
            if health.is_below(score, level) != health.is_below(before, level):
                crossed = self.crossed.get(level)
                at = (
                    recorded.occurred_at
                    if crossed is None
                    else max(recorded.occurred_at, crossed.since)
                )
                self.crossed = self.crossed | {level: Began(at, recorded.position)}

    _APPLY: ClassVar = {
        events.Activated: _activated,
        events.Updated: _updated,
        events.Paused: _paused,
        events.HoldChanged: _hold_changed,
        events.Resumed: _resumed,
        events.Blocked: _blocked,
        events.Unblocked: _unblocked,
        events.WentIdle: _went_idle,
        events.Woken: _woken,
        events.Closed: _closed,
        events.CheckedIn: Folded._passes,
        events.CheckInVoided: Folded._passes,
        events.ResourceAllocated: _allocated,
        events.ResourceReleased: _released,
        events.HealthSignalReported: _signalled,
    }
