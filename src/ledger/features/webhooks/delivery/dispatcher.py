"""The dispatcher: sends the log's events to the webhook endpoints (contract, Feeds).

One process at a time dispatches: the holder of an advisory lock. When it dies or freezes, another
process takes over. A process that was frozen begins no request before it is certain that it still
leads. ``lead.py`` has the work of a leader.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import psycopg
import uvloop
from psycopg.rows import TupleRow

from ledger.engine.background import BackgroundLoop
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.values.errors import ClockSkew
from ledger.features.webhooks.delivery.deliveries import Deliveries, connect
from ledger.features.webhooks.delivery.lead import DispatcherDeps, Lead
from ledger.features.webhooks.delivery.sender import Sender

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""The pause before another attempt to lead or connect."""


class Dispatcher(BackgroundLoop):
    """Delivers to webhook endpoints, on its own event loop.

    ``stop`` begins no more deliveries, and waits until the deliveries in flight are answered and
    recorded. The writer starts before the dispatcher.
    """

    def __init__(self, conninfo: str, sender: Callable[[], Sender], deps: DispatcherDeps) -> None:
        super().__init__("dispatcher")
        self._conninfo, self._make_sender, self._deps = conninfo, sender, deps
        self._candidate = Candidate({"dispatcher": locks.DISPATCHER})
        self._loop: asyncio.AbstractEventLoop
        self._wake = asyncio.Event()
        self._started = threading.Event()

    def start(self) -> None:
        """Start the thread; return once its event loop runs."""
        super().start()
        self._started.wait()

    def wake(self) -> None:
        """Check for work now, since the clock may have been moved. Any thread may call this."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    def _interrupt(self) -> None:
        self.wake()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._dispatch())

    async def _dispatch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        async with self._make_sender() as sender:
            while not self._stopping.is_set():
                try:
                    async with await connect(self._conninfo) as connection:
                        await self._follow(connection, sender)
                except ClockSkew as error:
                    _logger.warning("dispatcher: the lead is given up: %s", error)
                    self._candidate.leave()
                except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                    # The schema is an older version's: a view is being built from the whole log.
                    _logger.debug("a view is not built yet")
                    await self._pause()
                except (psycopg.Error, OSError) as error:
                    _logger.warning("cannot dispatch webhooks: %s", error)
                    await self._pause()
                except Exception:
                    # A programming error: from here on only the tables can be trusted.
                    _logger.exception("the dispatcher failed; it starts over")
                    await self._pause()

    async def _follow(self, connection: psycopg.AsyncConnection[TupleRow], sender: Sender) -> None:
        while not self._stopping.is_set():
            if await self._candidate.try_lead_async(connection):
                await connection.execute("LISTEN ledger_views")
                await self._lead(connection, sender)
            else:
                await self._pause()

    async def _lead(self, connection: psycopg.AsyncConnection[TupleRow], sender: Sender) -> None:
        """Dispatch until ``stop`` is called.

        Raises the database's error when the connection is lost, and ClockSkew when a node with a
        right clock must lead instead.
        """
        deliveries = Deliveries(connection, self._deps.gather)
        lead = Lead(self._deps, deliveries, sender, self._stopping, self._wake)

        def notified(_: psycopg.Notify) -> None:
            lead.hear()

        connection.add_notify_handler(notified)
        try:
            while not lead.is_ending():
                await lead.run_once()
                with self._hearing(connection, lead.hear):
                    await self._sleep(lead.idle_seconds())
            await lead.finish()
        finally:
            # The next lead resends a delivery in flight whose result can no longer be recorded.
            await lead.abandon()

    @contextlib.contextmanager
    def _hearing(
        self, connection: psycopg.AsyncConnection[TupleRow], hear: Callable[[], bool]
    ) -> Iterator[None]:
        """Wake up when the views move, or the connection is lost. No statement runs meanwhile."""
        libpq, socket = connection.pgconn, connection.fileno()

        def read() -> None:
            try:
                libpq.consume_input()
                has_changes = bool([*iter(libpq.notifies, None)]) and hear()
            except psycopg.OperationalError:  # the next statement raises it, too
                self._loop.remove_reader(socket)
                has_changes = True
            if has_changes:
                self._wake.set()

        self._loop.add_reader(socket, read)
        read()  # libpq may have read a notification after the last reply
        try:
            yield
        finally:
            self._loop.remove_reader(socket)

    async def _sleep(self, seconds: float) -> None:
        """Sleep until woken, at most for so many seconds."""
        timer = self._loop.call_later(max(0.0, seconds), self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    async def _pause(self) -> None:
        if not self._stopping.is_set():
            await self._sleep(_RETRY_SECONDS)
