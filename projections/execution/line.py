"""The fold of one line, and its JSON: the same for the present row and for rows of the past.

The fold is the domain's aggregate plus the counts of the line's runs and check-ins (contract,
State). A row shows three parts, each of them ready JSON. The *version* (``head`` of list row and
detail, ``extra`` of the detail) changes only with the line's own stream. The *counts* and the
*metrics* change with its runs and check-ins. The tables of the past have every version and every
step (counts and metrics); an answer for an instant joins the version and the step that held then.

Metrics that follow the clock ("this week", "today") are kept per period, for the two latest periods
with activity; the reading statement selects the current period, with the clock as a parameter. Two
periods suffice: a fact's time may lie five minutes ahead, so at most one period lies in the future.
"""

from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

import msgspec

from ledger.domain import execution_events as lines
from ledger.domain import health
from ledger.domain import run as runs
from ledger.domain.execution import Execution
from ledger.domain.recorded import Event, Recorded
from ledger.domain.values import day_of, week_of
from ledger.language.rendering import json_text, members, time_text


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """The present state, causes and tags, and the position at which they began."""

    opened: int
    """The position at which the interval began."""
    since: datetime | None
    """Effective time of the latest change of the line's state, holds or blockers."""
    turned: bool
    """Whether the state or the causes changed here, not the tags alone."""
    state: str
    causes: tuple[str, ...]
    project_tags: tuple[str, ...]


class Quiet(msgspec.Struct, frozen=True, array_like=True):
    """Since when a line is quiet: running without open runs. The instants are None otherwise."""

    position: int
    """The position at which the instants below last changed."""
    since: datetime | None
    """The last activity or change, rounded down to the minute.

    So a busy line changes it once a minute only.
    """
    changed_at: datetime | None
    """The exact instant of the last change. (``line_activity`` has that of the last activity.)"""


