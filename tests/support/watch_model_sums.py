"""A model of the sums of a line by the contract (Usage): of each day, ISO week and month of UTC.

After each event all check-ins and runs are added up anew, so there are no running totals here. The
model shares no code with the service.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple


class SumKey(NamedTuple):
    """The sum of a measure in one period."""

    measure: str
    period: str
    begin: date


class AboveLimit(NamedTuple):
    """A time within a period in which a sum was above a limit."""

    begin: date
    """The first day of the period."""
    position: int
    """The position of the event by which the sum passed the limit."""
    since: datetime
    end: datetime | None
    """When it was recorded that the sum fell, within the period."""
    until: datetime
    """The end of the period."""


@dataclass
class _RunUsed:
    started_at: datetime | None = None
    completed_at: datetime | None = None
    tokens: int = 0


class LineSums:
    """The sums of a line after each event that was taken."""

    def __init__(self) -> None:
        self._check_ins: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
        """The check-ins that were not voided, by source and id of their facts."""
        self._runs: dict[str, _RunUsed] = defaultdict(_RunUsed)
        self._changes: dict[SumKey, list[tuple[Decimal, datetime, int]]] = {}
        """(sum, recorded at, position) after each event that changed a sum."""

    def take(self, event: dict[str, Any], topic: str, position: int) -> None:
        """Fold an event of the line, or of one of its runs."""
        state, run_id = event["state"], event["originator_id"]
        at, recorded_at = (datetime.fromisoformat(state[n]) for n in ("occurred_at", "recorded_at"))
        body = state["body"]
        match topic:
            case "execution.checked_in":
                hours = Decimal(str(body.get("hours") or 0))
                self._check_ins[state["fact"]["source"], state["fact"]["id"]] = at, hours
            case "execution.check_in_voided":
                del self._check_ins[state["fact"]["source"], body["fact_id"]]
            case "run.started":
                self._runs[run_id].started_at = at
            case "run.completed" | "run.failed" | "run.cancelled":
                run = self._runs[run_id]
                run.completed_at, run.tokens = at, body.get("tokens_used", 0)
            case "run.usage_corrected":
                self._runs[run_id].tokens = body["tokens_used"]
            case _:
                return
        self._note(recorded_at, position)

    def above(self, measure: str, period: str, limit: Decimal) -> Iterator[AboveLimit]:
        """The times within the periods of a kind in which the sum was above a limit."""
        for key, changes in self._changes.items():
            if key[:2] != (measure, period):
                continue
            begin, until = _bounds(key)
            found: AboveLimit | None = None
            for total, recorded_at, position in [*changes, (Decimal(), until, 0)]:
                if total > limit and found is None:
                    since = max(begin, recorded_at)
                    found = AboveLimit(key.begin, position, since, None, until)
                elif total <= limit and found is not None:
                    if found.since < min(recorded_at, until):
                        yield found._replace(end=recorded_at if recorded_at < until else None)
                    found = None

    def _note(self, recorded_at: datetime, position: int) -> None:
        sums = dict.fromkeys(self._changes, Decimal())
        for measure, at, amount in self._items():
            for key in _keys_of(measure, at):
                sums[key] = sums.get(key, Decimal()) + amount
        for key, total in sums.items():
            changes = self._changes.setdefault(key, [])
            if not changes or changes[-1][0] != total:
                changes.append((total, recorded_at, position))

    def _items(self) -> Iterator[tuple[str, datetime, Decimal]]:
        for at, hours in self._check_ins.values():
            yield "hours", at, hours
        for run in self._runs.values():
            if run.started_at is not None:
                yield "runs", run.started_at, Decimal(1)
            if run.completed_at is not None:
                yield "tokens_used", run.completed_at, Decimal(run.tokens)


def _keys_of(measure: str, at: datetime) -> Iterator[SumKey]:
    day = at.astimezone(UTC).date()
    yield SumKey(measure, "day", day)
    yield SumKey(measure, "week", day - timedelta(days=day.isoweekday() - 1))
    yield SumKey(measure, "month", date(day.year, day.month, 1))


def _bounds(key: SumKey) -> tuple[datetime, datetime]:
    """The first instant of the period, and the first one after it."""
    begin = key.begin
    match key.period:
        case "day":
            end = begin + timedelta(days=1)
        case "week":
            end = begin + timedelta(days=7)
        case _:
            end = date(begin.year + begin.month // 12, begin.month % 12 + 1, 1)
    first, beyond = (datetime.combine(day, time(), UTC) for day in (begin, end))
    return first, beyond
