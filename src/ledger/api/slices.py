"""Rendering in turns: how organizations share the time in which pages and exports are rendered.

A page or an export takes many milliseconds of the event loop. So it is rendered in slices, and in
each turn of the loop one slice of one organization: all other requests of the process go on
between two slices, however many pages and exports wait.
"""

import asyncio
from collections import OrderedDict, deque

SLICE_SECONDS = 0.002
"""The length of a slice, give or take what cannot be divided."""


class Slices:
    """The pages and exports of one process that wait for their next slice, by organization."""

    def __init__(self) -> None:
        self._parties: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """In the order of their turns."""
        self._is_going_on = False

    async def next(self, party: str) -> None:
        """Wait for the turn of an organization's next slice, which the caller then renders."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._parties.setdefault(party, deque()).append(future)
        if not self._is_going_on:
            self._is_going_on = True
            loop.call_soon(self._go_on, loop)
        await future

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin one slice; its organization is the last now."""
        party, waiting = self._parties.popitem(last=False)
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)
        if waiting:
            self._parties[party] = waiting
        self._is_going_on = bool(self._parties)
        if self._is_going_on:
            loop.call_soon(self._go_on, loop)