class LineFold(msgspec.Struct, array_like=True):
    """The fold of one line."""

    execution: Execution
    position: int = 0
    activated: int = 0
    """Position of the activation."""
    interval: Interval | None = None
    last_activity_at: datetime | None = None
    open_runs: int = 0
    hours_total: int = 0
    """In hundredths of an hour, so that sums of decimals stay exact."""
    started_runs: int = 0
    completed_runs: int = 0
    last_ended_at: datetime | None = None
    last_run_duration_ms: int | None = None
    periods: dict[date, int] = {}
    """The amount per ISO week (hundredths of hours, or check-ins) or UTC day (started runs)."""
    quiet: Quiet | None = None

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event of the line or of its runs; the result depends on fold and event only."""
        self.position = recorded.position
        if recorded.originator_id == self.execution.id:
            self.execution.evolve(recorded)
            if type(recorded.body) not in lines.CHECK_INS:
                self._note_interval()
        _COUNT[type(recorded.body)](self, recorded.body, recorded)
        self._note_quiet()

    def _note_interval(self) -> None:
        """Begin a new interval if the state, the causes or the tags have changed."""
        before, execution = self.interval, self.execution
        now = (execution.state, causes(execution), execution.project_tags)
        if before is not None:
            if now == (before.state, before.causes, before.project_tags):
                return
            turned = now[0] != before.state or set(now[1]) != set(before.causes)
        else:
            turned = True
        self.interval = Interval(self.position, execution.changed_at, turned, *now)

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
        before = self.quiet
        if before is None or before.since != since or before.changed_at != changed_at:
            self.quiet = Quiet(self.position, since, changed_at)

    def _active(self, recorded: Recorded) -> None:
        if self.last_activity_at is None or recorded.occurred_at > self.last_activity_at:
            self.last_activity_at = recorded.occurred_at

    def _add(self, period: date, amount: int) -> None:
        periods = self.periods | {period: self.periods.get(period, 0) + amount}
        self.periods = {day: periods[day] for day in sorted(periods, reverse=True)[:2]}

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
        self._ended(body, recorded)

    def _ended(self, body: runs.RunCompleted | runs.RunFailed, recorded: Recorded) -> None:
        self._active(recorded)
        if not body.late:
            self.open_runs -= 1
        if self.last_ended_at is None or recorded.occurred_at >= self.last_ended_at:
            self.last_ended_at = recorded.occurred_at
            self.last_run_duration_ms = body.duration_ms

    def _cancelled(self, body: runs.RunCancelled, recorded: Recorded) -> None:
        self._active(recorded)
        self.open_runs -= 1

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """Counts and metrics stay as they are."""


_COUNT: dict[type[Event], Callable[[LineFold, Any, Recorded], None]] = {
    lines.Activated: LineFold._activated,
    lines.Updated: LineFold._passes,
    lines.Paused: LineFold._passes,
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
    runs.RunCompleted: LineFold._completed,
    runs.RunFailed: LineFold._ended,
    runs.RunCancelled: LineFold._cancelled,
    runs.RunErased: LineFold._passes,
}

COUNTING: frozenset[type[Event]] = frozenset(
    {event for event, count in _COUNT.items() if count is not LineFold._passes}
    | {lines.HealthSignalReported}
)
"""The events that may change counts or metrics; the health score is among the metrics."""


def hundredths(hours: float | None) -> int:
    """Hours as a whole number of hundredths."""
    return round((hours or 0) * 100)


def causes(execution: Execution) -> tuple[str, ...]:
    """The distinct causes of the open blockers, in the order in which these were opened."""
    if not execution.blockers:
        return ()
    return tuple(dict.fromkeys(blocker.cause for blocker in execution.blockers.values()))


def changed_tags(before: Interval | None, after: Interval) -> Iterator[tuple[str, bool]]:
    """(tag, is_added) for each project tag that an interval adds to the one before, or removes."""
    had, has = set(before.project_tags if before is not None else ()), set(after.project_tags)
    for tag in had ^ has:
        yield tag, tag in has


Version = tuple[str, str]


def version(execution: Execution) -> Version:
    """(head, extra): the JSON members of list row and detail, and those of the detail alone."""
    score = health.score(execution.signals.values())
    status = health.status(score)
    head = {
        "id": execution.execution_id,
        "service_line_id": execution.id,
        "execution_model": execution.execution_model,
        "state": execution.state,
        "workspace_id": execution.workspace_id,
        "product_line": execution.product_line,
        "project_tags": execution.project_tags,
        "state_since": time_text(execution.state_since),
        "health_status": status,
        "started_at": time_text(execution.started_at),
    }
    signals = [
        {"signal": s.signal, "status": s.status, "value": s.value, "evidence": s.evidence}
        for s in execution.signals.values()
    ]
    extra = {
        "resources": list(execution.resources.values()),
        "health": {"score": score, "status": status, "signals": signals},
        "blockers": [
            {"id": b.id, "cause": b.cause, "reason": b.reason, "since": time_text(b.since)}
            for b in execution.blockers.values()
        ],
        "holds": [
            {"hold": h.hold, "reason": h.reason, "since": time_text(h.since), "by": h.by}
            for h in execution.holds.values()
        ],
        "closed_at": time_text(execution.closed_at),
    }
    return members(head), members(extra)


Step = tuple[str, str, str, date | None, str | None, date | None, str | None]


def step(fold: LineFold) -> Step:
    """Counts and metrics: (counts, metrics, quiet, period_1, now_1, period_2, now_2).

    ``counts`` and ``metrics`` are JSON members. ``now_1`` is the metric that follows the clock, as
    a JSON member with its comma, for ``period_1``; ``now_2`` likewise for ``period_2``. ``quiet``
    is this member for any other period.
    """
    counts = f'"last_activity_at":"{time_text(fold.last_activity_at)}","open_runs":{fold.open_runs}'
    measure, metrics = _metrics(fold)
    latest = [(period, measure(amount)) for period, amount in fold.periods.items()]
    latest += [(None, None)] * (2 - len(latest))  # type: ignore[list-item]
    return (counts, metrics, measure(0), *latest[0], *latest[1])


def _metrics(fold: LineFold) -> tuple[Callable[[int], str], str]:
    """The function that renders a period's amount, and the model's other metrics as JSON members.

    The contract's page State lists the metrics of each model.
    """
    match fold.execution.execution_model:
        case "agent_runtime":
            return _invocations, (
                f'"invocations_total":{fold.started_runs},'
                f'"last_run_duration_ms":{json_text(fold.last_run_duration_ms)}'
            )
        case "timeboxed_outcome":
            return _nothing, (
                f'"cycles_total":{fold.started_runs},"cycles_completed":{fold.completed_runs},'
                f'"last_run_duration_ms":{json_text(fold.last_run_duration_ms)}'
            )
        case "capacity" | "ongoing_sla":
            return _hours, (
                f'"hours_total":{fold.hours_total / 100},"health_score":{json_text(_score(fold))}'
            )
        case _:
            return _check_ins, f'"health_score":{json_text(_score(fold))}'


def _score(fold: LineFold) -> int | None:
    return health.score(fold.execution.signals.values())


def _invocations(amount: int) -> str:
    return f'"invocations_today":{amount},'


def _hours(amount: int) -> str:
    return f'"hours_this_week":{amount / 100},'


def _check_ins(amount: int) -> str:
    return f'"check_ins_this_week":{amount},'


def _nothing(amount: int) -> str:
    return ""
