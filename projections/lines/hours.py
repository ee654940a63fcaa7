"""The sums of a line's check-ins and hours by UTC day and resource (contract, Reading, usage).

``execution_day`` only grows: a check-in or void adds a row with the new sums of its resource on
that day. Its difference from the row before is the change. The day at an instant is the latest row
of each resource at or before that instant. (If each row had all resources, the size of a day would
grow with the square of their number.)
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import BigInt, Date, Instant, Int, LineKey, Table, Text
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import day_of, sort_key
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.lines.model import execution_events as lines
from projections.lines import line


class DayRow(NamedTuple):
    """The sums of a resource's day after a check-in or a void."""

    line_key: LineKey
    position: BigInt
    at: Instant
    total: BigInt
    """Hundredths of hours."""
    day: Date
    check_ins: Int
    resource_id: Text


DAY = Table(
    "execution_day",
    DayRow,
    key=("line_key", "day", "resource_id", "position"),
    owner=("execution_interval", "line_key"),
)

_Key = tuple[int, date, str]
"""(line, day, resource); the resource is empty if there is none."""


class _Amount(msgspec.Struct):
    hundredths: int = 0
    check_ins: int = 0


class _Change(NamedTuple):
    """What a check-in adds, or what a void subtracts."""

    key: _Key
    position: int
    at: datetime
    hundredths: int
    check_ins: int


class Hours(Remembering):
    """The fold of check-ins and voids."""

    def __init__(self) -> None:
        self._amounts: FoldCache[_Key, _Amount] = FoldCache(lambda _: _Amount())
        self._changes: list[_Change] = []
        """The changes by the events that were prepared last."""
        super().__init__(self._amounts)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        self._changes = [_change(event) for event in events]
        keys = {change.key: None for change in self._changes}
        generation.find(self._amounts, keys, DAY, _amount_of)

    def apply(self, generation: Generation) -> None:
        """Apply the events that were prepared."""
        rows: list[DayRow] = []
        for key, position, at, hundredths, number in self._changes:
            amount = self._amounts[key]
            amount.hundredths += hundredths
            amount.check_ins += number
            line_key, day, resource_id = key
            sums = amount.hundredths, day, amount.check_ins
            rows.append(DayRow(line_key, position, at, *sums, resource_id))
        generation.write(DAY, rows)


def _amount_of(row: DayRow) -> tuple[_Key, _Amount]:
    return (row.line_key, row.day, row.resource_id), _Amount(row.total, row.check_ins)


def _change(event: Recorded) -> _Change:
    body = event.body
    if isinstance(body, lines.CheckedIn):
        at, amount, number = event.occurred_at, line.hundredths(body.hours), 1
    else:
        assert isinstance(body, lines.CheckInVoided)
        at, amount, number = body.checked_in_at, -line.hundredths(body.hours), -1
    key = (sort_key(event.originator_id), day_of(at), body.resource_id or "")
    return _Change(key, event.position, at, amount, number)
