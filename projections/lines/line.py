"""The fold of one line: the domain's aggregate, and the counts of its runs and check-ins.

The contract's page State says what is counted. ``shown.py`` renders the line's JSON from the fold.

Metrics that follow the clock ("this week", "today") have one amount per period. The fold keeps the
two latest periods with activity; a read selects the period of its instant. Two periods suffice: a
fact's time may be at most five minutes ahead, so at most one period is in the future.
"""

from collections.abc import Callable, Collection, Iterator
from datetime import date, datetime
from typing import Any, NamedTuple

import msgspec

from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.values import MODELS_WITH_RUNS, day_of, week_of
from ledger.features.lines.model import execution_events as lines
from ledger.features.lines.model import health
from ledger.features.lines.model.execution import Began, Execution
from ledger.features.runs.model import run as runs


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """The values by which a line is found and counted."""

    opened: int
    since: datetime | None
    """Effective time of the latest change of the line's state, holds or blockers."""
    turned: bool
    """True if the state or the causes changed here."""
    state: str
    causes: tuple[str, ...]
    project_tags: tuple[str, ...]
    open_blockers: int
    health_score: int | None
    state_since: datetime | None

    @property
    def content(self) -> tuple[Any, ...]:
        """The values that stay the same during the interval, and ``state_since``."""
        return (self.state, self.causes, self.project_tags, self.open_blockers, self.health_score)


class Quiet(msgspec.Struct, frozen=True, array_like=True):
    """Since when a line is running without open runs; otherwise the instants are None."""

    position: int
    """The position at which the instants below last changed."""
    since: datetime | None
    """The last activity or change, rounded down: a busy line changes it once a minute."""
    changed_at: datetime | None
    """The exact instant of the last change; ``line_activity`` has the last activity."""
    held_until: datetime | None = None


class Expired(msgspec.Struct, frozen=True, array_like=True):
    """A run that failed because its lease had ended."""

    run_id: str
    at: datetime
    duration_ms: int | None


_MOST_EXPIRED = 100

_MOST_FAILURES = 20
"""A watch counts at most this many failures."""


class Totals(NamedTuple):
    """The metrics that do not follow the clock; None where the model does not show the metric."""

    hours: int | None
    """Hundredths of hours."""
    started_runs: int | None
    completed_runs: int | None
    last_run_duration_ms: int | None


class LineSums(NamedTuple):
    """Everything that counts and metrics depend on, except the health score."""

    last_activity_at: datetime | None
    open_runs: int
    totals: Totals
    periods: dict[date, int]


