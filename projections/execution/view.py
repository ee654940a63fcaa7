"""The view behind lists, counts, details, timelines and hours: lines as they are and as they were.

``execution`` has one row a line, what lists filter by and ready JSON: the present; beside it,
``execution_tag`` says which lines have a project tag, ``execution_quiet`` since when a line looks
idle, ``execution_count`` how many lines are in which state (see ``counts.py``). The other tables
are the past, which only grows: ``execution_interval`` says who was in which state, with which
causes and tags, from position to position; ``execution_version`` and ``execution_step`` keep what a
row showed (see ``line.py``); ``execution_day`` the hours of each UTC day (see ``hours.py``). What
held at a position is the latest row at or before it, so an answer of the past touches as few rows
as one of the present.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ledger.domain.execution import Execution
from ledger.domain.execution_events import CHECK_INS, EXECUTION_EVENTS, Activated
from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS
from ledger.domain.values import sort_key
from ledger.postgres.exchange import Rows
from ledger.projection.contract import Table
from ledger.projection.folds import Folds, Packing
from ledger.projection.generation import Generation
from projections.execution import counts, line
from projections.execution.counts import COUNT, Counts
from projections.execution.hours import DAY, Hours
from projections.execution.line import Interval, LineRow

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
TAG = Table(
    "execution_tag",
    key=("line_id", "project_tag"),
    replaces=True,
    columns={
        "line_id": "text",
        "project_tag": "text",
        "present": "bool",
        "record_key": "bigint",
        "organization_id": "text",
        "workspace_id": "text",
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
        "changed_at": "timestamptz",
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
# The folds of these lines.
_LOAD = "SELECT fold FROM ledger.execution_{g} WHERE line_id = ANY($1::text[])"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LineRow).decode


_MUCH = 8 * 1024 * 1024
"""Characters of versions that are written before a batch is through: a large line has long ones."""


class _Line:
    """A line in memory: its fold, and what it shows, rendered when an event changes it."""

    __slots__ = ("row", "step", "version")

    def __init__(self, row: LineRow) -> None:
        self.row = row
        self.version: line.Version | None = None
        self.step: line.Step | None = None


_PACKING = Packing[_Line](lambda found: _encode(found.row), lambda fold: _Line(_decode(fold)))


class ExecutionView:
    """The projection."""

    name = "execution"
    version = 5
    tables: tuple[Table, ...] = (EXECUTION, TAG, QUIET, COUNT, INTERVAL, VERSION, STEP, DAY)
    events = frozenset((*EXECUTION_EVENTS, *RUN_EVENTS))

    def __init__(self) -> None:
        self._lines: Folds[str, _Line] = Folds(
            lambda line_id: _Line(LineRow(Execution(line_id))), _PACKING
        )
        self._quiet: set[str] = set()
        """Lines that are quiet since another time than is stored."""
        self._hours = Hours()
        self._counts = Counts()

    @property
    def waiting(self) -> int:
        """Lines whose row has changed, and counts that have."""
        return self._lines.waiting + self._counts.waiting

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the lines' rows, and for the hours of their days."""
        self._lines.begin(e.line_id for e in events if type(e.body) is Activated)
        generation.ask(self._lines, {e.line_id: None for e in events}, _LOAD, _read)
        self._hours.prepare(generation, _check_ins(events))

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch; the past is written at once, the present waits for ``store``."""
        past = _Past()
        for event in events:
            found = self._lines[event.line_id]
            quiet = found.row.quiet
            _take(found, event, past)
            self._lines.change(event.line_id)
            if found.row.quiet is not quiet:
                self._quiet.add(event.line_id)
            if past.size > _MUCH:
                generation.send(VERSION, past.take_versions())
        generation.write(TAG, past.tags.values())
        generation.write(INTERVAL, past.intervals.values())
        generation.write(VERSION, past.versions)
        generation.write(STEP, past.steps)
        self._hours.fold(generation, _check_ins(events))
        self._counts.fold(generation, past.moves)

    def store(self, generation: Generation, most: int | None = None) -> None:
        """Write the rows of the lines that changed."""
        changed = self._lines.take_changed(most)
        generation.write(EXECUTION, map(_present, changed))
        generation.write(QUIET, self._changed_quiet(changed))
        generation.write(COUNT, self._counts.rows(most))

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._lines.clear()
        self._quiet.clear()
        self._hours.forget()
        self._counts.forget()

    def _changed_quiet(self, changed: Iterable[_Line]) -> Iterator[tuple[Any, ...]]:
        """The rows of the table, in the order of its columns, that are not as they are stored."""
        for found in changed:
            quiet, execution = found.row.quiet, found.row.execution
            if execution.id in self._quiet and quiet is not None:
                self._quiet.discard(execution.id)
                since, changed_at = quiet.since, quiet.changed_at
                yield execution.id, execution.execution_model, since, changed_at, quiet.position


def _read(rows: Rows) -> Iterator[tuple[str, _Line]]:
    for (fold,) in rows:
        row = _decode(fold)
        yield row.execution.id, _Line(row)


def _check_ins(events: Sequence[Recorded]) -> list[Recorded]:
    return [event for event in events if type(event.body) in CHECK_INS]


class _Past:
    """A batch's rows of the tables that only grow, and the intervals and tags it began or ended."""

    def __init__(self) -> None:
        self.moves: list[counts.Move] = []
        self.tags: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.intervals: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.versions: list[tuple[Any, ...]] = []
        self.size = 0
        """Characters of the versions."""
        self.steps: list[tuple[Any, ...]] = []

    def take_versions(self) -> list[tuple[Any, ...]]:
        """Those gathered so far."""
        versions, self.versions, self.size = self.versions, [], 0
        return versions


def _take(found: _Line, event: Recorded, past: _Past) -> None:
    """Fold an event; keep what the line shows from here on, and what it ended and began."""
    row, line_id, kind = found.row, event.line_id, type(event.body)
    before = row.interval
    row.evolve(event)
    if event.originator_id == line_id and kind not in CHECK_INS:
        found.version = line.version(row.execution)
        past.versions.append((line_id, event.position, *found.version))
        past.size += len(found.version[1])
    if kind in line.COUNTING:
        found.step = line.step(row)
        past.steps.append((line_id, event.position, *found.step))
    if row.interval is not before and row.interval is not None:
        past.moves.append(counts.move(row.execution, before, row.interval, event.position))
        if before is not None:
            past.intervals[line_id, before.opened] = _interval(row, before, event.position)
        for tag, present in line.changed_tags(before, row.interval):
            past.tags[line_id, tag] = _tag(row, tag, present)
        past.intervals[line_id, event.position] = _interval(row, row.interval, FOREVER)


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


def _tag(row: LineRow, tag: str, present: bool) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    execution = row.execution
    return (
        execution.id,
        tag,
        present,
        sort_key(execution.execution_id),
        execution.organization_id,
        execution.workspace_id,
        row.position,
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
        *(found.version or line.version(execution)),
        *(found.step or line.step(row)),
        _encode(row),
        row.position,
    )
