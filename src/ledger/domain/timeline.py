"""A line's timeline and its usage (contract, Reading).

A timeline has the intervals between turning points. A usage has, by UTC day, the hours by resource,
the runs by status and the tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from ledger.domain.values import CAUSES, RUN_STATUSES, STATES, Cause, State, day_of


class TurningPoint(NamedTuple):
    """A turning point: from ``since`` on (effective time) this state and these causes held."""

    since: datetime
    state: State
    causes: frozenset[Cause]


class StateInterval(NamedTuple):
    """An interval in one state with the same open causes; ``until`` is None while it lasts."""

    state: State
    causes: tuple[Cause, ...]
    """The open causes, in the contract's order."""
    since: datetime
    until: datetime | None
    length: timedelta


def intervals(
    turns: Sequence[TurningPoint], start: datetime | None, end: datetime | None, now: datetime
) -> list[StateInterval]:
    """The intervals between turning points, clipped to ``start`` (inclusive) and ``end``.

    Intervals without length are left out, and neighbours with the same state and causes are then
    joined, so that each instant lies in one interval. The last interval is open unless ``end``
    clips it at or before now; the length of an open interval is counted up to now.
    """
    if start is not None and end is not None and end <= start:
        return []
    found: list[StateInterval] = []
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
        found.append(StateInterval(turn.state, causes, since, until, length))
    return found


def totals(found: Iterable[StateInterval]) -> tuple[dict[str, timedelta], dict[str, timedelta]]:
    """(time by state, time by cause), zero-filled; an interval counts for each of its causes."""
    by_state: dict[str, timedelta] = {state: timedelta() for state in STATES}
    by_cause: dict[str, timedelta] = {cause: timedelta() for cause in CAUSES}
    for interval in found:
        by_state[interval.state] += interval.length
        for cause in interval.causes:
            by_cause[cause] += interval.length
    return by_state, by_cause


class Amounts:
    """The sums of one day or of several days."""

    def __init__(self) -> None:
        self.hours: dict[str | None, int] = {}
        """Hundredths of hours by resource."""
        self.runs: dict[str, int] = dict.fromkeys(RUN_STATUSES, 0)
        self.tokens = 0

    def add_hours(self, amounts: Iterable[tuple[str | None, int]]) -> None:
        """Add hundredths of hours by resource."""
        for resource_id, amount in amounts:
            self.hours[resource_id] = self.hours.get(resource_id, 0) + amount

    def add_runs(self, amounts: Mapping[str, int]) -> None:
        for status, amount in amounts.items():
            self.runs[status] += amount

    def add(self, other: "Amounts") -> None:
        self.add_hours(other.hours.items())
        self.add_runs(other.runs)
        self.tokens += other.tokens

    def shown(self) -> dict[str, Any]:
        """The sums as the API shows them; hours without a resource come last, under null."""
        kept = {r: h for r, h in self.hours.items() if h}
        order = sorted(kept, key=lambda r: (r is None, r or ""))
        return {
            "hours": sum(kept.values()) / 100,
            "hours_by_resource": [{"resource_id": r, "hours": kept[r] / 100} for r in order],
            "runs": self.runs,
            "tokens_used": self.tokens,
        }


class Range(NamedTuple):
    """From ``start`` (inclusive) to ``end`` (exclusive)."""

    start: datetime
    end: datetime

    def days(self) -> Iterator[tuple[date, bool]]:
        """(day, is_whole) for each UTC day that the range touches: whether it has the whole day."""
        day = day_of(self.start)
        while (midnight := datetime.combine(day, time(), UTC)) < self.end:
            following = midnight + timedelta(days=1)
            yield day, self.start <= midnight and following <= self.end
            day += timedelta(days=1)
