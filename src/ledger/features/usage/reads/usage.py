"""Usage across lines: the sums of many lines, read in slices at one position and one clock.

    scope ─▶ lines in scope ─▶ slices ─┬─▶ sums of each line ─▶ total, rows by attributes of lines
                                       └─▶ sums by group and span ─▶ rows by day, resource, model

Each slice is a short statement of its own, so no snapshot is held for long. Two slices are read at
a time. Each compares the position of the views with that of the answer.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.reads.as_of import AsOf, rows_at
from ledger.engine.values.calendar import Calendar
from ledger.engine.values.principal import Tenant
from ledger.engine.values.timeline import StateSpans
from ledger.engine.values.values import sort_key
from ledger.engine.views.statements import Read
from ledger.features.usage.model.usage import Grouping, LineInScope, Sums
from projections.runs.usage import models_read, sums_read
from projections.usage.scope import NAMES, SECONDS, scope_read

SLICE = 1000
"""Lines of a slice. Each day with much work costs PostgreSQL some 10 ms."""

_SCOPE = 20_000
"""Lines of a page of the scope."""

_AT_ONCE = 2

_STATUSES = ("running", "completed", "failed", "cancelled")
_ENDED = _STATUSES[1:]

Row = tuple[tuple[str | None, ...], Sums]
"""The values of a row's keys, and its sums."""


class UsageScope(NamedTuple):
    """The lines whose usage is computed, and the check-ins that count."""

    tenant: Tenant
    filters: Mapping[str, Any]
    """The filters of lines, with those of the credential's tenant."""
    resources: Sequence[str] | None = None
    """Count only the check-ins of these resources; None for all check-ins."""


