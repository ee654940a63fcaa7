"""Two instants compared: the lines with events between them, as known at both.

events between ─▶ lines ─▶ scope at the later instant ─▶ slices ─┬─▶ known then, known now
                                                                 └─▶ sums then, sums now
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.reads.as_of import AsOf, rows_at
from ledger.engine.values.principal import Tenant
from ledger.engine.values.values import sort_key
from ledger.engine.views.statements import Read
from ledger.features.usage.model.comparison import MOST_EVENTS, BothSides, Events, LineState, Side
from ledger.features.usage.model.usage import LineInScope, Sums
from ledger.features.usage.reads.usage import Summing
from projections.feed.between import YEARS, between_read
from projections.usage.scope import STATES

_PORTION = 200_000
"""Events that one statement counts, so that no snapshot is held for long."""


class Comparing:
    """Compares what was known of lines at two positions."""

    def __init__(
        self,
        fetch: Fetch,
        tenant: Tenant,
        then: AsOf,
        now: AsOf,
        sums: tuple[Summing, Summing] | None,
    ) -> None:
        """``sums``: the sums of a period as known then and now; None without a period."""
        self._fetch, self._tenant = fetch, tenant
        self._then, self._now = then, now
        self._sums = sums
        self._events: Mapping[str, Events] = {}

    async def lines(self, organization: str, workspace: str | None) -> list[str]:
        """The ids of an organization's or a workspace's lines with events between the positions."""
        self._events = await self._events_of(organization, workspace)
        return sorted(self._events, key=sort_key)

    async def _events_of(self, organization: str, workspace: str | None) -> Mapping[str, Events]:
        found: dict[str, Events] = {}
        read, after = between_read(workspace is not None), self._then.position
        tenant = {"organization": organization, "workspace": workspace}
        while after < self._now.position:
            values = {**tenant, "after": after, "limit": _PORTION}
            rows = await self._rows(read, values)
            for _, line, number, first, last in rows:
                before = found.get(line, Events(0, first, last))
                found[line] = Events(min(MOST_EVENTS, before.number + number), before.first, last)
            if not rows or sum(row[2] for row in rows) < _PORTION:
                return found
            after = max(row[4] for row in rows)
        return found

    async def changed(self, lines: Sequence[LineInScope]) -> list[BothSides]:
        """These lines as known then and now."""
        then, now = await self._states(lines, self._then), await self._states(lines, self._now)
        summed: tuple[Mapping[int, Sums], Mapping[int, Sums]] | None = None
        if self._sums is not None:
            summed = await self._sums[0].of_lines(lines), await self._sums[1].of_lines(lines)

        def side(line: LineInScope, at: int) -> Side:
            sums = None if summed is None else summed[at].get(line.key, Sums())
            return (then, now)[at].get(line.key), sums

        return [BothSides(side(line, 0), side(line, 1), self._events[line.id]) for line in lines]

    async def years(self, positions: Sequence[int]) -> Mapping[int, int]:
        """By position, the year in which the event was recorded."""
        return {row[1]: row[2] for row in await self._rows(YEARS, {"positions": positions})}

    async def _states(self, lines: Sequence[LineInScope], as_of: AsOf) -> Mapping[int, LineState]:
        keys = [line.key for line in lines]
        rows = await self._rows(STATES, {"lines": keys, "at": as_of.position})
        return {row[1]: LineState(*row[2:]) for row in rows}

    async def _rows(self, read: Read, values: Mapping[str, Any]) -> list[Any]:
        return await rows_at(self._fetch, self._tenant, read, values, self._now)
