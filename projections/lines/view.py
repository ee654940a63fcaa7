"""The view of lines, present and past: lists, counts, details, timelines and hours.

Tables of the present: ``execution`` has one row per line, with the columns of list filters and
ready JSON; a line's own events write it. ``execution_activity`` has one more, with the JSON that
runs and check-ins change, and the line's fold; every event writes it. ``execution_rank`` has the
changing keys of the order (``rank.py``), ``execution_tag`` and ``execution_resource`` the lines of
each project tag and resource, ``execution_quiet`` the lines that look idle or are held,
``execution_count`` the number of lines by state (``counts.py``).

Tables of the past only grow, except that an interval's row gets its end later.
``execution_interval`` has the columns of filters and counts between two positions;
``execution_version`` the JSON that the line's own events change; ``execution_step`` the numbers for
counts and metrics (``shown.py``); ``execution_day`` the check-ins and hours of each UTC day
(``hours.py``). The row that holds at a position is the latest at or before it, so an answer for the
past reads as few rows as one for the present. These tables name a line by its id as a number.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.rendering import json_text, time_text
from ledger.engine.values.values import sort_key
from ledger.engine.views.folds import FoldCache, Packing, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import CHECK_INS, EXECUTION_EVENTS, Activated
from ledger.features.runs.model.run import RUN_EVENTS
from projections.lines import counts, line, rows, shown
from projections.lines.counts import COUNT, Counts
from projections.lines.hours import DAY, Hours
from projections.lines.line import Interval, LineFold
from projections.lines.rank import RANK, RankRow, rank_of

M = TypeVar("M", rows.TagRow, rows.ResourceRow)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LineFold).decode


_MUCH = 8 * 1024 * 1024
"""Characters of versions after which they are written before the batch ends: lines may be large."""


class _Line:
    """A line in memory: its fold, and what is computed from it."""

    __slots__ = ("counted", "fold", "key", "version")

    def __init__(self, fold: LineFold) -> None:
        self.fold = fold
        self.key = sort_key(fold.execution.id)
        self.counted = fold.counted
        self.version: shown.Version | None = None


_PACKING = Packing[_Line](lambda found: _encode(found.fold), lambda packed: _Line(_decode(packed)))


class ExecutionView(Remembering):
    """The projection ``execution``."""

    name = "execution"
    version = 12
    tables: tuple[Table, ...] = (
        rows.EXECUTION,
        rows.ACTIVITY,
        RANK,
        rows.TAG,
        rows.RESOURCE,
        rows.QUIET,
        COUNT,
        rows.INTERVAL,
        rows.EXECUTION_VERSION,
        rows.STEP,
        DAY,
    )
    events = frozenset((*EXECUTION_EVENTS, *RUN_EVENTS))

    def __init__(self) -> None:
        self._lines: FoldCache[str, _Line] = FoldCache(
            lambda line_id: _Line(LineFold(Execution(line_id))), _PACKING
        )
        self._turned: dict[str, int] = {}
        """Lines whose row of ``execution`` differs, and since which position."""
        self._quiet: set[str] = set()
        """Lines whose quiet row differs from the stored one."""
        self._ranked: set[str] = set()
        """Lines whose rank differs from the stored one."""
        self._hours = Hours()
        self._counts = Counts()
        super().__init__(self._lines, self._hours, self._counts)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        self._lines.begin(e.line_id for e in events if type(e.body) is Activated)
        generation.find(self._lines, {e.line_id: None for e in events}, rows.ACTIVITY)
        self._hours.prepare(generation, _check_ins(events))

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        past = _Past()
        for event in events:
            found = self._lines[event.line_id]
            quiet, interval = found.fold.quiet, found.fold.interval
            if _apply(found, event, past):
                self._turned[event.line_id] = event.position
            self._lines.change(event.line_id)
            if found.fold.quiet is not quiet:
                self._quiet.add(event.line_id)
            if found.fold.interval is not interval:
                self._ranked.add(event.line_id)
            if past.size > _MUCH:
                generation.send(rows.EXECUTION_VERSION, past.pop_versions())
        generation.write(rows.TAG, past.tags.values())
        generation.write(rows.RESOURCE, past.resources.values())
        generation.write(rows.INTERVAL, past.intervals.values())
        generation.write(rows.EXECUTION_VERSION, past.versions)
        generation.write(rows.STEP, past.steps)
        self._hours.apply(generation)
        self._counts.apply(generation, past.moves)

    def store(self, generation: Generation, most: int | None = None) -> None:
        changed = self._lines.pop_changed(most)
        generation.write(rows.ACTIVITY, map(_activity, changed))
        generation.write(rows.EXECUTION, self._turned_lines(changed))
        generation.write(RANK, self._changed_ranks(changed))
        generation.write(rows.QUIET, self._changed_quiet(changed))
        generation.write(COUNT, self._counts.rows(most))

    def forget(self) -> None:
        super().forget()
        self._turned.clear()
        self._quiet.clear()
        self._ranked.clear()

    def _turned_lines(self, changed: Iterable[_Line]) -> Iterator[rows.ExecutionRow]:
        for found in changed:
            position = self._turned.pop(found.fold.execution.id, None)
            if position is not None:
                yield _present(found, position)

    def _changed_ranks(self, changed: Iterable[_Line]) -> Iterator[RankRow]:
        for found in changed:
            if found.fold.execution.id in self._ranked:
                self._ranked.discard(found.fold.execution.id)
                yield rank_of(found.fold)

    def _changed_quiet(self, changed: Iterable[_Line]) -> Iterator[rows.QuietRow]:
        for found in changed:
            quiet, execution = found.fold.quiet, found.fold.execution
            if execution.id in self._quiet and quiet is not None:
                self._quiet.discard(execution.id)
                yield rows.QuietRow(
                    line_id=execution.id,
                    execution_model=execution.execution_model,
                    quiet_since=quiet.since,
                    changed_at=quiet.changed_at,
                    held_until=quiet.held_until,
                    position=quiet.position,
                )


def _check_ins(events: Sequence[Recorded]) -> list[Recorded]:
    return [event for event in events if type(event.body) in CHECK_INS]


class _Past:
    """A batch's rows of the past, and the marks, intervals and counts that it changed."""

    def __init__(self) -> None:
        self.moves: list[counts.Move] = []
        self.tags: dict[tuple[str, str], rows.TagRow] = {}
        self.resources: dict[tuple[str, str], rows.ResourceRow] = {}
        self.intervals: dict[tuple[str, int], rows.IntervalRow] = {}
        self.versions: list[rows.VersionRow] = []
        self.size = 0
        self.steps: list[rows.StepRow] = []

    def pop_versions(self) -> list[rows.VersionRow]:
        versions, self.versions, self.size = self.versions, [], 0
        return versions