class LineFold(msgspec.Struct, array_like=True):
    """The fold of one line."""

    execution: Execution
    position: int = 0
    activated: int = 0
    interval: Interval | None = None
    last_activity_at: datetime | None = None
    open_runs: int = 0
    hours_total: int = 0
    """In hundredths of an hour, so that sums of decimals stay exact."""
    started_runs: int = 0
    completed_runs: int = 0
    last_ended_at: datetime | None = None
    last_ended_ms: int | None = None
    """The duration of the run that ended last, apart from failures by a lease."""
    periods: dict[date, int] = {}
    """The amount per ISO week (hundredths of hours, or check-ins) or UTC day (started runs)."""
    quiet: Quiet | None = None
    expired: tuple[Expired, ...] = ()
    """The runs that failed by their leases since the last other ending; the latest
    ``_MOST_EXPIRED``. A late ending, which may have any time, takes such a failure back."""
    failures: tuple[Began, ...] = ()
    """The ends of runs that failed since the last completed one: the first ``_MOST_FAILURES``."""

    def apply(self, recorded: Recorded) -> None:
        self.position = recorded.position
        if recorded.originator_id == self.execution.id:
            self.execution.apply(recorded)
            if type(recorded.body) not in lines.CHECK_INS:
                self._note_interval()
        _COUNT[type(recorded.body)](self, recorded.body, recorded)
        self._note_quiet()

    @property
    def last_run_duration_ms(self) -> int | None:
        last = max(self.expired, key=lambda run: run.at, default=None)
        return self.last_ended_ms if last is None else last.duration_ms

    @property
    def totals(self) -> Totals:
        model = self.execution.execution_model
        has_runs = model in MODELS_WITH_RUNS
        return Totals(
            hours=self.hours_total if model in ("capacity", "ongoing_sla") else None,
            started_runs=self.started_runs if has_runs else None,
            completed_runs=self.completed_runs if model == "timeboxed_outcome" else None,
            last_run_duration_ms=self.last_run_duration_ms if has_runs else None,
        )

    @property
    def counted(self) -> LineSums:
        return LineSums(self.last_activity_at, self.open_runs, self.totals, self.periods)

    def latest(self, since: date = date.min) -> list[tuple[date | None, int | None]]:
        """The two latest periods that end after ``since``, with their amounts."""
        found: list[tuple[date | None, int | None]] = [
            (period, amount) for period, amount in self.periods.items() if period >= since
        ]
        return found + [(None, None)] * (2 - len(found))

    def period_of(self, instant: datetime) -> date:
        """The UTC day of an instant, or the Monday of its ISO week, depending on the model."""
        is_by_day = self.execution.execution_model == "agent_runtime"
        return day_of(instant) if is_by_day else week_of(instant)

    def _note_interval(self) -> None:
        before, execution = self.interval, self.execution
        state, open_causes = execution.state, causes(execution)
        tags, blockers = execution.project_tags, len(execution.blockers)
        score = health.score(execution.signals.values())
        turned = before is None or state != before.state or set(open_causes) != set(before.causes)
        now = Interval(
            self.position,
            execution.changed_at,
            turned,
            state,
            open_causes,
            tags,
            blockers,
            score,
            execution.state_since,
        )
        if before is None or now.content != before.content:
            self.interval = now

    def _note_quiet(self) -> None:
        since = changed_at = None
        if self.execution.state == "running" and not self.open_runs:
            changed_at = since = self.execution.changed_at
            if since is None or (
                self.last_activity_at is not None and self.last_activity_at > since
            ):
                since = self.last_activity_at
            if since is not None:
                since = since.replace(second=0, microsecond=0)
        hold = self.execution.holds.get("operator")
        due = (since, changed_at, None if hold is None else hold.until)
        before = self.quiet
        if before is None or (before.since, before.changed_at, before.held_until) != due:
            self.quiet = Quiet(self.position, *due)

    def _active(self, recorded: Recorded) -> None:
        if self.last_activity_at is None or recorded.occurred_at > self.last_activity_at:
            self.last_activity_at = recorded.occurred_at

    def _add(self, period: date, amount: int) -> None:
        periods = self.periods | {period: self.periods.get(period, 0) + amount}
        if len(periods) != len(self.periods):  # the latest come first
            periods = {day: periods[day] for day in sorted(periods, reverse=True)[:2]}
        self.periods = periods

    def _count_check_in(self, hours: float | None, at: datetime, sign: int) -> None:
        amount = hundredths(hours) * sign
        self.hours_total += amount
        model = self.execution.execution_model
        if model in ("capacity", "ongoing_sla"):
            self._add(week_of(at), amount)
        elif model in ("infra_managed", "observability"):
            self._add(week_of(at), sign)

    def _activated(self, body: lines.Activated, recorded: Recorded) -> None:
        self.activated = recorded.position
        self.last_activity_at = body.started_at

    def _checked_in(self, body: lines.CheckedIn, recorded: Recorded) -> None:
        self._active(recorded)
        self._count_check_in(body.hours, recorded.occurred_at, 1)

    def _voided(self, body: lines.CheckInVoided, recorded: Recorded) -> None:
        self._count_check_in(body.hours, body.checked_in_at, -1)

    def _requested(self, body: runs.RunRequested, recorded: Recorded) -> None:
        self._active(recorded)
        self.open_runs += 1

    def _started(self, body: runs.RunStarted, recorded: Recorded) -> None:
        self._active(recorded)
        if body.run_id_origin is not None:
            self.open_runs += 1
        self.started_runs += 1
        if self.execution.execution_model == "agent_runtime":
            self._add(day_of(recorded.occurred_at), 1)

    def _completed(self, body: runs.RunCompleted, recorded: Recorded) -> None:
        self.completed_runs += 1
        self.failures = ()
        self._ended(body, recorded)

    def _ended(self, body: runs.RunCompleted | runs.RunFailed, recorded: Recorded) -> None:
        self._active(recorded)
        if not body.late:
            self.open_runs -= 1
        run_id, at = recorded.originator_id, recorded.occurred_at
        is_latest = self.last_ended_at is None or at >= self.last_ended_at
        # Newest first: among equals, this failure is the latest.
        expired = [run for run in self.expired if run.run_id != run_id]
        if isinstance(body, runs.RunFailed) and body.lease_expired:
            if is_latest:
                expired.insert(0, Expired(run_id, at, body.duration_ms))
        elif is_latest:
            self.last_ended_at, self.last_ended_ms = at, body.duration_ms
            expired = [run for run in expired if run.at > at]
        if len(expired) > _MOST_EXPIRED:
            expired.remove(min(expired, key=lambda run: run.at))
        self.expired = tuple(expired)

    def _failed(self, body: runs.RunFailed, recorded: Recorded) -> None:
        # A late failure follows one by the run's lease, which counts already.
        if not body.late and len(self.failures) < _MOST_FAILURES:
            self.failures = (*self.failures, Began(recorded.occurred_at, recorded.position))
        self._ended(body, recorded)

    def _cancelled(self, body: runs.RunCancelled, recorded: Recorded) -> None:
        self._active(recorded)
        self.open_runs -= 1

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """Counts and metrics stay as they are."""


