"""The view behind lists, counts and details: one row a line (contract 3 and 4).

The fold is the domain's own fold of the line's stream plus what its runs and check-ins count up
to. Metrics that follow the clock ("this week", "today") are kept per period, for the two latest
periods with activity; the reading statement picks one with the clock as a bound value. Two
suffice: at most one period can lie ahead of now, because facts may be five minutes early.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from psycopg import Cursor

from ledger.domain import execution_events as lines
from ledger.domain import health
from ledger.domain import run as runs
from ledger.domain.execution import Execution
from ledger.domain.execution_events import EXECUTION_EVENTS
from ledger.domain.recorded import Event, Recorded
from ledger.domain.run import RUN_EVENTS
from ledger.domain.values import day_of, sort_key, week_of
from ledger.projection.rendering import json_text, members, time_text
from ledger.store.arrays import array

_CACHED = 20_000
"""Rows kept in memory between batches."""

_LOAD = "SELECT fold FROM {table} WHERE line_id = ANY(%s::text[])"

_STORE = """
INSERT INTO {table} AS t (line_id, record_key, organization_id, workspace_id, execution_model,
    product_line, project_tags, state, causes, open_runs, quiet_since, head, extra, metrics,
    period_1, metrics_1, period_2, metrics_2, fold, position)
SELECT line_id, record_key, organization_id, workspace_id, execution_model, product_line,
    project_tags::text[], state, causes::text[], open_runs, quiet_since, head, extra, metrics,
    period_1, metrics_1, period_2, metrics_2, fold, position
FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::text[], %s::int[], %s::timestamptz[], %s::text[], %s::text[], %s::text[],
    %s::date[], %s::text[], %s::date[], %s::text[], %s::bytea[], %s::bigint[])
    AS u (line_id, record_key, organization_id, workspace_id, execution_model, product_line,
    project_tags, state, causes, open_runs, quiet_since, head, extra, metrics, period_1,
    metrics_1, period_2, metrics_2, fold, position)
ON CONFLICT (line_id) DO UPDATE SET
    project_tags = excluded.project_tags, state = excluded.state, causes = excluded.causes,
    open_runs = excluded.open_runs, quiet_since = excluded.quiet_since, head = excluded.head,
    extra = excluded.extra, metrics = excluded.metrics, period_1 = excluded.period_1,
    metrics_1 = excluded.metrics_1, period_2 = excluded.period_2, metrics_2 = excluded.metrics_2,
    fold = excluded.fold, position = excluded.position
"""

_encode = msgspec.json.Encoder().encode


class LineRow(msgspec.Struct):
    """The fold's state for one line."""

    execution: Execution
    position: int = 0
    last_activity_at: datetime | None = None
    open_runs: int = 0
    hours_total: int = 0
    """In hundredths of an hour: sums of decimals stay exact."""
    started_runs: int = 0
    completed_runs: int = 0
    last_ended_at: datetime | None = None
    last_run_duration_ms: int | None = None
    periods: dict[date, int] = {}
    """Amount per ISO week (hundredths of hours, or check-ins) or UTC day (started runs)."""

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event of the line or of one of its runs. Pure: (row, event) → row."""
        self.position = recorded.position
        if recorded.originator_id == self.execution.id:
            self.execution.evolve(recorded)
        apply = _COUNT.get(type(recorded.body))
        if apply is not None:
            apply(self, recorded.body, recorded)

    def _active(self, recorded: Recorded) -> None:
        if self.last_activity_at is None or recorded.occurred_at > self.last_activity_at:
            self.last_activity_at = recorded.occurred_at

    def _add(self, period: date, amount: int) -> None:
        periods = self.periods | {period: self.periods.get(period, 0) + amount}
        self.periods = {day: periods[day] for day in sorted(periods, reverse=True)[:2]}

    def _count_check_in(self, hours: float | None, at: datetime, sign: int) -> None:
        hundredths = round((hours or 0) * 100) * sign
        self.hours_total += hundredths
        model = self.execution.execution_model
        if model in ("capacity", "ongoing_sla"):
            self._add(week_of(at), hundredths)
        elif model in ("infra_managed", "observability"):
            self._add(week_of(at), sign)

    def _activated(self, body: lines.Activated, recorded: Recorded) -> None:
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


_COUNT: dict[type[Event], Callable[[LineRow, Any, Recorded], None]] = {
    lines.Activated: LineRow._activated,
    lines.CheckedIn: LineRow._checked_in,
    lines.CheckInVoided: LineRow._voided,
    runs.RunRequested: LineRow._requested,
    runs.RunStarted: LineRow._started,
    runs.RunCompleted: LineRow._completed,
    runs.RunFailed: LineRow._ended,
    runs.RunCancelled: LineRow._cancelled,
}

_decode = msgspec.json.Decoder(LineRow).decode


class ExecutionView:
    """The projection."""

    name = "execution"
    version = 1
    events = frozenset((*EXECUTION_EVENTS, *RUN_EVENTS))

    def __init__(self) -> None:
        self._rows: OrderedDict[str, LineRow] = OrderedDict()

    def project(self, cursor: Cursor[Any], table: str, events: Sequence[Recorded]) -> None:
        """Fold a batch: each line's row is loaded, evolved and stored once."""
        touched = dict.fromkeys(e.service_line_id or e.originator_id for e in events)
        self._load(cursor, table, touched)
        for event in events:
            line_id = event.service_line_id or event.originator_id
            if line_id not in self._rows:
                self._rows[line_id] = LineRow(Execution(line_id))
            self._rows[line_id].evolve(event)
        columns = zip(*(_columns(self._rows[line_id]) for line_id in touched), strict=True)
        cursor.execute(
            _STORE.format(table=table), [array(column) for column in columns], prepare=True
        )
        while len(self._rows) > _CACHED:
            self._rows.popitem(last=False)

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._rows.clear()

    def _load(self, cursor: Cursor[Any], table: str, line_ids: Iterable[str]) -> None:
        missing = []
        for line_id in line_ids:
            if line_id in self._rows:
                self._rows.move_to_end(line_id)
            else:
                missing.append(line_id)
        if missing:
            cursor.execute(_LOAD.format(table=table), (array(missing),), prepare=True)
            for (fold,) in cursor.fetchall():
                row = _decode(fold)
                self._rows[row.execution.id] = row