def _apply(found: _Line, event: Recorded, past: _Past) -> bool:
    """Apply an event; note the line's new JSON, and the intervals that ended or began.

    Returns True if the line's row of ``execution`` changes.
    """
    fold, line_id, kind, key = found.fold, event.line_id, type(event.body), found.key
    before, counted = fold.interval, found.counted
    resources = fold.execution.resources
    fold.apply(event)
    is_turned = event.originator_id == line_id and kind not in CHECK_INS
    if is_turned:
        found.version = shown.version(fold.execution)
        past.versions.append(rows.VersionRow(key, event.position, *found.version))
        past.size += len(found.version.extra)
    if kind in line.COUNTING:
        found.counted = fold.counted
        if found.counted != counted:
            past.steps.append(_step(found, event))
    if fold.execution.resources is not resources:
        for resource, present in line.changed(resources, fold.execution.resources):
            past.resources[line_id, resource] = _mark(rows.ResourceRow, fold, resource, present)
    if fold.interval is not before and fold.interval is not None:
        past.moves.append(counts.move(fold.execution, before, fold.interval, event.position))
        if before is not None:
            past.intervals[line_id, before.opened] = _interval(fold, before, event.position)
        had = () if before is None else before.project_tags
        for tag, present in line.changed(had, fold.interval.project_tags):
            past.tags[line_id, tag] = _mark(rows.TagRow, fold, tag, present)
        past.intervals[line_id, event.position] = _interval(fold, fold.interval, rows.FOREVER)
    return is_turned


