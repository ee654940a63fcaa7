"""Lines that have used too much: sums of the present period, and when they passed a limit.

The sums come from the running totals of days, as usage does. A line whose sum is above the limit is
followed through the changes of the period, to find the event by which it was. Only such lines cost
more than a look-up for each day.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.domain.alert import AlertOpened, AlertSubject
from ledger.domain.execution import Execution
from ledger.domain.stretch import Stretch
from ledger.domain.values import sort_key
from ledger.domain.watch import UsageOver, Watch

Connection = psycopg.Connection[TupleRow]

# The sums of lines over some days: of each day and resource the latest totals.
_HOURS = """
SELECT asked.line_key, (
    WITH RECURSIVE latest AS (
        (SELECT d.day, d.resource_id, d.total FROM ledger.execution_day AS d
         WHERE d.line_key = asked.line_key AND d.day >= %(first)s AND d.day < %(beyond)s
         ORDER BY d.day DESC, d.resource_id DESC, d.position DESC LIMIT 1)
        UNION ALL
        SELECT further.* FROM latest CROSS JOIN LATERAL (
            SELECT d.day, d.resource_id, d.total FROM ledger.execution_day AS d
            WHERE d.line_key = asked.line_key AND d.day >= %(first)s
              AND (d.day, d.resource_id) < (latest.day, latest.resource_id)
            ORDER BY d.day DESC, d.resource_id DESC, d.position DESC LIMIT 1
        ) AS further
    )
    SELECT sum(total) FROM latest
)
FROM unnest(%(lines)s::bigint[]) AS asked (line_key)
"""
_RUNS = """
SELECT asked.line_key, (
    WITH RECURSIVE latest AS (
        (SELECT d.day, {amount} AS amount FROM ledger.run_day AS d
         WHERE d.line_key = asked.line_key AND d.day >= %(first)s AND d.day < %(beyond)s
         ORDER BY d.day DESC, d.position DESC LIMIT 1)
        UNION ALL
        SELECT further.* FROM latest CROSS JOIN LATERAL (
            SELECT d.day, {amount} FROM ledger.run_day AS d
            WHERE d.line_key = asked.line_key AND d.day >= %(first)s AND d.day < latest.day
            ORDER BY d.day DESC, d.position DESC LIMIT 1
        ) AS further
    )
    SELECT sum(amount) FROM latest
)
FROM unnest(%(lines)s::bigint[]) AS asked (line_key)
"""

# The totals after each change of a line's days: of a part (a day, or a resource on it).
_CHANGES_OF_HOURS = """
SELECT d.position, d.day::text || d.resource_id, d.total::numeric FROM ledger.execution_day AS d
WHERE d.line_key = %(line_key)s AND d.day >= %(first)s AND d.day < %(beyond)s ORDER BY d.position
"""
_CHANGES_OF_RUNS = """
SELECT d.position, d.day::text, {amount} FROM ledger.run_day AS d
WHERE d.line_key = %(line_key)s AND d.day >= %(first)s AND d.day < %(beyond)s ORDER BY d.position
"""

_RECORDED_AT = "SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = %s"

_COUNT = "(d.running + d.completed + d.failed + d.cancelled)::numeric"
_TOKENS = "d.tokens::numeric"


class _Measure(NamedTuple):
    sums: str
    changes: str
    scale: int
    """The stored units of one unit of a limit."""


_MEASURES = {
    "hours": _Measure(_HOURS, _CHANGES_OF_HOURS, 100),
    "runs": _Measure(_RUNS.format(amount=_COUNT), _CHANGES_OF_RUNS.format(amount=_COUNT), 1),
    "tokens_used": _Measure(
        _RUNS.format(amount=_TOKENS), _CHANGES_OF_RUNS.format(amount=_TOKENS), 1
    ),
}


def lines_above(
    connection: Connection,
    lines: Iterable[Execution],
    watches: Mapping[str, Sequence[Watch]],
    now: datetime,
) -> dict[str, dict[UsageOver, Stretch]]:
    """Of each line the conditions of its organization's watches that it is above, if any."""
    asked = {
        name: {w.given.condition for w in some if isinstance(w.given.condition, UsageOver)}
        for name, some in watches.items()
    }
    lines, above = list(lines), dict[str, dict[UsageOver, Stretch]]()
    for condition in {condition for some in asked.values() for condition in some}:
        ids = [line.id for line in lines if condition in asked.get(line.organization_id, ())]
        for line_id in _found_above(connection, condition, ids, now) if ids else ():
            stretch = _crossed(connection, condition, line_id, now)
            if stretch is not None:
                above.setdefault(line_id, {})[condition] = stretch
    return above


def under_again(connection: Connection, line_id: str, body: AlertOpened) -> datetime | None:
    """When a line was no longer above the limit of an alert, or the period's end if it stayed so.

    Within the period this is the recording of the event that took something back.
    """
    condition = body.condition
    assert isinstance(condition, UsageOver)
    began, _, position = body.began_by.partition("@")
    period = condition.period_of(instant_of_day(date.fromisoformat(began)))
    for at, is_above in _crossings(connection, condition, line_id, period):
        if at > int(position) and not is_above:
            return _recorded_at(connection, at)
    return instant_of_day(period[1])


def instant_of_day(day: date) -> datetime:
    """The beginning of a UTC day."""
    return datetime.combine(day, time.min, UTC)


def _found_above(
    connection: Connection, condition: UsageOver, lines: Sequence[str], now: datetime
) -> Iterator[str]:
    """The lines whose present sum is above the limit."""
    by_key = {sort_key(line): line for line in lines}
    first, beyond = condition.period_of(now)
    values = {"lines": [*by_key], "first": first, "beyond": beyond}
    statement = _MEASURES[condition.measure].sums.encode()
    for key, total in connection.execute(statement, values).fetchall():
        if total is not None and total > _limit(condition):
            yield by_key[key]


def _limit(condition: UsageOver) -> Decimal:
    return Decimal(str(condition.limit)) * _MEASURES[condition.measure].scale


def _crossed(
    connection: Connection, condition: UsageOver, line_id: str, now: datetime
) -> Stretch | None:
    """The stretch for which a line has been above the limit."""
    period = condition.period_of(now)
    *_, (position, is_above) = (0, False), *_crossings(connection, condition, line_id, period)
    if not is_above:
        return None
    since = max(instant_of_day(period[0]), _recorded_at(connection, position))
    subject = AlertSubject("service_line", line_id)
    return Stretch(subject, since, f"{period[0]}@{position}", position)


def _crossings(
    connection: Connection, condition: UsageOver, line_id: str, period: tuple[date, date]
) -> Iterator[tuple[int, bool]]:
    """(position, whether the sum is above the limit from there on), in order."""
    values: dict[str, Any] = {"line_key": sort_key(line_id), "first": period[0]}
    values["beyond"] = period[1]
    statement = _MEASURES[condition.measure].changes.encode()
    limit, total, is_above = _limit(condition), Decimal(), False
    parts: dict[str, Decimal] = {}
    for position, part, amount in connection.execute(statement, values).fetchall():
        total += amount - parts.get(part, 0)
        parts[part] = amount
        if (total > limit) != is_above:
            is_above = not is_above
            yield position, is_above


def _recorded_at(connection: Connection, position: int) -> datetime:
    row = connection.execute(_RECORDED_AT, (position,)).fetchone()
    assert row is not None, "a change of a day has an event"
    at: datetime = row[0]
    return at
