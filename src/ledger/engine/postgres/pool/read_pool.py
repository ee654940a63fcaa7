"""The read pool: all reads of a process go through it, as a role that owns nothing.

Reads that arrive in one iteration of the event loop are sent together, on idle connections
(``pipelined.py``):

    fetch ─▶ short ─┐                  ┌─▶ connection ─ a group of short reads
                    ├─ next iteration ─┼─▶ connection ─ a long read, alone
    scan ──▶ long ──┘                  └─▶ …    if lost: its unanswered reads go first again

A long read is sent alone (``Planning``). Long reads take at most half of the connections, so that
short reads need not wait for them. Organizations are served in turn (``round_robin.py``). Every
group begins by setting its tenant; these settings are local to the group's transaction. The
transactions of the role are read-only by default.

A read changes nothing, so the pool sends it again on another connection if its own was lost. A
restart of the database ends every connection and refuses new ones for a moment; reads that can wait
that long do not fail. A read without an answer after ``ANSWER_SECONDS`` fails. The pool closes a
connection whose replies are overdue by then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import psycopg
from prometheus_client import Histogram

from ledger.engine.postgres.exchange import Rows, SilentServer
from ledger.engine.postgres.pool.pipelined import PendingRead, PipelinedConnection
from ledger.engine.postgres.pool.round_robin import WaitingReads
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.postgres.schema.walls import POWERS
from ledger.engine.postgres.session import ReadConnection, options_of
from ledger.engine.postgres.timing import CANCEL_SECONDS, OVERDUE_SECONDS
from ledger.engine.values.principal import EVERYONE, Tenant

_OPTIONS = f"-c default_transaction_read_only=on -c statement_timeout={CANCEL_SECONDS}s"

_TOGETHER = 8
"""The most reads of a group: a larger group saves little, and its reads wait for each other."""

_SHORT_SHARE, _LONG_SHARE = 2 * _TOGETHER, 2
"""The most short and long reads of an organization under way at once. They are enough to keep a
process busy, and few enough that their answers, which are rendered in one iteration of the event
loop, delay others for some milliseconds only."""

_SHORTAGE_SECONDS = 0.01
"""When a read has waited this long, the pool opens one more connection."""

_QUEUE_SECONDS = 2.0
"""A read that has waited this long for a connection fails."""

_MOST_WAITING = 1000
"""The most reads in the queues; a further read fails at once."""

_AGAIN_SECONDS = 0.1
"""The pause between two attempts to connect while a read waits."""

_OPENING_SECONDS = 10.0
"""For how long ``open`` tries to connect."""

_SCANS = 4
"""The most pages of exports and streams read at once, so that other reads stay fast."""


_WAITED_SECONDS = 0.001
"""The shortest wait that is counted: most reads are sent in the loop's next iteration."""

