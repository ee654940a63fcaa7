"""The view behind lists, counts, details, timelines and hours: lines as they are and as they were.

``execution`` has one row a line, what lists filter by and ready JSON: the present; beside it,
``execution_quiet`` says since when a line looks idle. The other tables are the past, which only
grows: ``execution_interval`` says who was in which state, with which causes and tags, from position
to position; ``execution_version`` and ``execution_step`` keep what a row showed (see ``line.py``);
``execution_day`` the hours of each UTC day. What held at a position is the latest row at or before
it, so an answer of the past touches as few rows as one of the present.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from ledger.domain import execution_events as lines
from ledger.domain.execution import Execution
from ledger.domain.execution_events import EXECUTION_EVENTS
from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS
from ledger.domain.values import day_of, sort_key
from ledger.projection.contract import Table
from ledger.projection.folds import Folds
from ledger.projection.generation import Generation
from ledger.projection.rendering import json_text
from ledger.store.arrays import array
from projections import line
from projections.line import Interval, LineRow

FOREVER = 2**63 - 1
"""The position at which an interval that still lasts ends."""

# What ``line.step`` gives, in its order: of the present row, and of each step of the past.
_STEP_COLUMNS = {
    "counts": "text",
    "metrics": "text",
    "quiet": "text",
    "period_1": "date",
    "now_1": "text",
    "period_2": "date",
    "now_2": "text",
}

EXECUTION = Table(
    "execution",
    key=("line_id",),
    replaces=True,
    columns={
        "line_id": "text",
        "record_key": "bigint",
        "organization_id": "text",
        "workspace_id": "text",
        "execution_model": "text",
        "product_line": "text",
        "activated": "bigint",
        "project_tags": "text[]",
        "state": "text",
        "causes": "text[]",
        "head": "text",
        "extra": "text",
        **_STEP_COLUMNS,
        "fold": "bytea",
        "position": "bigint",
    },
)
QUIET = Table(
    "execution_quiet",
    key=("line_id",),
    replaces=True,
    columns={
        "line_id": "text",
        "execution_model": "text",
        "quiet_since": "timestamptz",
        "position": "bigint",
    },
)
INTERVAL = Table(
    "execution_interval",
    key=("line_id", "opened"),
    replaces=True,
    columns={
        "line_id": "text",
        "opened": "bigint",
        "ended": "bigint",
        "since": "timestamptz",
        "turned": "bool",
        "state": "text",
        "causes": "text[]",
        "project_tags": "text[]",
        "record_key": "bigint",
        "organization_id": "text",
        "workspace_id": "text",
        "execution_model": "text",
        "product_line": "text",
        "position": "bigint",
    },
)
VERSION = Table(
    "execution_version",
    key=("line_id", "position"),
    columns={"line_id": "text", "position": "bigint", "head": "text", "extra": "text"},
)
STEP = Table(
    "execution_step",
    key=("line_id", "position"),
    columns={
        "line_id": "text",
        "position": "bigint",
        **_STEP_COLUMNS,
    },
)
DAY = Table(
    "execution_day",
    key=("line_id", "day", "position"),
    columns={
        "line_id": "text",
        "day": "date",
        "position": "bigint",
        "at": "timestamptz",
        "change": "text",
        "total": "text",
    },
)

# The folds of these lines.
_LOAD = "SELECT fold FROM ledger.execution_{g} WHERE line_id = ANY(%s::text[])"

# What these days of these lines have come to.
_LOAD_DAYS = """
SELECT asked.line_id, asked.day, latest.total
FROM unnest(%s::text[], %s::date[]) AS asked (line_id, day)
CROSS JOIN LATERAL (
    SELECT total FROM ledger.execution_day_{g} AS d
    WHERE d.line_id = asked.line_id AND d.day = asked.day ORDER BY d.position DESC LIMIT 1
) AS latest
"""

_Day = tuple[str, date]
_Hours = dict[str | None, int]
"""Hundredths of hours by resource; none is kept at zero."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LineRow).decode
_decode_hours = msgspec.json.Decoder(list[tuple[str | None, int]]).decode


class _Line:
    """A line in memory: its fold, and the head and extra that it shows, once they are rendered."""

    __slots__ = ("row", "shown")

    def __init__(self, row: LineRow) -> None:
        self.row = row
        self.shown: tuple[str, str] | None = None

    def show(self) -> tuple[str, str]:
        """Head and extra. Rendered once after each change: runs and check-ins make none."""
        if self.shown is None:
            self.shown = line.head(self.row.execution), line.extra(self.row.execution)
        return self.shown


