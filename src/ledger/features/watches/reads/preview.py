"""A preview: what a watch would have open now, by the lines of its tenant.

Lines are read in pages, and judged by the functions that decide alerts. Lines go on changing
meanwhile: each is judged as it is when its page is read, at the preview's position or later.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date, timedelta
from heapq import heappush, heappushpop
from typing import Any, NamedTuple

from ledger.engine.reads.corner import Corner
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Behind
from ledger.engine.values.values import sort_key
from ledger.engine.views.statements import Read
from ledger.features.watches.model.stretch import (
    Due,
    LineNow,
    OpenRun,
    due_for,
    due_of,
    over_since,
    silent_since,
)
from ledger.features.watches.model.watch import (
    Condition,
    InState,
    RunOpen,
    SourceSilent,
    UsageOver,
    Watch,
)
from ledger.features.watches.reads.limits import INSTANTS, above_read, passed, values_of
from ledger.features.watches.reads.watched import decode_line, line_now, watched_read
from projections.lines.line import LineFold
from projections.runs.statements import OPEN_RUNS
from projections.watches.source.statements import heard_read

MOST_ROWS, MOST_COUNTED = 1_000, 10_000
"""The rows that are shown, and the stretches up to which they are counted."""

_PAGE = 1_000
"""Lines of a statement: some milliseconds for PostgreSQL."""

_PORTION = 250
"""Lines that are judged in one turn of the loop: a millisecond or two."""

Ask = Callable[[Read, Mapping[str, Any]], Awaitable[Answer]]


async def rows_since(ask: Ask, read: Read, values: Mapping[str, Any], corner: Corner) -> Answer:
    """The rows of a statement at the position of a corner or later. Raises Behind."""
    rows = await ask(read, values)
    if rows.position < corner.position:
        raise Behind("The views have fallen behind the position of the answer.")
    return rows


class DueLine(NamedTuple):
    """A stretch that is due, and its line."""

    due: Due
    known: LineNow

    @property
    def order(self) -> tuple[float, int, str]:
        return -self.due.at.timestamp(), sort_key(self.known.execution.id), self.subject_id

    @property
    def subject_id(self) -> str:
        return self.due.stretch.subject.id


async def open_now(
    ask: Ask,
    turn: Callable[[], Awaitable[None]],
    watch: Watch,
    filters: Mapping[str, Any],
    corner: Corner,
) -> tuple[Sequence[DueLine], int]:
    """The stretches that are due, the latest due first, and their number up to ``MOST_COUNTED``.

    At most ``MOST_ROWS`` of them. If there are more than are counted, they are the latest among so
    many. ``filters`` are those of the watch's tenant and lines; ``turn`` waits for a portion.
    """
    latest = list[tuple[Any, int, DueLine]]()
    number = 0
    async for lines in _lines(ask, watch, filters, corner):
        for begin in range(0, len(lines), _PORTION):
            await turn()
            for known in lines[begin : begin + _PORTION]:
                for due in due_for([watch], known):
                    if due.at <= corner.clock:
                        number += 1
                        keep = heappushpop if len(latest) == MOST_ROWS else heappush
                        keep(latest, (due.at, number, DueLine(due, known)))
        if number >= MOST_COUNTED:
            break
    found = sorted((each for *_, each in latest), key=lambda each: each.order)
    return found, min(number, MOST_COUNTED)


async def _lines(
    ask: Ask, watch: Watch, filters: Mapping[str, Any], corner: Corner
) -> AsyncIterator[Sequence[LineNow]]:
    """Pages of the lines for which the condition may hold, newest record id first."""
    condition = watch.given.condition
    values: dict[str, Any] = {
        **filters,
        "states": [*condition.states] if isinstance(condition, InState) else [],
        "first": _first_day(condition, corner),
        "latest": corner.clock - timedelta(seconds=watch.given.for_seconds),
        "limit": _PAGE,
    }
    names = frozenset(filters)
    while True:
        rows = await rows_since(ask, watched_read(type(condition), names), values, corner)
        found = [row for row in rows if row[1] is not None]
        folds = [decode_line(fold) for _, _, fold in found]
        runs = dict[int, list[OpenRun]]()
        if isinstance(condition, RunOpen):
            runs = await _open_runs(ask, folds)
        known = [line_now(fold, runs.get(sort_key(fold.execution.id), ())) for fold in folds]
        if isinstance(condition, UsageOver):
            known = await _above(ask, condition, known, corner)
        yield known
        if len(found) < _PAGE:
            return
        values["after"] = found[-1][1]
        names = frozenset({*filters, "after"})


async def _open_runs(ask: Ask, folds: Sequence[LineFold]) -> dict[int, list[OpenRun]]:
    """The open runs of lines, by the line's key."""
    found = dict[int, list[OpenRun]]()
    lines = [sort_key(fold.execution.id) for fold in folds]
    for _, line, *run in await ask(OPEN_RUNS, {"lines": lines}):
        if line is not None:
            found.setdefault(line, []).append(OpenRun(*run))
    return found


def _first_day(condition: Condition, corner: Corner) -> date | None:
    return condition.period_of(corner.clock)[0] if isinstance(condition, UsageOver) else None


async def _above(
    ask: Ask, condition: UsageOver, lines: Sequence[LineNow], corner: Corner
) -> list[LineNow]:
    """The lines that are above the limit, each with its stretch."""
    known, period = {each.execution.id: each for each in lines}, condition.period_of(corner.clock)
    if not known:
        return []
    rows = await ask(above_read(condition.measure), values_of(condition, known, period))
    crossed = passed(condition, [tuple(row[1:]) for row in rows if row[1] is not None])
    instants = await ask(INSTANTS, {"positions": [*crossed.values()]})
    recorded = {position: at for _, position, at in instants}
    return [
        known[line]._replace(
            over={condition: over_since(line, period[0], position, recorded[position])}
        )
        for line, position in crossed.items()
    ]


async def silent_now(
    ask: Ask, watch: Watch, filters: Mapping[str, Any], corner: Corner
) -> Sequence[Due]:
    """The silences of the sources of a watch that are due, the latest due first."""
    condition = watch.given.condition
    assert isinstance(condition, SourceSilent)
    rows = await ask(heard_read(frozenset(filters)), {**filters, "sources": [*condition.sources]})
    heard = {source: last_seen for _, source, last_seen in rows if source is not None}
    dues = []
    for source in condition.sources:
        stretch = silent_since(source, heard.get(source), corner.clock)
        dues.append(Due(watch, stretch, due_of(watch.given, stretch.since)))
    found = [due for due in dues if due.at <= corner.clock]
    return sorted(found, key=lambda due: (-due.at.timestamp(), due.stretch.subject.id))
