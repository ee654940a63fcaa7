"""The usage of a line by UTC day: hours by resource, runs by status, tokens (contract, Reading)."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from ledger.domain.values import RUN_STATUSES, day_of


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
        """Add runs by status."""
        for status, amount in amounts.items():
            self.runs[status] += amount

    def add(self, other: "Amounts") -> None:
        """Add all sums of another object."""
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