class Summing:
    """Computes the sums of a scope's lines in a period, as of a position and clock."""

    def __init__(
        self, fetch: Fetch, scope: UsageScope, as_of: AsOf, start: datetime, end: datetime
    ) -> None:
        self._fetch, self._scope, self._as_of = fetch, scope, as_of
        self._start, self._end = start, end
        self._slots = asyncio.Semaphore(_AT_ONCE)
        named = scope.filters.get("project_tag")
        self.projects = None if named is None else frozenset(named)
        """The projects that have rows; None for all."""

    def of_scope(self, scope: UsageScope) -> "Summing":
        """The same with another scope."""
        return Summing(self._fetch, scope, self._as_of, self._start, self._end)

    async def lines(self, begun: datetime, after: int = 0) -> AsyncIterator[Sequence[LineInScope]]:
        """Pages of the lines in scope by id, without those closed and quiet since ``begun``."""
        read = scope_read(frozenset(self._scope.filters))
        while True:
            values = {**self._scope.filters, "begun": begun, "after": after, "limit": _SCOPE}
            rows = await self._rows(read, values)
            found = [LineInScope(*row[1:]) for row in rows]
            if found:
                yield found
            if len(found) < _SCOPE:
                return
            after = found[-1].key

    async def of_lines(self, lines: Sequence[LineInScope]) -> Mapping[int, Sums]:
        """The sums of each of these lines, by its key. Lines without anything are left out."""
        if self._start >= self._end:
            return {}
        slices = [lines[at : at + SLICE] for at in range(0, len(lines), SLICE)]
        found: dict[int, Sums] = {}
        for part in await asyncio.gather(*map(self._of_slice, slices)):
            found |= part
        return found

    async def _of_slice(self, lines: Sequence[LineInScope]) -> Mapping[int, Sums]:
        keys = [line.key for line in lines]
        whole = StateSpans([self._start, self._end])
        amounts = await self._amounts(keys, keys, whole, by_resource=False)
        found = {key: sums for (key, *_), sums in amounts.items()}
        if self._scope.resources is None:
            for key, state, causes, micros in await self._seconds(keys):
                found.setdefault(key, Sums()).spend(state, causes, micros)
        nonzero = {key: sums for key, sums in found.items() if sums.has_something}
        for sums in nonzero.values():
            sums.lines = 1
        return nonzero

    async def _seconds(self, keys: Sequence[int]) -> list[Any]:
        until = min(self._end, self._as_of.clock)
        if until <= self._start:
            return []
        rows = await self._rows(SECONDS, {"lines": keys, "from": self._start, "until": until})
        return [row[1:] for row in rows]

    async def grouped(
        self,
        lines: Sequence[LineInScope],
        grouping: Grouping,
        spans: Sequence[tuple[str, datetime, datetime]],
    ) -> Mapping[tuple[str | None, ...], Sums]:
        """The sums of these lines, grouped by day, month, resource or model too.

        ``spans``: the label, start and end of each day or month, or of the period.
        """
        slices = [lines[at : at + SLICE] for at in range(0, len(lines), SLICE)]
        found: dict[tuple[str | None, ...], Sums] = {}
        tasks = (self._grouped_slice(each, grouping, spans) for each in slices)
        for part in await asyncio.gather(*tasks):
            for keys, sums in part:
                found.setdefault(keys, Sums()).add(sums)
        return found

    async def _grouped_slice(
        self,
        lines: Sequence[LineInScope],
        grouping: Grouping,
        spans: Sequence[tuple[str, datetime, datetime]],
    ) -> list[Row]:
        numbers: dict[tuple[str | None, ...], int] = {}
        members, groups = list[int](), list[int]()
        for line in lines:
            for group in grouping.groups_of(line, self.projects):
                members.append(line.key)
                groups.append(numbers.setdefault(group, len(numbers)))
        names = list(numbers)
        bounds = StateSpans([*(start for _, start, _ in spans), spans[-1][2]])
        within = grouping.within_line
        if within == "model":
            summed = await self._by_model(members, groups, bounds)
        else:
            is_by_resource = within == "resource"
            summed = await self._amounts(members, groups, bounds, by_resource=is_by_resource)
        rows = list[Row]()
        for (number, span, inner), sums in summed.items():
            of_line = iter(names[number])
            values = {"resource": inner, "model": inner, "month": None, "day": None}
            if grouping.of_time is not None:
                values[grouping.of_time] = spans[span - 1][0]
            keys = tuple(
                values[word] if word in values else next(of_line) for word in grouping.words
            )
            rows.append((keys, sums))
        return rows

    async def _amounts(
        self,
        lines: Sequence[int],
        groups: Sequence[int],
        spans: StateSpans,
        *,
        by_resource: bool,
    ) -> dict[tuple[int, int, str | None], Sums]:
        """The sums by group, span and resource, without seconds."""
        resources = self._scope.resources
        read = sums_read(by_resource, resources is not None)
        # A group may be a line's own key, but the statement has numbers of 32 bits.
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        named = list(numbers)
        values = {
            **spans.parameters,
            "lines": [*dict.fromkeys(lines)],
            "members": lines,
            "groups": [numbers[group] for group in groups],
            "resources": resources,
        }
        found: dict[tuple[int, int, str | None], Sums] = {}
        for (
            _,
            number,
            span,
            resource,
            count,
            hours,
            check_ins,
            *runs,
            tokens,
        ) in await self._rows(read, values):
            sums = found[named[number], span, resource or None] = Sums(count)
            sums.amounts.add_hours([(resource or None, hours, check_ins)])
            sums.amounts.add_runs(dict(zip(_STATUSES, runs, strict=True)))
            sums.amounts.tokens = int(tokens)
        if not by_resource and resources is None:
            values.pop("resources")
            for _, number, span, model, *numbers_of, _, _, _ in await self._rows(
                models_read(counted=False), values
            ):
                sums = found.setdefault((named[number], span, None), Sums())
                sums.amounts.add_models([(model, list(map(int, numbers_of)))])
        return found

    async def _by_model(
        self, lines: Sequence[int], groups: Sequence[int], spans: StateSpans
    ) -> dict[tuple[int, int, str | None], Sums]:
        """The tokens and runs by group, span and model."""
        values = {**spans.parameters, "lines": lines, "members": lines, "groups": groups}
        found: dict[tuple[int, int, str | None], Sums] = {}
        rest = await self._amounts(lines, groups, spans, by_resource=False)
        for _, number, span, model, *numbers in await self._rows(models_read(True), values):
            runs = dict(zip(_ENDED, numbers[5:], strict=True))
            tokens = list(map(int, numbers[:5]))
            others = rest.setdefault((number, span, None), Sums()).amounts
            if model is None:
                others.add_runs({status: -count for status, count in runs.items()})
                continue
            sums = found.setdefault((number, span, model), Sums())
            sums.amounts.add_runs(runs)
            sums.amounts.tokens += tokens[0] + tokens[1]
            sums.amounts.add_models([(model, tokens)])
            others.tokens -= tokens[0] + tokens[1]
        for (number, span, _), sums in rest.items():
            without = Sums()
            without.amounts.tokens = sums.amounts.tokens
            without.amounts.add_runs(sums.amounts.runs)
            if without.has_something:
                found[number, span, None] = without
        return found

    async def names(self, line_ids: Sequence[str]) -> Mapping[str, str]:
        """The names of lines as of the position."""
        return {row[1]: row[2] for row in await self._rows(NAMES, {"ids": line_ids})}

    async def _rows(self, read: Read, values: Mapping[str, Any]) -> list[Any]:
        async with self._slots:
            return await rows_at(self._fetch, self._scope.tenant, read, values, self._as_of)


