"""Slices of the event loop, in which pages and exports are rendered and pipelined requests begin.

A page or an export takes many milliseconds, so it is rendered in slices. Each iteration of the loop
renders one slice of one organization, and all other requests go on between two slices. Pipelined
requests begin likewise.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from ledger.engine.postgres.pool.round_robin import RoundRobin

SLICE_SECONDS = 0.002
"""The length of a slice, give or take what cannot be divided."""


class LoopSlices:
    """Calls by tenant: each iteration of the loop makes one, for one tenant after the other."""

    def __init__(self) -> None:
        self._calls: RoundRobin[str, Callable[[], None]] = RoundRobin()
        self._is_going_on = False

    def schedule(self, begin: Callable[[], None], tenant_key: str = "") -> None:
        """Call ``begin`` in a later iteration, after the earlier calls of the tenant."""
        self._calls.add(tenant_key, partial(begin))  # unlike any other call
        if not self._is_going_on:
            self._is_going_on = True
            asyncio.get_running_loop().call_soon(self._go_on)

    async def next(self, tenant_key: str) -> None:
        """Wait until the caller may render the organization's next slice."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.schedule(lambda: None if future.done() else future.set_result(None), tenant_key)
        await future

    def _go_on(self) -> None:
        begin = self._calls.pop_first(next(iter(self._calls)))
        try:
            begin()
        finally:
            self._is_going_on = bool(self._calls)
            if self._is_going_on:
                asyncio.get_running_loop().call_soon(self._go_on)
