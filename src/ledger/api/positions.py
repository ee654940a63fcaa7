"""How far the views are, as this process last heard: what a write waits for before it answers.

The projector notifies with each batch; nothing polls. A stopped view is waited for by nobody.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging

import psycopg

_logger = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
"""How long a write, or a read that asks for a position, waits for the views (contract 4)."""

_ALL = "SELECT name, position, stopped_at IS NOT NULL FROM ledger.projection"


class ViewPositions:
    """Follows the projector's notifications on a connection of its own."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._positions: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self.reached = 0
        """The position that every live view has reached."""

    @property
    def last_heard(self) -> int:
        """The position for answers that read no rows of their own."""
        return max(self._positions.values(), default=0)

    async def start(self) -> None:
        """Load the positions, then follow them."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End the follower."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def wait(self, position: int, seconds: float = WAIT_SECONDS) -> bool:
        """Whether every live view reached the position within the time."""
        if position <= self.reached:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._order), future))
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        return True

    async def wait_for(self, views: frozenset[str], position: int) -> bool:
        """Whether these very views reached the position, a stopped one perhaps long ago."""
        if position <= min((self._positions.get(name, 0) for name in views), default=0):
            return True
        return not self._stopped & views and await self.wait(position)

    def _settle(self) -> None:
        alive = [p for name, p in self._positions.items() if name not in self._stopped]
        # With every view stopped there is nothing to wait for.
        self.reached = min(alive) if alive else (2**63 if self._stopped else 0)
        while self._waiting and self._waiting[0][0] <= self.reached:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def _follow(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _logger.warning("cannot follow the views: %s", error)
                await asyncio.sleep(0.5)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name="ledger api listener",
            connect_timeout=2,
            options="-c role=ledger_api",
        )
        async with connection:
            await connection.execute("LISTEN ledger_views")
            cursor = await connection.execute(_ALL)
            rows = await cursor.fetchall()
            self._positions = {name: position for name, position, _ in rows}
            self._stopped = {name for name, _, stopped in rows if stopped}
            self._settle()
            async for notification in connection.notifies():
                name, _, what = notification.payload.partition(" ")
                if what == "stopped":
                    self._stopped.add(name)
                else:
                    self._stopped.discard(name)
                    self._positions[name] = int(what)
                self._settle()
