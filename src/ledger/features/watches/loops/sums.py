"""Lines that have used too much: sums of the present period, and when they passed a limit."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.values.values import sort_key
from ledger.features.lines.model.execution import Execution
from ledger.features.watches.kinds.base import Condition, Episode
from ledger.features.watches.kinds.usage_over import UsageOver, first_instant, over_since
from ledger.features.watches.model.alert import AlertOpened
from ledger.features.watches.model.watch import Watch
from ledger.features.watches.reads.limits import above, crossings, passed, values_of

Connection = psycopg.Connection[TupleRow]

_RECORDED_AT = """
SELECT notification_id, recorded_at FROM ledger.ledger_events WHERE notification_id = ANY(%s)
"""


def lines_above(
    connection: Connection,
    lines: Iterable[Execution],
    watches: Mapping[str, Sequence[Watch]],
    now: datetime,
) -> dict[str, dict[Condition, Episode]]:
    """Of each line the conditions of its organization's watches that it is above, if any."""
    conditions = {
        name: {w.config.condition for w in some if isinstance(w.config.condition, UsageOver)}
        for name, some in watches.items()
    }
    lines, found = list(lines), dict[str, dict[Condition, Episode]]()
    for condition in {condition for some in conditions.values() for condition in some}:
        ids = [line.id for line in lines if condition in conditions.get(line.organization_id, ())]
        period = condition.period_of(now)
        crossed = passed(condition, _changes(connection, condition, ids, period))
        recorded = _recorded_at(connection, crossed.values())
        for line, position in crossed.items():
            episode = over_since(line, period[0], position, recorded[position])
            found.setdefault(line, {})[condition] = episode
    return found


def ends_of_periods(over: Iterable[Condition], now: datetime) -> Iterator[datetime]:
    """When the present periods of these conditions end."""
    for condition in over:
        if isinstance(condition, UsageOver):
            yield first_instant(condition.period_of(now)[1])


def under_again(
    connection: Connection, line_id: str, body: AlertOpened, closing: int
) -> datetime | None:
    """When a line was no longer above the limit of an alert; None: it was closed while it was.

    This is the recording of the event that took something back, or the period's end if that came
    before. ``closing`` is the position of the line's closing, or a position after all others.
    """
    condition = body.condition
    assert isinstance(condition, UsageOver)
    began, _, position = body.began_by.partition("@")
    period = condition.period_of(first_instant(date.fromisoformat(began)))
    found = crossings(condition, _changes(connection, condition, [line_id], period, all=True))
    own = found.get(sort_key(line_id), ())
    falls = [at for at, is_above in own if at > int(position) and not is_above]
    recorded, end = _recorded_at(connection, [*falls[:1], closing]), first_instant(period[1])
    if falls and falls[0] < closing:
        return min(recorded[falls[0]], end)
    return None if closing in recorded and recorded[closing] < end else end


def _changes(
    connection: Connection,
    condition: UsageOver,
    lines: Sequence[str],
    period: tuple[date, date],
    *,
    all: bool = False,
) -> list[Any]:
    if not lines:
        return []
    values = values_of(condition, lines, period, all=all)
    return connection.execute(above(condition.measure).encode(), values).fetchall()


def _recorded_at(connection: Connection, positions: Collection[int]) -> dict[int, datetime]:
    return dict(connection.execute(_RECORDED_AT, ([*positions],)).fetchall())
