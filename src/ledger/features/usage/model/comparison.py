"""Two instants compared: what changed in what the ledger knew (contract, Usage).

Pure: ``features/usage/reads/comparison.py`` reads both sides.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ledger.features.lines.model import health
from ledger.features.usage.model.usage import Sums


class LineState(NamedTuple):
    """A line as known at an instant."""

    state: str
    health_score: int | None
    open_blockers: int
    open_runs: int


class Events(NamedTuple):
    """The events of a line between two instants."""

    number: int
    """Their number; ``MOST_EVENTS`` means so many or more."""
    first: int
    """The position of the first event; ``last`` is that of the last one."""
    last: int


MOST_EVENTS = 1000

Side = tuple[LineState | None, Sums | None]
"""A line as known, or None if it was not; its sums, or None without a period."""


class BothSides(NamedTuple):
    """A line with an event between two instants."""

    then: Side
    now: Side
    events: Events

    @property
    def numbers(self) -> dict[str, tuple[Any, Any]]:
        """Each number, as known then and now."""
        return {name: (read(self.then), read(self.now)) for name, read in NUMBERS.items()}

    @property
    def words(self) -> dict[str, tuple[Any, Any]]:
        """State and health status, as known then and now."""
        return {
            "state": (_state(self.then), _state(self.now)),
            "health_status": (_health(self.then), _health(self.now)),
        }

    @property
    def differs(self) -> bool:
        pairs = (*self.words.values(), *self.numbers.values())
        return any(then != now for then, now in pairs)


def _state(side: Side) -> str | None:
    return None if side[0] is None else side[0].state


def _health(side: Side) -> str | None:
    return None if side[0] is None else health.status(side[0].health_score)


def _of_line(read: Callable[[LineState], Any]) -> Callable[[Side], Any]:
    return lambda side: None if side[0] is None else read(side[0])


def _summed(read: Callable[[Sums], Any]) -> Callable[[Side], Any]:
    return lambda side: None if side[1] is None or side[0] is None else read(side[1])


NUMBERS: Mapping[str, Callable[[Side], Any]] = {
    "health_score": _of_line(lambda line: line.health_score),
    "open_blockers": _of_line(lambda line: line.open_blockers),
    "open_runs": _of_line(lambda line: line.open_runs),
    "hours": _summed(lambda sums: sums.amounts.total_hours),
    "check_ins": _summed(lambda sums: sums.amounts.check_ins),
    "runs": _summed(lambda sums: sum(sums.amounts.runs.values())),
    "runs_failed": _summed(lambda sums: sums.amounts.runs["failed"]),
    "tokens_used": _summed(lambda sums: sums.amounts.tokens),
    "seconds_blocked": _summed(lambda sums: sums.micros_by_state.get("blocked", 0) / 1_000_000),
}
"""How to compute each number of a side, in the order of a row."""

OF_PERIOD = frozenset(NUMBERS) - {"health_score", "open_blockers", "open_runs"}
"""The numbers that count within the period. They are null without a period."""

OF_RUNS = frozenset({"runs", "runs_failed", "tokens_used", "seconds_blocked"})
"""The numbers that are null if the request filters by resource."""

STATES: Mapping[str, Callable[[str | None, str | None], bool]] = {
    "newly_blocked": lambda then, now: now == "blocked" != then,
    "cleared": lambda then, now: then == "blocked" != now,
    "still_blocked": lambda then, now: then == now == "blocked",
    "newly_paused": lambda then, now: now == "paused" != then,
    "closed": lambda then, now: now == "closed" != then,
    "started": lambda then, now: then is None,
}
"""The counted changes of state: a test of the states then and now."""


def pair(then: Any, now: Any) -> dict[str, Any]:
    """A number then and now, and its change. The change is null if either is null."""
    change = None if then is None or now is None else now - then
    return {"then": then, "now": now, "change": round(change, 6) if change else change}


class ChangeTotals:
    """The totals of changed lines."""

    def __init__(self) -> None:
        self.lines = self.lines_changed = self.events = 0
        self._states = dict.fromkeys(STATES, 0)
        self._numbers: dict[str, list[Any]] = {
            name: [None, None] for name in NUMBERS if name != "health_score"
        }

    def add(self, line: BothSides, values: Mapping[str, tuple[Any, Any]]) -> None:
        """Count a line with its numbers."""
        self.lines += 1
        self.lines_changed += line.differs
        self.events += line.events.number
        then, now = line.words["state"]
        for name, holds in STATES.items():
            self._states[name] += holds(then, now)
        for name, sums in self._numbers.items():
            for side, value in enumerate(values[name]):
                if value is not None:
                    sums[side] = (sums[side] or 0) + value

    def rendered(self, names: frozenset[str]) -> dict[str, Any]:
        """The totals as the API returns them. The numbers in ``names`` are null."""
        numbers = {}
        for name, (then, now) in self._numbers.items():
            is_null = name in names
            sides = (None, None) if is_null else (_rounded(then or 0), _rounded(now or 0))
            numbers[name] = pair(*sides)
        return {
            "lines": self.lines,
            "lines_changed": self.lines_changed,
            "events": self.events,
            "states": self._states,
            **numbers,
        }


def _rounded(value: float) -> float:
    """Round away the error of sums of floats."""
    return round(value, 6)
