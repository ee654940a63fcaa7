"""The statements by which lines are above a limit of usage in a period, and since which event.

The sums come from the running totals of days. Only lines above the limit cost more than a look-up
for each day and resource: their changes are read, to find the event by which they passed it.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.values import id_of_key, sort_key
from ledger.engine.views.statements import Read, read_of
from ledger.features.watches.kinds.base import Condition, LineNow
from ledger.features.watches.kinds.usage_over import UsageOver, over_since
from ledger.features.watches.reads.watched import Ask

# The sum of each line over some days: of each day and resource the latest totals.
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

# The totals after each change of a line's days, of a part: of a day, or of a resource on it.
_CHANGES_OF_HOURS = """
SELECT d.position, d.day::text || d.resource_id AS part, d.total::numeric AS total
FROM ledger.execution_day AS d
WHERE d.line_key = s.line_key AND d.day >= %(first)s AND d.day < %(beyond)s
"""
_CHANGES_OF_RUNS = """
SELECT d.position, d.day::text AS part, {amount} AS total FROM ledger.run_day AS d
WHERE d.line_key = s.line_key AND d.day >= %(first)s AND d.day < %(beyond)s
"""

_ABOVE = """
SELECT s.line_key, d.position, d.part, d.total
FROM ({sums}) AS s (line_key, total)
CROSS JOIN LATERAL ({changes}) AS d
WHERE s.total > %(limit)s OR %(all)s
ORDER BY s.line_key, d.position
"""

_COUNT = "(d.running + d.completed + d.failed + d.cancelled)::numeric"
_TOKENS = "d.tokens::numeric"

_SCALE: Mapping[str, int] = {"hours": 100, "runs": 1, "tokens_used": 1}
"""The stored units of one unit of a limit."""


@cache
def above(measure: str) -> str:
    """(line key, position, part, total) rows: changes above the limit, for ``values_of``."""
    if measure == "hours":
        return _ABOVE.format(sums=_HOURS, changes=_CHANGES_OF_HOURS)
    amount = _COUNT if measure == "runs" else _TOKENS
    changes = _CHANGES_OF_RUNS.format(amount=amount)
    return _ABOVE.format(sums=_RUNS.format(amount=amount), changes=changes)


@cache
def above_read(measure: str) -> Read:
    """The rows of ``above`` behind their position; a row of nulls if no line is above."""
    statement = """
SELECT p.position, found.* FROM ({position}) AS p LEFT JOIN LATERAL ({above}) AS found ON true
"""
    return read_of(statement, "execution", "run", planning=Planning.LONG, above=above(measure))


# When events were recorded.
_INSTANTS = read_of(
    """
SELECT p.position, asked.at, ledger.recorded_at(asked.at)
FROM ({position}) AS p LEFT JOIN unnest(%(positions)s::bigint[]) AS asked (at) ON true
""",
    "run",
)


def values_of(
    condition: UsageOver, lines: Iterable[str], period: tuple[date, date], *, all: bool = False
) -> dict[str, Any]:
    """The parameters for some lines; ``all``: also of the lines that are no longer above."""
    return {
        "lines": [sort_key(line) for line in lines],
        "first": period[0],
        "beyond": period[1],
        "limit": _limit(condition),
        "all": all,
    }


def crossings(
    condition: UsageOver, rows: Iterable[tuple[int, int, str, Decimal]]
) -> dict[int, list[tuple[int, bool]]]:
    """By line: (position, whether the sum is above the limit from there on), in order."""
    limit, found = _limit(condition), dict[int, list[tuple[int, bool]]]()
    for line, changes in groupby(rows, itemgetter(0)):
        total, is_above, parts = Decimal(), False, dict[str, Decimal]()
        crossed = found.setdefault(line, [])
        for _, position, part, amount in changes:
            total += amount - parts.get(part, 0)
            parts[part] = amount
            if (total > limit) != is_above:
                is_above = not is_above
                crossed.append((position, is_above))
    return found


def passed(condition: UsageOver, rows: Iterable[tuple[int, int, str, Decimal]]) -> dict[str, int]:
    """The lines that are above the limit now, and the positions at which they passed it."""
    return {
        id_of_key("LIN", key): changes[-1][0]
        for key, changes in crossings(condition, rows).items()
        if changes and changes[-1][1]
    }


def _limit(condition: UsageOver) -> Decimal:
    return Decimal(str(condition.limit)) * _SCALE[condition.measure]


async def lines_above(
    ask: Ask, condition: Condition, lines: Sequence[LineNow], as_of: AsOf
) -> list[LineNow]:
    """The lines that are above the limit, each with its episode."""
    assert isinstance(condition, UsageOver)
    by_id, period = {each.execution.id: each for each in lines}, condition.period_of(as_of.clock)
    if not by_id:
        return []
    rows = await ask(above_read(condition.measure), values_of(condition, by_id, period))
    crossed = passed(condition, [tuple(row[1:]) for row in rows if row[1] is not None])
    instants = await ask(_INSTANTS, {"positions": [*crossed.values()]})
    recorded = {position: at for _, position, at in instants}
    return [
        by_id[line]._replace(
            over={condition: over_since(line, period[0], position, recorded[position])}
        )
        for line, position in crossed.items()
    ]
