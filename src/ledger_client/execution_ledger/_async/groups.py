"""The groups with methods of their own, beyond the routes."""

from __future__ import annotations

from typing import Unpack

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.follow import AsyncFollow
from execution_ledger._async.routes import (
    AsyncCompareRoutes,
    AsyncEventRoutes,
    AsyncLineRoutes,
    AsyncSumRoutes,
)
from execution_ledger._async.transport import AsyncPages
from execution_ledger.cursors import Store
from execution_ledger.why import Why


class AsyncLines(AsyncLineRoutes):
    """Service lines: reads, the operator's commands, and facts by verb.

    A verb sends its fact at once and raises if it is refused. ``Ledger.report`` never does.
    """

    async def why(self, line: str, **fields: Unpack[routes.ShowExecution]) -> Why:
        """Why a line is in its state, and since when: now, or as known ``as_of`` an instant."""
        return Why.of(await self.get(line, **fields))


class AsyncSums(AsyncSumRoutes):
    """Hours, runs, tokens and times across lines."""

    def list(self, **fields: Unpack[routes.ShowUsageOfLines]) -> AsyncPages[types.UsageRow]:
        """The rows, grouped by ``group_by``."""
        return self._rows(routes.SHOW_USAGE_OF_LINES, fields)

    async def get(self, **fields: Unpack[routes.ShowUsageOfLines]) -> types.UsageOfLines:
        """The total, and the rows of the first page."""
        return (await self.page(**fields)).data

    __call__ = get

    def month(
        self, month: str, **fields: Unpack[routes.ShowUsageOfLines]
    ) -> AsyncPages[types.UsageRow]:
        """The rows of a month such as ``2026-11``, in ``time_zone`` (by default UTC)."""
        year, number = map(int, month.split("-"))
        after = f"{year + number // 12:04}-{number % 12 + 1:02}-01"
        period: routes.ShowUsageOfLines = {"from_": f"{year:04}-{number:02}-01", "to": after}
        return self._rows(routes.SHOW_USAGE_OF_LINES, {**period, **fields})


class AsyncCompare(AsyncCompareRoutes):
    """Two instants compared."""

    def list(
        self, then: types.Instant, **fields: Unpack[routes.ShowComparison]
    ) -> AsyncPages[types.ComparedLine]:
        """The lines that changed between ``then`` and ``now``."""
        return self._rows(routes.SHOW_COMPARISON, {**fields, "then": then})

    async def get(
        self, then: types.Instant, **fields: Unpack[routes.ShowComparison]
    ) -> types.ComparedLines:
        """The total, and the lines of the first page."""
        return (await self.page(then, **fields)).data

    __call__ = get


class AsyncEvents(AsyncEventRoutes):
    """Published events, in the order of the log."""

    def follow(self, store: Store, **filters: Unpack[routes.StreamEvents]) -> AsyncFollow:
        """Each event since the stored position, and then each new one, without end.

        Without a stored position, the first event is the one after ``after``, else the first of the
        log. ``Follow`` says when a position is stored.
        """
        return AsyncFollow(self._transport, store, filters)
