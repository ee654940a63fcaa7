"""A preview: what a watch would have open now, or would have opened between two instants.

Lines are read in pages, and judged by the functions that decide alerts. Lines go on changing
meanwhile: each is judged as it is when its page is read, at the preview's position or later.

The time of the past is effective time, as it is known now. So the answer differs from the alerts
that were opened where facts came late. Of a closed line all that came before its closing counts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from heapq import heappush, heappushpop
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from msgspec import UNSET

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.reads.as_of import AsOf
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Behind, Invalid
from ledger.engine.values.recorded import Actor
from ledger.engine.values.rendering import time_text
from ledger.engine.values.values import sort_key
from ledger.engine.views.statements import Read
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model.execution import Blocker, Execution, Hold
from ledger.features.watches.kinds import base
from ledger.features.watches.kinds.base import LineChange, LineNow
from ledger.features.watches.kinds.source_silent import SourceSilent, silent_since
from ledger.features.watches.model.alert import Due, due_for, due_of
from ledger.features.watches.model.watch import Watch
from ledger.features.watches.reads.limits import lines_above
from ledger.features.watches.reads.watched import (
    Ask,
    decode_line,
    line_now,
    past_read,
    watched_read,
)
from projections.lines.line import LineFold
from projections.runs.statements import OPEN_RUNS
from projections.watches.source.statements import last_reports_read

MOST_ROWS, MOST_COUNTED = 1_000, 10_000
"""The most rows of an answer, and the most episodes that are counted."""

_PAGE = 1_000
"""Lines of a statement: some milliseconds for PostgreSQL."""

_PORTION = 250
"""Lines that are judged in one slice of the event loop: a millisecond or two."""

MOST_LINES = 20_000
"""The lines of a preview of the past."""

_PAGE_OF_PAST = 500
"""Lines of a statement that reads their changes."""

_decode = EnvelopeMapper().decode


async def rows_since(ask: Ask, read: Read, values: Mapping[str, Any], as_of: AsOf) -> Answer:
    """The rows at the position of ``as_of`` or later. Raises Behind."""
    rows = await ask(read, values)
    if rows.position < as_of.position:
        raise Behind("The views have fallen behind the position of the answer.")
    return rows


class DueLine(NamedTuple):
    """An episode that is due, and its line as far as its sentence needs it."""

    due: Due
    line: LineNow
    until: Any = UNSET
    """Of a period: when the condition ended; None: it holds still."""

    @property
    def order(self) -> tuple[float, int, str]:
        line, subject = self.line.execution.id, self.due.episode.subject
        return -self.due.at.timestamp(), sort_key(line) if line else 0, subject.id


async def open_now(
    ask: Ask,
    next_slice: Callable[[], Awaitable[None]],
    watch: Watch,
    filters: Mapping[str, Any],
    as_of: AsOf,
) -> tuple[Sequence[DueLine], int]:
    """The episodes that are due, the latest due first, and their number up to ``MOST_COUNTED``.

    At most ``MOST_ROWS`` of them. If there are more than are counted, they are the latest among so
    many. ``filters`` are those of the watch's tenant and lines; ``next_slice`` waits before each
    portion.
    """
    latest = list[tuple[Any, int, DueLine]]()
    number = 0
    async for lines in _lines(ask, watch, filters, as_of):
        for begin in range(0, len(lines), _PORTION):
            await next_slice()
            for line in lines[begin : begin + _PORTION]:
                for due in due_for([watch], line):
                    if due.at <= as_of.clock:
                        number += 1
                        keep = heappushpop if len(latest) == MOST_ROWS else heappush
                        keep(latest, (due.at, number, DueLine(due, line)))
        if number >= MOST_COUNTED:
            break
    found = sorted((each for *_, each in latest), key=lambda each: each.order)
    return found, min(number, MOST_COUNTED)


async def _lines(
    ask: Ask, watch: Watch, filters: Mapping[str, Any], as_of: AsOf
) -> AsyncIterator[Sequence[LineNow]]:
    """Pages of the lines for which the condition may hold, newest record id first."""
    condition = watch.config.condition
    parameters = condition.parameters([(condition, watch.config.for_seconds)], as_of.clock)
    values: dict[str, Any] = {**filters, **parameters, "limit": _PAGE}
    names = frozenset(filters)
    while True:
        rows = await rows_since(ask, watched_read(type(condition), names), values, as_of)
        found = [row for row in rows if row[1] is not None]
        states = [decode_line(packed) for _, _, packed in found]
        runs = dict[int, list[base.OpenRun]]()
        if condition.about == "open_runs":
            runs = await _open_runs(ask, states)
        current = [line_now(state, runs.get(sort_key(state.execution.id), ())) for state in states]
        if condition.about == "sums":
            current = await lines_above(ask, condition, current, as_of)
        yield current
        if len(found) < _PAGE:
            return
        values["after"] = found[-1][1]
        names = frozenset({*filters, "after"})


async def _open_runs(ask: Ask, states: Sequence[LineFold]) -> dict[int, list[base.OpenRun]]:
    found = dict[int, list[base.OpenRun]]()
    lines = [sort_key(state.execution.id) for state in states]
    for _, line, *run in await ask(OPEN_RUNS, {"lines": lines}):
        if line is not None:
            found.setdefault(line, []).append(base.OpenRun(*run))
    return found


async def silent_now(
    ask: Ask, watch: Watch, filters: Mapping[str, Any], as_of: AsOf
) -> Sequence[DueLine]:
    """The silences of the sources of a watch that are due, the latest due first."""
    condition = watch.config.condition
    assert isinstance(condition, SourceSilent)
    rows = await ask(
        last_reports_read(frozenset(filters)), {**filters, "sources": [*condition.sources]}
    )
    last_facts = {source: last_seen for _, source, last_seen in rows if source is not None}
    dues = []
    for source in condition.sources:
        episode = silent_since(source, last_facts.get(source), as_of.clock)
        due = Due(watch, episode, due_of(watch.config, episode.since))
        dues.append(DueLine(due, base.NO_LINE))
    found = [each for each in dues if each.due.at <= as_of.clock]
    return sorted(found, key=lambda each: each.order)


# The past.


async def opened_in(
    ask: Ask,
    next_slice: Callable[[], Awaitable[None]],
    watch: Watch,
    filters: Mapping[str, Any],
    period: tuple[datetime, datetime],
    as_of: AsOf,
) -> tuple[Sequence[DueLine], int]:
    """At most ``MOST_ROWS``, the latest first, and their number. Raises Invalid for many lines."""
    latest, number = list[tuple[datetime, str, int, DueLine]](), 0
    async for lines in _pages(ask, watch, filters, period, as_of):
        await next_slice()
        for line in lines:
            for found in _opened(watch, *line, period, as_of.clock):
                number += 1
                keep = heappushpop if len(latest) == MOST_ROWS else heappush
                keep(latest, (found.due.at, found.line.execution.id, -number, found))
    return [found for *_, found in sorted(latest, reverse=True)], number


async def _pages(
    ask: Ask,
    watch: Watch,
    filters: Mapping[str, Any],
    period: tuple[datetime, datetime],
    as_of: AsOf,
) -> AsyncIterator[list[tuple[str, str | None, list[LineChange]]]]:
    condition = watch.config.condition
    parameters = condition.parameters([(condition, watch.config.for_seconds)], as_of.clock)
    values = {**filters, **parameters, "from": period[0], "to": period[1], "limit": _PAGE_OF_PAST}
    names, count = frozenset(filters), 0
    while True:
        rows = await rows_since(ask, past_read(type(condition), names), values, as_of)
        lines = [
            (line_id, name, [_change(row) for row in group if row[4] is not None])
            for (_, line_id, name), group in groupby(rows, itemgetter(1, 2, 3))
            if line_id is not None
        ]
        count += len(lines)
        if count > MOST_LINES:
            raise Invalid.at("/lines", f"are more than {MOST_LINES:,}")
        yield lines
        if len(lines) < _PAGE_OF_PAST:
            return
        values["after"] = rows[-1][1]
        names = frozenset({*filters, "after"})


def _change(row: Sequence[Any]) -> LineChange:
    *_, opened, since, state, stream, version, topic, stored = row
    event = None if topic is None else _decode(stream, version, topic, stored, opened)
    return LineChange(opened, since, state, event=event)


def _opened(
    watch: Watch,
    line_id: str,
    name: str | None,
    changes: Sequence[LineChange],
    period: tuple[datetime, datetime],
    now: datetime,
) -> Iterator[DueLine]:
    for subject, first, until in _episodes(watch.config.condition, line_id, changes):
        at, ends = due_of(watch.config, first.since), now if until is None else until
        if period[0] <= at < period[1] and (at < ends or (until is None and at == ends)):
            episode = base.begun(subject.type, subject.id, first.since, first.opened)
            yield DueLine(Due(watch, episode, at), _line_of(line_id, name, first), time_text(until))


def _episodes(
    condition: base.Condition, line_id: str, changes: Sequence[LineChange]
) -> Iterator[tuple[base.AlertSubject, LineChange, datetime | None]]:
    """(subject, change that began it, end) of the episodes; None: the condition holds still."""
    own, held = base.AlertSubject("service_line", line_id), dict[base.AlertSubject, LineChange]()
    for at, holds, subject, change in condition.transitions(changes, None):
        if holds and change is not None:
            held[subject or own] = change
        else:
            for each in [*held] if subject is None else [subject]:
                if each in held:
                    yield each, held.pop(each), at
    for each, change in held.items():
        yield each, change, None


def _line_of(line_id: str, name: str | None, first: LineChange) -> LineNow:
    """The line as the event that began an episode left it, as far as a sentence needs it."""
    assert first.state is not None, "a change of a line has its state"
    since, line = first.since, Execution(line_id, state=first.state, name=name)
    match None if first.event is None else first.event.body:
        case events.Blocked(blocker_id=blocker, cause=cause, reason=reason) as body:
            line.blockers = {
                blocker: Blocker(blocker, cause, reason, since, body.assignee, body.due_at, "")
            }
        case events.Paused(hold=hold, reason=reason):
            line.holds = {hold: Hold(hold, reason, since, Actor("system", ""))}
    return LineNow(line, since, 0)
