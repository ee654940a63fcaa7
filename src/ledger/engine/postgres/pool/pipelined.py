"""A connection on which reads are pipelined: sent together, answered in order, one round trip.

It sends groups of reads through an ``Exchange`` that the loop drives. A group is one implicit
transaction, as in any pipeline:

* The tenant's settings are local to the transaction. They hold for the statements behind them in
  the group; the next group starts without them.
* An error aborts the transaction, so PostgreSQL skips the later reads of the group. Skipped reads
  may be sent again.
* Each statement has its own snapshot, as under READ COMMITTED. But its locks are held, and
  PostgreSQL buffers its result, until the group ends. So a slow statement must be alone in its
  group (head-of-line blocking).
"""

import asyncio
import select
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import DeadlockDetected, SerializationFailure

from ledger.engine.postgres.exchange import (
    Exchange,
    Rows,
    SilentServer,
    StatementKey,
    StatementResult,
    numbered,
)
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.values.principal import Tenant


class LoopDriver:
    """Drives an exchange on the running loop until ``stop``.

    psycopg registers a reader with the loop anew for each reply; the driver's stays registered. The
    driver calls ``deliver()`` when bytes have arrived; it returns True if every expected reply is
    there. The driver calls ``lose(error)`` when the connection is lost, perhaps within ``sync``.
    """

    def __init__(
        self,
        exchange: Exchange[Any],
        deliver: Callable[[], bool],
        lose: Callable[[psycopg.Error], None],
    ) -> None:
        self._exchange, self._deliver, self._lose = exchange, deliver, lose
        self._socket = exchange.socket
        self._hang_up = select.poll()
        self._hang_up.register(self._socket, 0)
        self._is_full = False
        """True if the socket's send buffer is full."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self.receive)

    def stop(self) -> None:
        """Unregister the socket from the loop. Call it before the connection is closed."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    def sync(self) -> None:
        """End the group with a sync message, and write the group."""
        try:
            self._exchange.sync(self._loop.time())
        except psycopg.OperationalError as error:
            self._lose(error)
        else:
            self._flush()

    def receive(self) -> None:
        """Read the bytes that have arrived, and call ``deliver``.

        Call it once at the start too if psycopg used the connection before: psycopg may have read
        bytes already, for which the socket does not become readable again.

        uvloop calls back only once for a socket in error, for example when the server closed the
        connection without reading everything. So this must read up to the error, or the group would
        wait for ever.
        """
        try:
            while True:
                self._exchange.consume()
                if self._deliver() or not self._hang_up.poll(0):
                    return
        except psycopg.OperationalError as error:
            self._lose(error)

    def _flush(self) -> None:
        """Write the rest of the output; if the send buffer is full, go on when it has room."""
        try:
            is_full = self._exchange.flush()
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket, self._flush)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket)
        self._is_full = is_full


_Adapted = tuple[StatementKey, Sequence[Buffer | None], Sequence[pq.Format]]
"""A statement's key, and its parameters with their formats, ready to be sent."""

# The settings of the statements after this one: their tenant and their planning.
_SCOPE = b"""
SELECT set_config('ledger.organization_id', $1, true),
       set_config('ledger.workspace_id', $2, true),
       set_config('plan_cache_mode', $3, true),
       set_config('enable_seqscan', $4, true)
"""


class PendingRead:
    """A read, and the future of its rows. ``tries`` counts how often the read was sent."""

    __slots__ = (
        "deadline",
        "future",
        "is_long",
        "organization",
        "parameters",
        "planning",
        "since",
        "statement",
        "tenant",
        "tries",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tenant: Tenant,
        statement: str,
        parameters: Mapping[str, Any],
        planning: Planning,
    ) -> None:
        self.tenant, self.statement, self.parameters = tenant, statement, parameters
        self.organization = tenant.organization
        self.planning, self.is_long = planning, planning is not Planning.SHORT
        self.future: asyncio.Future[Rows] = loop.create_future()
        self.since = loop.time()
        """The loop time since which the read has waited for a connection."""
        self.deadline = self.since + ANSWER_SECONDS
        self.tries = 0

    def fail(self, error: Exception) -> None:
        """Raise the error in the caller, unless the caller has stopped waiting."""
        if not self.future.done():
            self.future.set_exception(error)