class ExecutionView:
    """The projection."""

    name = "execution"
    version = 2
    tables: tuple[Table, ...] = (EXECUTION, QUIET, INTERVAL, VERSION, STEP, DAY)
    events = frozenset((*EXECUTION_EVENTS, *RUN_EVENTS))

    def __init__(self) -> None:
        self._lines: Folds[str, _Line] = Folds(lambda line_id: _Line(LineRow(Execution(line_id))))
        self._days: Folds[_Day, _Hours] = Folds(lambda _: {})

    @property
    def waiting(self) -> int:
        """Lines whose row has changed."""
        return self._lines.waiting

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch; the past is written at once, the present waits for ``store``."""
        self._bring(generation, events)
        past = _Past()
        for event in events:
            line_id = event.line_id
            found = self._lines[line_id]
            self._lines.change(line_id)
            if event.originator_id == line_id and type(event.body) not in line.CHECK_INS:
                _evolve(found, event, past)
            else:
                found.row.evolve(event)
            if type(event.body) in line.COUNTING:
                past.steps.append((line_id, event.position, *line.step(found.row)))
            if type(event.body) in line.CHECK_INS:
                self._move_hours(line_id, event, past)
        self._days.trim()
        generation.write(INTERVAL, past.intervals.values())
        generation.write(VERSION, past.versions)
        generation.write(STEP, past.steps)
        generation.write(DAY, past.days)

    def store(self, generation: Generation) -> None:
        """Write the rows of the lines that changed."""
        changed = self._lines.take_changed()
        generation.write(EXECUTION, map(_present, changed))
        generation.write(QUIET, map(_quiet, changed))

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._lines.clear()
        self._days.clear()

    def _bring(self, generation: Generation, events: Sequence[Recorded]) -> None:
        def load(line_ids: list[str]) -> Iterable[tuple[str, _Line]]:
            for (fold,) in generation.fetch(_LOAD, (array(line_ids),)):
                row = _decode(fold)
                yield row.execution.id, _Line(row)

        def load_days(days: list[_Day]) -> Iterable[tuple[_Day, _Hours]]:
            asked = array(d[0] for d in days), array(d[1] for d in days)
            for line_id, day, total in generation.fetch(_LOAD_DAYS, asked):
                yield (line_id, day), dict(_decode_hours(total))

        self._lines.bring({e.line_id: None for e in events}, load)
        check_ins = (e for e in events if type(e.body) in line.CHECK_INS)
        days = {(e.originator_id, day_of(_hours_moved(e)[0])): None for e in check_ins}
        self._days.bring(days, load_days)

    def _move_hours(self, line_id: str, event: Recorded, past: "_Past") -> None:
        """Add a check-in to its day, or take a voided one from it."""
        at, resource_id, amount = _hours_moved(event)
        if not amount:
            return
        day = day_of(at)
        hours = self._days[line_id, day]
        hours[resource_id] = hours.get(resource_id, 0) + amount
        if not hours[resource_id]:
            del hours[resource_id]
        change = json_text([(resource_id, amount)])
        total = json_text(list(hours.items()))
        past.days.append((line_id, day, event.position, at, change, total))


class _Past:
    """A batch's rows of the tables that only grow, and the intervals it began or ended."""

    def __init__(self) -> None:
        self.intervals: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.versions: list[tuple[Any, ...]] = []
        self.steps: list[tuple[Any, ...]] = []
        self.days: list[tuple[Any, ...]] = []


def _evolve(found: _Line, event: Recorded, past: _Past) -> None:
    """Fold an event that changes what the line shows; keep that, and what it ended and began."""
    row = found.row
    before, execution = row.interval, row.execution
    row.evolve(event)
    found.shown = None
    past.versions.append((execution.id, event.position, *found.show()))
    if row.interval is not before and row.interval is not None:
        if before is not None:
            past.intervals[execution.id, before.opened] = _interval(row, before, event.position)
        past.intervals[execution.id, event.position] = _interval(row, row.interval, FOREVER)


def _interval(row: LineRow, interval: Interval, ended: int) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    execution = row.execution
    return (
        execution.id,
        interval.opened,
        ended,
        interval.since,
        interval.turned,
        interval.state,
        interval.causes,
        interval.project_tags,
        sort_key(execution.execution_id),
        execution.organization_id,
        execution.workspace_id,
        execution.execution_model,
        execution.product_line,
        interval.opened if ended == FOREVER else ended,
    )


def _present(found: _Line) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    row, execution = found.row, found.row.execution
    return (
        execution.id,
        sort_key(execution.execution_id),
        execution.organization_id,
        execution.workspace_id,
        execution.execution_model,
        execution.product_line,
        row.activated,
        execution.project_tags,
        execution.state,
        line.causes(execution),
        *found.show(),
        *line.step(row),
        _encode(row),
        row.position,
    )


def _quiet(found: _Line) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    row, execution = found.row, found.row.execution
    since = None
    if execution.state == "running" and not row.open_runs:
        since = max(t for t in (row.last_activity_at, execution.changed_at) if t is not None)
    return execution.id, execution.execution_model, since, row.position


def _hours_moved(event: Recorded) -> tuple[datetime, str | None, int]:
    """(time, resource, hundredths) of what a check-in adds, or its void takes away."""
    body = event.body
    if isinstance(body, lines.CheckedIn):
        return event.occurred_at, body.resource_id, line.hundredths(body.hours)
    assert isinstance(body, lines.CheckInVoided)
    return body.checked_in_at, body.resource_id, -line.hundredths(body.hours)
