"""Check-ins, and the usage that the service answers, taken apart by days."""

from typing import Any

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.model import STATUSES

APRIL = {"from_": "2026-04-01", "to": "2026-05-01"}

NOTHING = {
    "hours": 0,
    "hours_by_resource": [],
    "check_ins": 0,
    "runs": dict.fromkeys(STATUSES, 0),
    "tokens_used": 0,
    "tokens_by_model": [],
}

NO_PARTS = dict.fromkeys(("input", "output", "cache_read", "cache_write", "reasoning"))
"""The parts of tokens without a model."""


def ask(edge: Edge, line: str, **bounds: str) -> dict[str, Any]:
    """The usage of a line, as the service answers it."""
    params = {name.rstrip("_"): value for name, value in bounds.items()}
    data: dict[str, Any] = edge.data(f"/v1/execution/{line}/usage", params=params)
    return data


def days_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The amounts of each day, by date, in the order of the answer."""
    return {day["date"]: {k: v for k, v in day.items() if k != "date"} for day in data["by_day"]}


def used(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The amounts above zero, by date; days without any are left out."""
    found = {}
    for date, day in days_of(data).items():
        sums = {k: v for k, v in day.items() if v and k in ("hours", "tokens_used")}
        sums |= {status: count for status, count in day["runs"].items() if count}
        if sums:
            found[date] = sums
    return found


def check_in(line: str, time: str, hours: float, resource: str | None = None) -> dict[str, Any]:
    return fact("execution.checked_in", line, {"hours": hours, "resource_id": resource}, time=time)


def instant(edge: Edge) -> str:
    """An instant between the events before and those that follow."""
    edge.clock.advance(seconds=60)
    now = str(edge.clock.now.isoformat())
    edge.clock.advance(seconds=60)
    return now
