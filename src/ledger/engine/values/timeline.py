"""A line's timeline and its usage (contract, Reading).

A timeline has the intervals between turning points. Usage has, by day, the check-ins and hours by
resource, the runs by status and the tokens by model.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from ledger.engine.values.values import CAUSES, RUN_STATUSES, STATES, Cause, State, day_of


class TurningPoint(NamedTuple):
    """From ``since`` on (effective time), this state and these causes held."""

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
    points: Sequence[TurningPoint], start: datetime | None, end: datetime | None, now: datetime
) -> list[StateInterval]:
    """The intervals between turning points, clipped to ``start`` (inclusive) and ``end``.

    Intervals without length are left out. Neighbours with the same state and causes are then
    joined, so that each instant lies in one interval. The last interval is open unless ``end``
    clips it at or before now; the length of an open interval is counted up to now.
    """
    if start is not None and end is not None and end <= start:
        return []
    found: list[StateInterval] = []
    for number, point in enumerate(points):
        since = point.since if start is None else max(point.since, start)
        following = points[number + 1].since if number + 1 < len(points) else None
        lasts = following is None and (end is None or end > now)
        until = None if lasts else min(at for at in (following, end) if at is not None)
        if until is not None and until <= since:
            continue
        causes = tuple(cause for cause in CAUSES if cause in point.causes)
        if found and (found[-1].state, found[-1].causes) == (point.state, causes):
            since = found.pop().since
        length = (max(now, since) if until is None else until) - since
        found.append(StateInterval(point.state, causes, since, until, length))
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


TOKENS = ("input", "output", "cache_read", "cache_write", "reasoning")
"""The tokens of a model; the caches are a part of the input, and the reasoning of the output."""


class Amounts:
    """The sums of one or more spans of time."""

    def __init__(self) -> None:
        self.hours: dict[str | None, int] = {}
        """Hundredths of hours by resource."""
        self.check_ins = 0
        self.runs: dict[str, int] = dict.fromkeys(RUN_STATUSES, 0)
        self.tokens = 0
        self.models: dict[str, list[int]] = {}
        """The numbers of ``TOKENS`` by model. A run may leave out its models."""

    def add_hours(self, amounts: Iterable[tuple[str | None, int, int]]) -> None:
        """Add hundredths of hours and check-ins by resource."""
        for resource_id, amount, check_ins in amounts:
            self.hours[resource_id] = self.hours.get(resource_id, 0) + amount
            self.check_ins += check_ins

    def add_runs(self, amounts: Mapping[str, int]) -> None:
        for status, amount in amounts.items():
            self.runs[status] += amount

    def add_models(self, amounts: Iterable[tuple[str, Sequence[int]]]) -> None:
        """Add the numbers of ``TOKENS`` by model. (They are a part of ``tokens`` already.)"""
        for model, numbers in amounts:
            had = self.models.get(model, (0,) * len(TOKENS))
            self.models[model] = [a + b for a, b in zip(had, numbers, strict=True)]

    def add(self, other: "Amounts") -> None:
        self.add_hours((resource, amount, 0) for resource, amount in other.hours.items())
        self.check_ins += other.check_ins
        self.add_runs(other.runs)
        self.tokens += other.tokens
        self.add_models(other.models.items())

    @property
    def total_hours(self) -> float:
        return sum(self.hours.values()) / 100

    @property
    def tokens_by_model(self) -> list[dict[str, Any]]:
        """The tokens by model, most first; last, under null, those of runs without models."""
        nonzero = {model: numbers for model, numbers in self.models.items() if any(numbers)}
        used = {model: numbers[0] + numbers[1] for model, numbers in nonzero.items()}
        rows = [
            {"model": model, "tokens_used": used[model]}
            | dict(zip(TOKENS, nonzero[model], strict=True))
            for model in sorted(nonzero, key=lambda model: (-used[model], model))
        ]
        if rest := self.tokens - sum(used.values()):
            rows.append({"model": None, "tokens_used": rest} | dict.fromkeys(TOKENS))
        return rows

    def rendered(self) -> dict[str, Any]:
        """The sums as the API returns them; hours without a resource come last, under null."""
        nonzero = {r: h for r, h in self.hours.items() if h}
        order = sorted(nonzero, key=lambda r: (r is None, r or ""))
        return {
            "hours": self.total_hours,
            "hours_by_resource": [{"resource_id": r, "hours": nonzero[r] / 100} for r in order],
            "check_ins": self.check_ins,
            "runs": self.runs,
            "tokens_used": self.tokens,
            "tokens_by_model": self.tokens_by_model,
        }


class StateSpans(NamedTuple):
    """Consecutive spans of time, such as days or months, numbered from 1."""

    bounds: Sequence[datetime]
    """The beginning of each span, then the end of the last one."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The spans as parameters of a statement (``projections/runs/usage.py``).

        ``days`` and ``numbers`` are the UTC days within a span, with its number. ``parts`` are the
        other days, which a bound cuts; ``first`` and ``last`` are the bounds of all days.
        """
        start, end = self.bounds[0], self.bounds[-1]
        days, numbers, parts = list[date](), list[int](), list[date]()
        day = day_of(start)
        while (midnight := datetime.combine(day, time(), UTC)) < end:
            number = bisect_right(self.bounds, midnight)
            if number and midnight + _DAY <= self.bounds[number]:
                days.append(day)
                numbers.append(number)
            else:
                parts.append(day)
            day += _DAY
        bounds = list(self.bounds)
        return {
            "from": start,
            "to": end,
            "first": day_of(start),
            "last": day_of(end),
            "bounds": bounds,
            "days": days,
            "numbers": numbers,
            "parts": parts,
        }


_DAY = timedelta(days=1)