class Usage:
    """The usage of lines in total and by a grouping."""

    def __init__(
        self,
        summing: Summing,
        grouping: Grouping,
        spans: Sequence[tuple[str, datetime, datetime]],
    ) -> None:
        self._summing, self._grouping, self._spans = summing, grouping, spans
        self._sums: Mapping[int, Sums] | None = None

    async def total(self, lines: Sequence[LineInScope]) -> Sums:
        """The sums of all these lines; each line counts once."""
        self._sums = await self._summing.of_lines(lines)
        total = Sums()
        for sums in self._sums.values():
            total.add(sums)
        return total

    async def rows(self, lines: Sequence[LineInScope]) -> list[Row]:
        """The rows of these lines, in their order."""
        grouping = self._grouping
        found: Mapping[tuple[str | None, ...], Sums] = {}
        if grouping.of_time is None and grouping.within_line is None:
            found = self._by_lines(lines, self._sums or await self._summing.of_lines(lines))
        elif self._spans:
            found = await self._summing.grouped(lines, grouping, self._spans)
        return sorted(found.items(), key=lambda row: grouping.order(row[0]))

    def _by_lines(
        self, lines: Sequence[LineInScope], summed: Mapping[int, Sums]
    ) -> Mapping[tuple[str | None, ...], Sums]:
        found: dict[tuple[str | None, ...], Sums] = {}
        for line in lines:
            if (sums := summed.get(line.key)) is not None:
                for group in self._grouping.groups_of(line, self._summing.projects):
                    found.setdefault(group, Sums()).add(sums)
        return found

    async def page(
        self, lines: Sequence[LineInScope], after: Sequence[str | None] | None, limit: int
    ) -> list[Row]:
        """Up to ``limit`` rows after the row of these keys."""
        grouping, begin = self._grouping, 0
        last = None if after is None else grouping.order(after)
        step = len(lines)
        if grouping.words[0] == "service_line":
            # Rows are in the order of lines, so the lines of the page suffice.
            step = SLICE
            if after is not None:
                first = sort_key(after[0] or "")
                begin = bisect_left(lines, first, key=lambda line: line.key)
        found = list[Row]()
        for at in range(begin, len(lines), max(step, 1)):
            rows = await self.rows(lines[at : at + step])
            found += [row for row in rows if last is None or grouping.order(row[0]) > last]
            if len(found) >= limit:
                break
        return found[:limit]


def spans_of(
    grouping: Grouping, calendar: Calendar, start: datetime, end: datetime
) -> Sequence[tuple[str, datetime, datetime]]:
    """The label, start and end of each span of time that the grouping has rows for."""
    if grouping.of_time == "day":
        return [(day.isoformat(), begin, until) for day, begin, until in calendar.days(start, end)]
    if grouping.of_time == "month":
        return calendar.months(start, end)
    return [("", start, end)] if start < end else []
