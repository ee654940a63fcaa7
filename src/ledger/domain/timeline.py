"""A line's timeline: the intervals between its turning points (contract, Reading)."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ledger.domain.values import CAUSES, STATES


class Turn(NamedTuple):
    """A turning point: from ``since`` on (effective time) this state and these causes held."""

    since: datetime
    state: str
    causes: frozenset[str]


class Interval(NamedTuple):
    """An interval in one state with the same open causes; ``until`` is None while it lasts."""

    state: str
    causes: tuple[str, ...]
    """The open causes, in the contract's order."""
    since: datetime
    until: datetime | None
    length: timedelta


def intervals(
    turns: Sequence[Turn], start: datetime | None, end: datetime | None, now: datetime
) -> list[Interval]:
    """The intervals between turning points, clipped to ``start`` (inclusive) and ``end``.

    Intervals without length are left out, and neighbours with the same state and causes are then
    joined, so that each instant lies in one interval. The last interval is open unless ``end``
    clips it at or before now; the length of an open interval is counted up to now.
    """
    if start is not None and end is not None and end <= start:
        return []
    found: list[Interval] = []
    for number, turn in enumerate(turns):
        since = turn.since if start is None else max(turn.since, start)
        following = turns[number + 1].since if number + 1 < len(turns) else None
        lasts = following is None and (end is None or end > now)
        until = None if lasts else min(at for at in (following, end) if at is not None)
        if until is not None and until <= since:
            continue
        causes = tuple(cause for cause in CAUSES if cause in turn.causes)
        if found and (found[-1].state, found[-1].causes) == (turn.state, causes):
            since = found.pop().since
        length = (max(now, since) if until is None else until) - since
        found.append(Interval(turn.state, causes, since, until, length))
    return found


def totals(found: Iterable[Interval]) -> tuple[dict[str, timedelta], dict[str, timedelta]]:
    """(time by state, time by cause), zero-filled; an interval counts for each of its causes."""
    by_state: dict[str, timedelta] = {state: timedelta() for state in STATES}
    by_cause: dict[str, timedelta] = {cause: timedelta() for cause in CAUSES}
    for interval in found:
        by_state[interval.state] += interval.length
        for cause in interval.causes:
            by_cause[cause] += interval.length
    return by_state, by_cause