def _step(found: _Line, event: Recorded) -> rows.StepRow:
    line, totals = found.fold, found.counted.totals
    assert line.last_activity_at is not None, "a line is active from its activation on"
    # A read that finds this row is about an instant at or after the event's recording. So the row
    # needs no period that had ended by then.
    (period_1, amount_1), (period_2, amount_2) = line.latest(line.period_of(event.recorded_at))
    return rows.StepRow(
        line_key=found.key,
        position=event.position,
        last_activity_at=line.last_activity_at,
        hours_total=totals.hours,
        last_run_duration_ms=totals.last_run_duration_ms,
        amount_1=amount_1,
        amount_2=amount_2,
        open_runs=line.open_runs,
        started_runs=totals.started_runs,
        completed_runs=totals.completed_runs,
        period_1=period_1,
        period_2=period_2,
    )


def _interval(fold: LineFold, interval: Interval, ended: int) -> rows.IntervalRow:
    execution = fold.execution
    assert interval.since is not None, "a line has an interval from its activation on"
    assert interval.state_since is not None, "a line has a state from its activation on"
    return rows.IntervalRow(
        line_key=sort_key(execution.id),
        record_key=sort_key(execution.execution_id),
        opened=interval.opened,
        ended=ended,
        position=interval.opened if ended == rows.FOREVER else ended,
        since=interval.since,
        state_since=interval.state_since,
        open_blockers=interval.open_blockers,
        health_score=interval.health_score,
        turned=interval.turned,
        state=interval.state,
        causes=interval.causes,
        project_tags=interval.project_tags,
        organization_id=execution.organization_id,
        workspace_id=execution.workspace_id,
        execution_model=execution.execution_model,
        product_line=execution.product_line,
    )


def _mark(kind: type[M], fold: LineFold, mark: str, present: bool) -> M:
    """The row of a project tag or a resource: both tables have the same columns."""
    execution = fold.execution
    return kind(
        execution.id,
        mark,
        present,
        sort_key(execution.execution_id),
        execution.organization_id,
        execution.workspace_id,
        fold.position,
    )


def _present(found: _Line, position: int) -> rows.ExecutionRow:
    fold, execution = found.fold, found.fold.execution
    version = found.version or shown.version(execution)
    return rows.ExecutionRow(
        line_id=execution.id,
        line_key=found.key,
        record_key=sort_key(execution.execution_id),
        organization_id=execution.organization_id,
        workspace_id=execution.workspace_id,
        execution_model=execution.execution_model,
        product_line=execution.product_line,
        activated=fold.activated,
        project_tags=execution.project_tags,
        state=execution.state,
        causes=line.causes(execution),
        head=version.head,
        extra=version.extra,
        quiet=shown.current_metric(execution.execution_model, 0),
        position=position,
    )


def _activity(found: _Line) -> rows.ActivityRow:
    fold, execution = found.fold, found.fold.execution
    model, interval = execution.execution_model, fold.interval
    assert interval is not None, "a line has an interval from its activation on"
    (period_1, now_1), (period_2, now_2) = (
        (period, None if amount is None else shown.current_metric(model, amount))
        for period, amount in fold.latest()
    )
    return rows.ActivityRow(
        line_id=execution.id,
        organization_id=execution.organization_id,
        workspace_id=execution.workspace_id,
        counts=shown.counts(json_text(time_text(fold.last_activity_at)), fold.open_runs),
        metrics=shown.lasting_metrics(model, interval.health_score, found.counted.totals),
        period_1=period_1,
        now_1=now_1,
        period_2=period_2,
        now_2=now_2,
        fold=_encode(fold),
        position=fold.position,
    )
