"""A preview of the past: the alerts that a watch would have opened between two instants.

Time is effective time, as it is known now. So the answer differs from the alerts that were opened
where facts came late. Of a closed line all that came before its closing counts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.reads.corner import Corner
from ledger.engine.values.errors import Invalid
from ledger.engine.values.recorded import Actor, Event
from ledger.engine.values.values import State
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model.execution import Blocker, Execution, Hold
from ledger.features.watches.model.alert import AlertSubject
from ledger.features.watches.model.stretch import LineNow, Stretch, due_of, sentence
from ledger.features.watches.model.watch import BlockerOpen, InState, Watch
from ledger.features.watches.reads.changes import blockers_read, states_read
from ledger.features.watches.reads.preview import Ask, rows_since

MOST_LINES = 20_000

_PAGE = 500
"""Lines of a statement."""

_decode = EnvelopeMapper().decode


class NamedLine(NamedTuple):
    """A line, with its present name."""

    id: str
    name: str | None


class Episode(NamedTuple):
    """An alert that would have been opened."""

    line: NamedLine
    stretch: Stretch
    due: datetime
    until: datetime | None
    """When its condition ended; None: it holds still."""
    text: str


class _Change(NamedTuple):
    """A change of a line, with the event that made it if the condition may begin there."""

    opened: int
    since: datetime
    state: State
    body: Event | None


async def episodes_of(
    ask: Ask,
    turn: Callable[[], Awaitable[None]],
    watch: Watch,
    filters: Mapping[str, Any],
    period: tuple[datetime, datetime],
    corner: Corner,
) -> list[Episode]:
    """The alerts that would have been due in a period, the latest first.

    Raises Invalid for too many lines.
    """
    found = list[Episode]()
    async for lines in _pages(ask, watch, filters, period, corner):
        await turn()
        for line, changes in lines:
            found += _episodes(watch, line, changes, period, corner.clock)
    return sorted(found, key=lambda each: (each.due, each.line.id), reverse=True)


async def _pages(
    ask: Ask,
    watch: Watch,
    filters: Mapping[str, Any],
    period: tuple[datetime, datetime],
    corner: Corner,
) -> AsyncIterator[list[tuple[NamedLine, list[_Change]]]]:
    condition = watch.given.condition
    states = [*condition.states] if isinstance(condition, InState) else []
    values = {**filters, "states": states, "from": period[0], "to": period[1], "limit": _PAGE}
    read, names, seen = states_read if states else blockers_read, frozenset(filters), 0
    while True:
        rows = await rows_since(ask, read(names), values, corner)
        lines = [
            (NamedLine(line_id, name), [_change(row) for row in group if row[4] is not None])
            for (_, line_id, name), group in groupby(rows, itemgetter(1, 2, 3))
            if line_id is not None
        ]
        seen += len(lines)
        if seen > MOST_LINES:
            raise Invalid.at("/lines", f"are more than {MOST_LINES:,}")
        yield lines
        if len(lines) < _PAGE:
            return
        values["after"] = rows[-1][1]
        names = frozenset({*filters, "after"})


def _change(row: Sequence[Any]) -> _Change:
    *_, opened, since, state, stream, version, topic, stored = row
    body = None if topic is None else _decode(stream, version, topic, stored, opened).body
    return _Change(opened, since, state, body)


def _episodes(
    watch: Watch,
    line: NamedLine,
    changes: Sequence[_Change],
    period: tuple[datetime, datetime],
    now: datetime,
) -> Iterator[Episode]:
    condition = watch.given.condition
    if isinstance(condition, InState):
        stretches = _of_states(line, changes, condition.states)
    else:
        assert isinstance(condition, BlockerOpen)
        stretches = _of_blockers(line, changes, condition.causes)
    for stretch, until, known in stretches:
        due = due_of(watch.given, stretch.since)
        ends = now if until is None else until
        if period[0] <= due < period[1] and (due < ends or (until is None and due == ends)):
            yield Episode(line, stretch, due, until, sentence(watch.given, stretch, known))


Told = Iterator[tuple[Stretch, datetime | None, LineNow]]
"""Stretches with their ends, and the line as far as their sentences tell of it."""


def _of_states(line: NamedLine, changes: Sequence[_Change], states: Sequence[str]) -> Told:
    own = AlertSubject("service_line", line.id)
    begun: _Change | None = None
    for index, change in enumerate(changes):
        lasts = index + 1 == len(changes) or changes[index + 1].since > change.since
        if change.state in states:
            begun = begun or change
        elif begun is not None and lasts:
            yield _stretch(own, begun), change.since, _line_of(line, begun)
            begun = None
    if begun is not None:
        yield _stretch(own, begun), None, _line_of(line, begun)


def _of_blockers(line: NamedLine, changes: Sequence[_Change], causes: Sequence[str] | None) -> Told:
    begun: dict[str, _Change] = {}
    for change in changes:
        ended: Sequence[str] = ()
        match change.body:
            case events.Blocked(blocker_id=blocker, cause=cause):
                if causes is None or cause in causes:
                    begun[blocker] = change
            case events.Unblocked(blocker_id=blocker):
                ended = [blocker]
            case events.Closed():
                ended = [*begun]
        for blocker in ended:
            if (since := begun.pop(blocker, None)) is not None:
                subject = AlertSubject("blocker", blocker)
                yield _stretch(subject, since), change.since, _line_of(line, since)
    for blocker, since in begun.items():
        yield _stretch(AlertSubject("blocker", blocker), since), None, _line_of(line, since)


def _stretch(subject: AlertSubject, begun: _Change) -> Stretch:
    return Stretch(subject, begun.since, str(begun.opened), begun.opened)


def _line_of(named: NamedLine, begun: _Change) -> LineNow:
    """The line as the event that began a stretch left it, as far as a sentence tells of it."""
    since, line = begun.since, Execution(named.id, state=begun.state, name=named.name)
    match begun.body:
        case events.Blocked(blocker_id=blocker, cause=cause, reason=reason) as body:
            line.blockers = {
                blocker: Blocker(blocker, cause, reason, since, body.assignee, body.due_at, "")
            }
        case events.Paused(hold=hold, reason=reason):
            line.holds = {hold: Hold(hold, reason, since, Actor("system", ""))}
    return LineNow(line, since, 0)
