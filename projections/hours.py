"""The hours that a line's check-ins come to, by UTC day and resource (contract 4, usage).

``execution_day`` only grows: a row says what one check-in or void changed, and what its day came to
with it. So a day of any instant is the latest row at or before it.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from ledger.domain import execution_events as lines
from ledger.domain.recorded import Recorded
from ledger.domain.values import day_of
from ledger.projection.contract import Table
from ledger.projection.folds import Folds
from ledger.projection.generation import Generation
from ledger.projection.rendering import json_text
from ledger.store.pipeline import Rows
from projections import line

DAY = Table(
    "execution_day",
    key=("line_id", "day", "position"),
    columns={
        "line_id": "text",
        "day": "date",
        "position": "bigint",
        "at": "timestamptz",
        "change": "text",
        "total": "text",
    },
)

# What these days of these lines have come to.
_LOAD = """
SELECT asked.line_id, asked.day, latest.total
FROM unnest($1::text[], $2::date[]) AS asked (line_id, day)
CROSS JOIN LATERAL (
    SELECT total FROM ledger.execution_day_{g} AS d
    WHERE d.line_id = asked.line_id AND d.day = asked.day ORDER BY d.position DESC LIMIT 1
) AS latest
"""

_Day = tuple[str, date]
_Amounts = dict[str | None, int]
"""Hundredths of hours by resource; none is kept at zero."""

_decode = msgspec.json.Decoder(list[tuple[str | None, int]]).decode


class Hours:
    """The fold of check-ins and voids."""

    def __init__(self) -> None:
        self._days: Folds[_Day, _Amounts] = Folds(lambda _: {})

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the days of a batch's check-ins and voids."""
        days = {(event.originator_id, day_of(_moved(event)[0])): None for event in events}
        generation.ask(self._days, days, _LOAD, _read)

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Add a batch's check-ins to their days, and take the voided ones from theirs."""
        moves = [(event, *_moved(event)) for event in events]
        rows: list[tuple[Any, ...]] = []
        for event, at, resource_id, amount in moves:
            if not amount:
                continue
            line_id, day = event.originator_id, day_of(at)
            hours = self._days[line_id, day]
            hours[resource_id] = hours.get(resource_id, 0) + amount
            if not hours[resource_id]:
                del hours[resource_id]
            change = json_text([(resource_id, amount)])
            total = json_text(list(hours.items()))
            rows.append((line_id, day, event.position, at, change, total))
        generation.write(DAY, rows)

    def forget(self) -> None:
        """Drop what is in memory."""
        self._days.clear()


def _read(rows: Rows) -> Iterator[tuple[_Day, _Amounts]]:
    for line_id, day, total in rows:
        yield (line_id, day), dict(_decode(total))


def _moved(event: Recorded) -> tuple[datetime, str | None, int]:
    """(time, resource, hundredths) of what a check-in adds, or its void takes away."""
    body = event.body
    if isinstance(body, lines.CheckedIn):
        return event.occurred_at, body.resource_id, line.hundredths(body.hours)
    assert isinstance(body, lines.CheckInVoided)
    return body.checked_in_at, body.resource_id, -line.hundredths(body.hours)
