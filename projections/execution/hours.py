"""The hours that a line's check-ins come to, by UTC day and resource (contract 4, usage).

``execution_day`` only grows: a row says what one check-in or void changed, and what its resource
came to that day with it. So a day of any instant is, of each resource, the latest row at or before
it. (With all of a day's resources in each row, a day would grow with the square of their number.)
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import NamedTuple

import msgspec

from ledger.domain import execution_events as lines
from ledger.domain.recorded import Recorded
from ledger.domain.values import day_of
from ledger.postgres.exchange import Rows
from ledger.postgres.table import BigInt, Date, Instant, Table, Text
from ledger.views.folds import Folds
from ledger.views.generation import Generation
from projections.execution import line


class DayRow(NamedTuple):
    """The hours that a check-in or a void adds to a resource's day, and the day's sum with them.

    Both in hundredths of hours.
    """

    line_id: Text
    day: Date
    """UTC."""
    resource_id: Text
    """Empty: none."""
    position: BigInt
    at: Instant
    """The check-in's time."""
    change: BigInt
    total: BigInt
    """Of the day up to this position."""


DAY = Table("execution_day", DayRow, key=("line_id", "day", "resource_id", "position"))

# What these days of these lines have come to for these resources.
_LOAD = """
SELECT asked.line_id, asked.day, asked.resource_id, latest.total
FROM unnest($1::text[], $2::date[], $3::text[]) AS asked (line_id, day, resource_id)
CROSS JOIN LATERAL (
    SELECT total FROM ledger.execution_day_{g} AS d
    WHERE d.line_id = asked.line_id AND d.day = asked.day AND d.resource_id = asked.resource_id
    ORDER BY d.position DESC LIMIT 1
) AS latest
"""

_Key = tuple[str, date, str]
"""A line, a day and a resource; the empty one is none."""


class _Amount(msgspec.Struct):
    hundredths: int = 0
    """Of hours."""


class Hours:
    """The fold of check-ins and voids."""

    def __init__(self) -> None:
        self._amounts: Folds[_Key, _Amount] = Folds(lambda _: _Amount())

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the days of a batch's check-ins and voids."""
        keys = {key: None for key, _, _ in map(_moved, events)}
        generation.ask(self._amounts, keys, _LOAD, _read)

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Add a batch's check-ins to their days, and take the voided ones from theirs."""
        rows: list[DayRow] = []
        for event in events:
            key, at, change = _moved(event)
            if change:
                amount = self._amounts[key]
                amount.hundredths += change
                rows.append(DayRow(*key, event.position, at, change, amount.hundredths))
        generation.write(DAY, rows)

    def forget(self) -> None:
        """Drop what is in memory."""
        self._amounts.clear()


def _read(rows: Rows) -> Iterator[tuple[_Key, _Amount]]:
    for line_id, day, resource_id, total in rows:
        yield (line_id, day, resource_id), _Amount(total)


def _moved(event: Recorded) -> tuple[_Key, datetime, int]:
    """(whose day, time, hundredths) of what a check-in adds, or its void takes away."""
    body = event.body
    if isinstance(body, lines.CheckedIn):
        at, amount = event.occurred_at, line.hundredths(body.hours)
    else:
        assert isinstance(body, lines.CheckInVoided)
        at, amount = body.checked_in_at, -line.hundredths(body.hours)
    return (event.originator_id, day_of(at), body.resource_id or ""), at, amount