class PipelinedConnection:
    """Carries one group of reads at a time: from ``send`` until ``done(self, passed_over, None)``.

    It calls ``done(self, unanswered, error)`` when the connection is lost: at any time, also within
    ``send``. After ``close`` it never calls ``done``.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        done: Callable[["PipelinedConnection", list[PendingRead], psycopg.Error | None], None],
    ) -> None:
        self._connection, self._done = connection, done
        self._exchange: Exchange[PendingRead] = Exchange(connection)
        self._driver = LoopDriver(self._exchange, self._deliver, self._lose)
        self._adapt = Transformer.from_context(connection)
        self._group: Sequence[PendingRead] = ()
        self._loop = asyncio.get_running_loop()

    def close(self) -> list[PendingRead]:
        """Close the connection. Return the reads in flight, which get no answer here."""
        self._driver.stop()
        self._exchange.close()
        return self._end_group()

    def send(self, group: Sequence[PendingRead]) -> None:
        """Send a group of reads. Reads of one tenant should be adjacent, to share a scope."""
        self._group = group
        try:
            self._add(group)
        except psycopg.Error as error:
            self._lose(error)
        else:
            self._driver.sync()

    def give_up_overdue(self) -> bool:
        """Fail overdue reads; close the connection if its replies are overdue, and then return
        True.

        A proxy may keep a connection open although its server has vanished. A read that was sent
        before on another connection reaches its deadline earlier than this connection does.
        """
        now = self._loop.time()
        for read in self._group:
            if now >= read.deadline:
                read.fail(SilentServer())
        is_overdue = self._exchange.seconds_left(now) <= 0
        if is_overdue:
            self.give_up()
        return is_overdue

    def give_up(self) -> None:
        """Close the connection. The reads in flight may be sent again on another one."""
        self._lose(SilentServer())

    def waited_seconds(self) -> float:
        """How long the replies to the group have been missing; 0 without a group."""
        return self._exchange.waited_seconds(self._loop.time())

    def _add(self, group: Sequence[PendingRead]) -> None:
        tenant: Tenant | None = None
        for pending in group:
            scope = None
            try:
                if pending.tenant != tenant:
                    scope = _scope_of(*pending.tenant, *pending.planning.settings)
                read = self._adapted(pending.statement, pending.parameters)
            except Exception as error:
                # For example a value without a PostgreSQL type. Nothing of this read was sent, so
                # the other reads' statements and results still match one to one.
                pending.fail(error)
                continue
            if scope is not None:
                self._exchange.send(pending, *scope, wants_rows=False)
                tenant = pending.tenant
            self._exchange.send(pending, *read)

    def _adapted(self, statement: str, parameters: Mapping[str, Any]) -> _Adapted:
        text, names = numbered(statement)
        try:
            values = [parameters[name] for name in names]
        except KeyError as error:
            raise psycopg.ProgrammingError(f"query parameter missing: {error}") from error
        adapt = self._adapt
        dumped = adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
        return (text, adapt.types or ()), dumped, adapt.formats or ()

    def _deliver(self) -> bool:
        """Give the outcomes to the callers. Return True if the group has ended."""
        outcomes: list[tuple[PendingRead | None, StatementResult]] = []
        try:
            self._exchange.collect(outcomes)
        finally:
            for read, outcome in outcomes:
                if read is None or read.future.done():
                    continue  # the caller has stopped waiting
                if isinstance(outcome, list):
                    read.future.set_result(outcome)
                elif not isinstance(outcome, DeadlockDetected | SerializationFailure):
                    read.fail(outcome or psycopg.ProgrammingError("the statement gives no rows"))
                # The reads of a group hold their table locks until the group ends. The swap of a
                # rebuild locks tables too, so the two may deadlock. A standby cancels a read that
                # its replay has waited for. The read is not at fault: it counts as passed over, and
                # may be sent again.
        if self._exchange.is_waiting or not self._group:
            return False
        self._done(self, self._end_group(), None)
        return True

    def _end_group(self) -> list[PendingRead]:
        """End the group. Return its reads without an answer."""
        group, self._group = self._group, ()
        return [read for read in group if not read.future.done()]

    def _lose(self, error: psycopg.Error) -> None:
        self._done(self, self.close(), error)


@lru_cache(1024)
def _scope_of(*settings: str) -> _Adapted:
    # In binary, PostgreSQL refuses a zero character; in text it would ignore what follows.
    return (_SCOPE, ()), [value.encode() for value in settings], [pq.Format.BINARY] * len(settings)