_WAIT_SECONDS = Histogram(
    "ledger_pool_wait_seconds",
    "Seconds that reads waited for a connection, of those that waited for a millisecond or more.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)


class ReadPool:
    """Reads for one process, on up to ``size`` connections. ``open`` before use."""

    def __init__(self, conninfo: str, size: int = 16) -> None:
        self._conninfo, self._size = conninfo, size
        self._is_open = False
        self._connections: set[PipelinedConnection] = set()
        self._idle: list[PipelinedConnection] = []
        """A stack: the connection used last is next, since it has the most prepared statements."""
        self._groups: dict[PipelinedConnection, Sequence[PendingRead]] = {}
        """The reads that are under way, by their connection."""
        self._short, self._long = WaitingReads(_SHORT_SHARE), WaitingReads(_LONG_SHARE)
        self._sending: asyncio.Handle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connect_at = 0.0
        """The earliest loop time of the next attempt to connect."""
        self._left = 0
        """How often the pool has left a server."""
        self._failure: Exception | None = None
        """The error of the last attempt to connect; None after a success."""
        self._scans = asyncio.Semaphore(_SCANS)
        self._walking: set[asyncio.Task[Rows]] = set()

    async def open(self) -> None:
        """Connect. Raises psycopg.OperationalError if the database stays unreachable.

        Asserts that policies bind the role, and that it cannot become another role (``POWERS``).
        """
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._check()
        try:
            await self._open_first()
            ((fault,),) = await self.fetch(EVERYONE, POWERS, {})
            if fault is not None:
                raise AssertionError(f"the role of reads {fault}")
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection. Reads without an answer fail."""
        self._is_open = False
        for timer in (self._sending, self._watching, self._looking):
            if timer is not None:
                timer.cancel()
        self._sending = self._watching = self._looking = None
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        waiting = self._short.reads + self._long.reads
        for connection in self._connections:
            waiting += connection.close()
        for group in (self._connections, self._idle, self._groups):
            group.clear()
        for read in waiting:
            read.fail(psycopg.OperationalError("reads have ended"))
        if self._walking:
            await asyncio.wait(self._walking)

    async def fetch(
        self,
        tenant: Tenant,
        statement: str,
        parameters: Mapping[str, Any],
        planning: Planning = Planning.SHORT,
    ) -> Rows:
        """Return the statement's rows, as the tenant sees them. Raises PostgreSQL's error.

        Raises OperationalError if no connection is free in time, or too many reads wait.
        """
        if planning is Planning.SCAN:
            return await self._scan(tenant, statement, parameters)
        if not self._is_open:
            raise psycopg.OperationalError("reads have ended, or not begun")
        if self._short.count + self._long.count >= _MOST_WAITING:
            raise psycopg.OperationalError("too many reads are waiting")
        read = PendingRead(self._loop, tenant, statement, parameters, planning)
        self._queue_of(read).add(read.organization, read)
        self._send_soon()
        return await read.future

    async def _scan(self, tenant: Tenant, statement: str, parameters: Mapping[str, Any]) -> Rows:
        """Read a page of an export or a stream to its end; only ``_SCANS`` pages run at once.

        The caller may be cancelled meanwhile, for example when the client of a stream disconnects.
        The page keeps its connection until PostgreSQL has answered, with or without a caller. So it
        keeps its slot of the semaphore too, hence ``shield``. Otherwise clients that quickly
        connect and disconnect would take every connection that long reads may have.
        """
        task = self._loop.create_task(self._scan_limited(tenant, statement, parameters))
        self._walking.add(task)
        task.add_done_callback(self._end_scan)
        return await asyncio.shield(task)

    async def _scan_limited(
        self, tenant: Tenant, statement: str, parameters: Mapping[str, Any]
    ) -> Rows:
        async with self._scans:
            return await self.fetch(tenant, statement, parameters, Planning.BY_VALUES)

    def _end_scan(self, task: asyncio.Task[Rows]) -> None:
        self._walking.discard(task)
        # Retrieve the error, or asyncio would log it if the caller was cancelled.
        if not task.cancelled():
            task.exception()

    def renew(self) -> None:
        """Replace the connections: another connection to the same server has fallen silent.

        Idle ones are closed; otherwise each would fail a read before the pool noticed. Those
        without a reply for ``_QUEUE_SECONDS`` are closed too, and their reads are sent again.
        """
        for connection in tuple(self._connections):
            if connection in self._idle or connection.waited_seconds() >= _QUEUE_SECONDS:
                connection.give_up()

    def leave(self) -> None:
        """Close all connections: new ones lead to another server. Reads in flight are sent again.

        The former server may live on, and would always answer with old data.
        """
        self._left += 1
        for connection in tuple(self._connections):
            connection.give_up()

    def _queue_of(self, read: PendingRead) -> WaitingReads:
        return self._long if read.is_long else self._short

    def _send_soon(self) -> None:
        if self._sending is None:
            self._sending = self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        now = self._loop.time()
        while self._idle and (self._short or self._long) and (group := self._next_group()):
            connection = self._idle.pop()
            self._groups[connection] = group
            for read in group:
                read.tries += 1
                if now - read.since >= _WAITED_SECONDS:
                    _WAIT_SECONDS.observe(now - read.since)
            connection.send(group)
        if (self._short or self._long) and self._is_open:
            if not self._connections:
                self._connect_soon()
            if self._watching is None:
                self._watching = self._loop.call_later(_SHORTAGE_SECONDS, self._watch)

    def _next_group(self) -> Sequence[PendingRead]:
        """Take the next group out of the queues."""
        long = self._long.first() if self._long else None
        if long is not None and self._long.under_way < max(1, len(self._connections) // 2):
            short = self._short.first()
            if short is None or long.since < short.since:
                return self._long.begin(1)
        group = self._short.begin(_TOGETHER)
        group.sort(key=attrgetter("tenant"))
        return group

    def _release(
        self,
        connection: PipelinedConnection,
        unanswered: list[PendingRead],
        error: psycopg.Error | None,
    ) -> None:
        """Take back a connection that is idle again or lost."""
        if group := self._groups.pop(connection, None):
            self._queue_of(group[0]).end(group)
        self._ask_again(unanswered)
        if error is None:
            self._idle.append(connection)
            self._send()
            return
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._send_soon()

    def _ask_again(self, unanswered: list[PendingRead]) -> None:
        for read in reversed(unanswered):
            if read.tries > self._size or self._loop.time() >= read.deadline:
                read.fail(psycopg.OperationalError("a connection was lost each time"))
                continue
            read.since = self._loop.time()
            self._queue_of(read).add_first(read.organization, read)

    def _check(self) -> None:
        for read in self._short.reads + self._long.reads:
            # A read that is sent again keeps its first deadline.
            if self._loop.time() >= read.deadline:
                read.fail(SilentServer())
        overdue = [
            connection for connection in tuple(self._connections) if connection.give_up_overdue()
        ]
        if overdue:
            self.renew()
        self._looking = self._loop.call_later(OVERDUE_SECONDS, self._check)

    def _watch(self) -> None:
        """While reads wait: open connections, and fail the reads that have waited too long."""
        self._watching = None
        now = self._loop.time()
        for waiting in (self._short, self._long):
            self._fail_late(waiting, now)
            if any(now - read.since >= _SHORTAGE_SECONDS for read in waiting.reads):
                self._connect_soon()
        self._send()

    def _fail_late(self, waiting: WaitingReads, now: float) -> None:
        """Fail the reads that have waited too long.

        A long read that waits for others of its own organization may wait until its deadline.
        """
        for read in waiting.reads:
            is_queued = read.is_long and waiting.is_share_used(read)
            if now >= (read.deadline if is_queued else read.since + _QUEUE_SECONDS):
                _WAIT_SECONDS.observe(now - read.since)
                reason = self._failure or "all connections are busy"
                read.fail(psycopg.OperationalError(f"no connection in time: {reason}"))
        waiting.drop_ended()

    def _connect_soon(self) -> None:
        """Open one more connection, unless there are enough or one is being opened."""
        if self._connecting is not None or len(self._connections) >= self._size:
            return
        if self._loop.time() >= self._connect_at:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._open_connection()
        except (psycopg.Error, OSError) as error:
            self._failure = error
            self._connect_at = self._loop.time() + _AGAIN_SECONDS
        finally:
            self._connecting = None
        self._send()

    async def _open_connection(self) -> None:
        left = self._left
        connection = await ReadConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name="ledger api",
            client_encoding="utf-8",
            options=options_of(self._conninfo, _OPTIONS),
        )
        if left != self._left:
            await connection.close()  # it may lead to the server that was left meanwhile
            return
        pipelined = PipelinedConnection(connection, self._release)
        self._connections.add(pipelined)
        self._idle.append(pipelined)
        self._failure = None

    async def _open_first(self) -> None:
        """Open the first connection; try again until the deadline. Reads that wait open others."""
        deadline = self._loop.time() + _OPENING_SECONDS
        while not self._connections:
            try:
                await self._open_connection()
            except (psycopg.Error, OSError):
                if self._loop.time() > deadline:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
