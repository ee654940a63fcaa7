"""The differences of a period's numbers between two positions, by line (contract, Statements)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.reads.as_of import AsOf, rows_at
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import day_of, format_id
from ledger.features.usage.model.usage import LineInScope, Sums
from ledger.features.usage.reads.statement import AHEAD, MAX_ROWS
from ledger.features.usage.reads.usage import SLICE, Summing, UsageScope
from projections.usage.changes import CAUSES


class ChangedLine(NamedTuple):
    """A line with a number that differs."""

    line: LineInScope
    then: Sums
    now: Sums
    events: Sequence[str]
    """The ids of the first events that changed a number."""
    event_count: int


class UsageChanges(NamedTuple):
    """The sums as known at both positions; the lines that differ, by id; their present names."""

    then: Sums
    now: Sums
    lines: Sequence[ChangedLine]
    names: Mapping[str, str]


async def changes_of(
    fetch: Fetch, scope: UsageScope, period: tuple[datetime, datetime], then: AsOf, now: AsOf
) -> UsageChanges:
    """Compare a period's numbers. Raises Invalid for too many lines, and Behind."""
    before, after = (Summing(fetch, scope, as_of, *period) for as_of in (then, now))
    sums_then, sums_now, differing = Sums(), Sums(), list[tuple[LineInScope, Sums, Sums]]()
    listed = set[int]()
    # The line may have been closed since, before the period began: then it is no longer in scope.
    for summing in (after, before):
        async for page in summing.lines(period[0] - AHEAD):
            lines = [line for line in page if line.key not in listed]
            listed.update(line.key for line in lines)
            earlier, found = await before.of_lines(lines), await after.of_lines(lines)
            for line in lines:
                pair = earlier.get(line.key, Sums()), found.get(line.key, Sums())
                sums_then.add(pair[0])
                sums_now.add(pair[1])
                if _compared(pair[0]) != _compared(pair[1]):
                    differing.append((line, *pair))
            if len(differing) > MAX_ROWS:
                raise Invalid.at("", f"more than {MAX_ROWS:,} lines differ")
    differing.sort(key=lambda each: each[0].key)
    rows = list[ChangedLine]()
    for at in range(0, len(differing), SLICE):
        some = differing[at : at + SLICE]
        events = await _causes(fetch, scope, period, then, now, [line.key for line, *_ in some])
        rows += [ChangedLine(*each, *events.get(each[0].key, ((), 0))) for each in some]
    names = await after.names([row.line.id for row in rows]) if rows else {}
    return UsageChanges(sums_then, sums_now, rows, names)


def _compared(sums: Sums) -> tuple[object, ...]:
    """The numbers that decide if a line differs. Runs differ by number, not by state."""
    amounts = sums.amounts
    return (
        sum(amounts.hours.values()),
        amounts.check_ins,
        sum(amounts.runs.values()),
        amounts.tokens,
        {state: micros for state, micros in sums.micros_by_state.items() if micros},
        {cause: micros for cause, micros in sums.micros_by_cause.items() if micros},
    )


async def _causes(
    fetch: Fetch,
    scope: UsageScope,
    period: tuple[datetime, datetime],
    then: AsOf,
    now: AsOf,
    lines: Sequence[int],
) -> Mapping[int, tuple[Sequence[str], int]]:
    """By line, the first events that changed a number of the period, and the number of all."""
    start, end = period
    values = {
        "lines": lines,
        "from": start,
        "to": end,
        "first": day_of(start),
        "last": day_of(end - timedelta(microseconds=1)),
        "after": then.position,
    }
    found: dict[int, tuple[list[str], int]] = {}
    for _, line, event, recorded_at, number in await rows_at(
        fetch, scope.tenant, CAUSES, values, now
    ):
        events, _ = found.setdefault(line, ([], number))
        events.append(format_id("EVT", recorded_at.astimezone(UTC).year, event))
    return found