def _columns(row: LineRow) -> tuple[Any, ...]:
    """One row of the table, in the order of ``_STORE``."""
    execution = row.execution
    latest = list(row.periods.items()) + [(None, 0)] * (2 - len(row.periods))
    causes = dict.fromkeys(blocker.cause for blocker in execution.blockers.values())
    quiet_since = max(t for t in (row.last_activity_at, execution.changed_at) if t is not None)
    return (
        execution.id,
        sort_key(execution.execution_id),
        execution.organization_id,
        execution.workspace_id,
        execution.execution_model,
        execution.product_line,
        execution.project_tags,
        execution.state,
        list(causes),
        row.open_runs,
        quiet_since,
        members(_head(row)),
        members(_extra(row)),
        json_text(_metrics(row, 0)),
        latest[0][0],
        None if latest[0][0] is None else json_text(_metrics(row, latest[0][1])),
        latest[1][0],
        None if latest[1][0] is None else json_text(_metrics(row, latest[1][1])),
        _encode(row),
        row.position,
    )


def _head(row: LineRow) -> dict[str, Any]:
    """What list row and detail share (contract 4)."""
    execution = row.execution
    return {
        "id": execution.execution_id,
        "service_line_id": execution.id,
        "execution_model": execution.execution_model,
        "state": execution.state,
        "workspace_id": execution.workspace_id,
        "product_line": execution.product_line,
        "project_tags": execution.project_tags,
        "started_at": time_text(execution.started_at),
        "last_activity_at": time_text(row.last_activity_at),
        "state_since": time_text(execution.state_since),
        "open_runs": row.open_runs,
        "health_status": health.status(health.score(execution.signals.values())),
    }


def _extra(row: LineRow) -> dict[str, Any]:
    """What the detail has beside (contract 4)."""
    execution = row.execution
    score = health.score(execution.signals.values())
    return {
        "resources": list(execution.resources.values()),
        "health": {
            "score": score,
            "status": health.status(score),
            "signals": list(execution.signals.values()),
        },
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


def _metrics(row: LineRow, amount: int) -> dict[str, Any]:
    """The model's metrics, with the present period's amount (contract 3)."""
    score = health.score(row.execution.signals.values())
    match row.execution.execution_model:
        case "agent_runtime":
            return {
                "invocations_today": amount,
                "invocations_total": row.started_runs,
                "last_run_duration_ms": row.last_run_duration_ms,
            }
        case "timeboxed_outcome":
            return {
                "cycles_total": row.started_runs,
                "cycles_completed": row.completed_runs,
                "last_run_duration_ms": row.last_run_duration_ms,
            }
        case "capacity" | "ongoing_sla":
            return {
                "hours_this_week": amount / 100,
                "hours_total": row.hours_total / 100,
                "health_score": score,
            }
        case _:
            return {"check_ins_this_week": amount, "health_score": score}