_COUNT: dict[type[Event], Callable[[LineFold, Any, Recorded], None]] = {
    lines.Activated: LineFold._activated,
    lines.Updated: LineFold._passes,
    lines.Paused: LineFold._passes,
    lines.HoldChanged: LineFold._passes,
    lines.Resumed: LineFold._passes,
    lines.Blocked: LineFold._passes,
    lines.Unblocked: LineFold._passes,
    lines.WentIdle: LineFold._passes,
    lines.Woken: LineFold._passes,
    lines.Closed: LineFold._passes,
    lines.CheckedIn: LineFold._checked_in,
    lines.CheckInVoided: LineFold._voided,
    lines.ResourceAllocated: LineFold._passes,
    lines.ResourceReleased: LineFold._passes,
    lines.HealthSignalReported: LineFold._passes,
    runs.RunRequested: LineFold._requested,
    runs.RunStarted: LineFold._started,
    runs.RunParentGiven: LineFold._passes,
    runs.RunCompleted: LineFold._completed,
    runs.RunFailed: LineFold._failed,
    runs.RunCancelled: LineFold._cancelled,
    runs.RunUsageCorrected: LineFold._passes,
    runs.RunErased: LineFold._passes,
}

COUNTING: frozenset[type[Event]] = frozenset(
    event for event, count in _COUNT.items() if count is not LineFold._passes
)
"""The events that may change counts or metrics. The health score is compared separately."""


def hundredths(hours: float | None) -> int:
    return round((hours or 0) * 100)


def causes(execution: Execution) -> tuple[str, ...]:
    if not execution.blockers:
        return ()
    return tuple(dict.fromkeys(blocker.cause for blocker in execution.blockers.values()))


def changed(before: Collection[str], after: Collection[str]) -> Iterator[tuple[str, bool]]:
    """(mark, is_added) for each mark that was added or removed."""
    had, has = set(before), set(after)
    for mark in had ^ has:
        yield mark, mark in has
