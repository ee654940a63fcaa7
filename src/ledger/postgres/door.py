"""The one door through which reads go: a tenant's transaction, as a role that owns nothing.

Reads that come in one turn of the loop travel together, on the lanes (``lane.py``) that are idle:

    fetch ─▶ short ─┐                  ┌─▶ lane ─ a group of short reads
                    ├─ next turn: send ┼─▶ lane ─ a long read, alone
    walk ──▶ long ──┘                  └─▶ …      lost: its unanswered reads are first in the queue

A long read goes alone, and long reads have half of the lanes at most, so that short reads need not
wait for them (``Planning``). The tenant's settings are local to a group's transaction, and every
group begins by setting them; the role's transactions are read-only by default.

A read whose connection was lost is asked again on another connection. So a restart of the database,
which ends every connection and refuses new ones for a moment, fails no read that can wait so long.
A read that has not been answered after ``ANSWER_SECONDS`` fails, and a connection that was silent
for so long is given up.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import psycopg

from ledger.postgres.exchange import Rows
from ledger.postgres.lane import Asked, Lane
from ledger.postgres.scope import EVERYONE, Planning, Tenant
from ledger.postgres.session import ReadConnection, options_of

ROLE = "ledger_api"

_OPTIONS = f"-c role={ROLE} -c default_transaction_read_only=on -c statement_timeout=9s"
"""PostgreSQL ends a statement before we give its connection up (``ANSWER_SECONDS``)."""

_POWERS = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"

_TOGETHER = 8
"""Reads of a group: more would save little, and wait for each other."""

_AT_FIRST = 4
"""Lanes that are there from the start."""

_SHORT_OF_LANES_SECONDS = 0.01
"""When a read has waited so long for a lane, there should be one more."""

_PATIENCE_SECONDS = 2.0
"""A read that has waited so long for a lane fails."""

_MOST_WAITING = 1000
_AGAIN_SECONDS = 0.1
"""Until it is tried again to connect, as long as somebody waits."""

_OPENING_SECONDS = 10.0
"""How long it is tried to connect at the start."""

_LOOK_SECONDS = 0.25
"""How often it is looked for reads that are overdue: no read has a timer of its own."""

_WALKS = 4
"""Pages of long walks that are read at once: what is read by others meanwhile is read fast."""


class Door:
    """Reads for one process, on up to ``size`` connections. ``open`` before use."""

    def __init__(self, conninfo: str, size: int = 16) -> None:
        self._conninfo, self._size = conninfo, size
        self._is_open = False
        self._lanes: set[Lane] = set()
        self._idle: list[Lane] = []
        """The one used last is taken first: it has the most statements prepared."""
        self._taken: set[Lane] = set()
        """Those that a long read has for itself."""
        self._short: deque[Asked] = deque()
        self._long: deque[Asked] = deque()
        self._sending: asyncio.Handle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connect_at = 0.0
        """When it may be tried again to connect."""
        self._failure: Exception | None = None
        """Why the last attempt failed."""
        self._walks = asyncio.Semaphore(_WALKS)
        self._walking: set[asyncio.Task[Rows]] = set()

    async def open(self) -> None:
        """Connect. Raises psycopg.OperationalError when the database stays away.

        Asserts that the role really is a powerless one: row-level policies bind no superuser.
        """
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._look()
        try:
            await self._open_first()
            if await self.fetch(EVERYONE, _POWERS, {}) != [(False,)]:
                raise AssertionError("reads must go through a role without special powers")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Give every connection back. Reads that are not answered yet fail."""
        self._is_open = False
        for timer in (self._sending, self._watching, self._looking):
            if timer is not None:
                timer.cancel()
        self._sending = self._watching = self._looking = None
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        waiting = [*self._short, *self._long]
        for lane in self._lanes:
            waiting += lane.close()
        for kept in (self._lanes, self._idle, self._taken, self._short, self._long):
            kept.clear()
        for asked in waiting:
            asked.fail(psycopg.OperationalError("reads have ended"))
        if self._walking:
            await asyncio.wait(self._walking)

    async def fetch(
        self,
        tenant: Tenant,
        statement: str,
        parameters: Mapping[str, Any],
        planning: Planning = Planning.SHORT,
    ) -> Rows:
        """The statement's rows, as the tenant sees them. Raises what PostgreSQL says.

        Raises OperationalError where no connection can be had in time, or too many reads wait.
        """
        if planning is Planning.WALK:
            return await self._walk(tenant, statement, parameters)
        if not self._is_open:
            raise psycopg.OperationalError("reads have ended, or not begun")
        if len(self._short) + len(self._long) >= _MOST_WAITING:
            raise psycopg.OperationalError("too many reads are waiting")
        asked = Asked(self._loop, tenant, statement, parameters, planning)
        (self._long if asked.is_long else self._short).append(asked)
        self._send_soon()
        return await asked.future

    async def _walk(self, tenant: Tenant, statement: str, parameters: Mapping[str, Any]) -> Rows:
        """A page of a long walk: few are read at once, and each to its end.

        Whoever asked may go in the middle, as listeners do. The page holds a lane until it is
        answered, whether its asker is there or not; so the next page must wait for its turn all the
        same, or many who come and go would take every lane that there is for what is long.
        """
        task = self._loop.create_task(self._walk_in_turn(tenant, statement, parameters))
        self._walking.add(task)
        task.add_done_callback(self._end_walk)
        return await asyncio.shield(task)

    async def _walk_in_turn(
        self, tenant: Tenant, statement: str, parameters: Mapping[str, Any]
    ) -> Rows:
        async with self._walks:
            return await self.fetch(tenant, statement, parameters, Planning.BY_VALUES)

    def _end_walk(self, task: asyncio.Task[Rows]) -> None:
        self._walking.discard(task)
        # An error, of which the one who asked and has gone need not be told.
        if not task.cancelled():
            task.exception()

    def renew(self) -> None:
        """Connect anew: another connection to the same server has fallen silent.

        Lanes that are idle are given up, or each would fail a read to find that out; so are those
        that have been waited for longer than most, and their reads are asked again.
        """
        for lane in tuple(self._lanes):
            if lane in self._idle or lane.waited_seconds() >= _PATIENCE_SECONDS:
                lane.give_up()

    def _send_soon(self) -> None:
        if self._sending is None:
            self._sending = self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Hand what waits to lanes that are idle."""
        self._sending = None
        while self._idle and (group := self._next_group()):
            lane = self._idle.pop()
            if group[0].is_long:
                self._taken.add(lane)
            for asked in group:
                asked.tries += 1
            lane.send(group)
        if (self._short or self._long) and self._is_open:
            if not self._lanes:
                self._connect_soon()
            if self._watching is None:
                self._watching = self._loop.call_later(_SHORT_OF_LANES_SECONDS, self._watch)

    def _next_group(self) -> Sequence[Asked]:
        """The reads that are to be sent together next: those that came first."""
        short, long = _first(self._short), _first(self._long)
        has_room = len(self._taken) < max(1, len(self._lanes) // 2)
        if long is not None and has_room and (short is None or long.since < short.since):
            return [self._long.popleft()]
        if short is None:
            return ()
        group = [self._short.popleft()]
        if short.tries:
            # Alone, whatever it was that ended its group: so no read is passed over for ever, and
            # one that ends connections takes no others with it again and again.
            return group
        # Those that are asked again stand in front of all others, so there is none among these.
        while len(group) < _TOGETHER and _first(self._short):
            group.append(self._short.popleft())
        group.sort(key=attrgetter("tenant"))
        return group

    def _release(self, lane: Lane, unanswered: list[Asked], error: psycopg.Error | None) -> None:
        """Take a lane back that is idle again, or lost."""
        self._taken.discard(lane)
        self._ask_again(unanswered)
        if error is None:
            self._idle.append(lane)
            self._send()
            return
        self._lanes.discard(lane)
        if lane in self._idle:
            self._idle.remove(lane)
        self._send_soon()

    def _ask_again(self, unanswered: list[Asked]) -> None:
        for asked in reversed(unanswered):
            if asked.tries > self._size or self._loop.time() >= asked.deadline:
                asked.fail(psycopg.OperationalError("a connection was lost each time"))
                continue
            asked.since = self._loop.time()
            (self._long if asked.is_long else self._short).appendleft(asked)

    def _look(self) -> None:
        overdue = [lane for lane in tuple(self._lanes) if lane.give_up_overdue()]
        if overdue:
            self.renew()
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _watch(self) -> None:
        """As long as somebody waits: see that there are lanes, and that nobody waits too long."""
        self._watching = None
        now = self._loop.time()
        self._short, self._long = self._patient(self._short, now), self._patient(self._long, now)
        waiting = [*self._short, *self._long]
        if any(now - asked.since >= _SHORT_OF_LANES_SECONDS for asked in waiting):
            self._connect_soon()
        self._send()

    def _patient(self, waiting: deque[Asked], now: float) -> deque[Asked]:
        """Those who wait on: neither gone nor waiting for too long, which they are told."""
        for asked in waiting:
            if now - asked.since >= _PATIENCE_SECONDS:
                reason = self._failure or "all are busy"
                asked.fail(psycopg.OperationalError(f"no connection in time: {reason}"))
        return deque(asked for asked in waiting if not asked.future.done())

    def _connect_soon(self) -> None:
        """One more lane, unless there are enough, or one is coming."""
        if self._connecting is not None or len(self._lanes) >= self._size:
            return
        if self._loop.time() >= self._connect_at:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._open_lane()
        except (psycopg.Error, OSError) as error:
            self._failure = error
            self._connect_at = self._loop.time() + _AGAIN_SECONDS
        finally:
            self._connecting = None
        self._send()

    async def _open_lane(self) -> None:
        connection = await ReadConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name="ledger api",
            client_encoding="utf-8",
            options=options_of(self._conninfo, _OPTIONS),
        )
        lane = Lane(connection, self._release)
        self._lanes.add(lane)
        self._idle.append(lane)
        self._failure = None

    async def _open_first(self) -> None:
        """The lanes that are there from the start, together."""
        deadline = self._loop.time() + _OPENING_SECONDS
        while (missing := min(_AT_FIRST, self._size) - len(self._lanes)) > 0:
            opening = (self._open_lane() for _ in range(missing))
            results = await asyncio.gather(*opening, return_exceptions=True)
            for error in filter(None, results):
                if not isinstance(error, psycopg.Error | OSError) or self._loop.time() > deadline:
                    raise error
            if any(results):
                await asyncio.sleep(_AGAIN_SECONDS)


def _first(waiting: deque[Asked]) -> Asked | None:
    """The first one whose answer somebody still waits for."""
    while waiting and waiting[0].future.done():
        waiting.popleft()
    return waiting[0] if waiting else None
