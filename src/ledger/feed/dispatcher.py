"""The dispatcher: sends the log's events to the webhook endpoints (contract, Feeds).

One process at a time dispatches: the holder of an advisory lock. When it dies or freezes, another
process takes over. A delivery is claimed and committed, then sent, and then its result is recorded,
so no transaction is open during a request. One loop on one connection does all the writes: results
of the requests in flight are recorded together, and make room for the next requests. A request
whose result was not recorded, whatever the reason, is sent again: delivery is at-least-once. A
process that was frozen begins no request before it is certain that it still leads.
"""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any

import psycopg
import uvloop

from ledger.application.command import Command
from ledger.application.commands.webhooks import DisableEndpoint, GiveUpDelivery
from ledger.background import BackgroundLoop
from ledger.domain.endpoint import DisabledReason
from ledger.domain.errors import Unavailable
from ledger.feed import verdict
from ledger.feed.confirmation import Confirmation
from ledger.feed.deliveries import Deliveries, News, connect
from ledger.feed.metrics import count_failure, count_result
from ledger.feed.roster import MOST_IN_FLIGHT, Opener, Roster, Watched, secrets_of
from ledger.feed.schedule import Schedule
from ledger.feed.sender import Attempt, Sender
from ledger.feed.verdict import FAILING_FOR, Claimed, Result, Verdict
from ledger.intake.request import Outcome, Receipt
from ledger.postgres.listening import Ear

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""The longest wait for a notification, and the pause before another try to lead or connect."""

_GATHER_SECONDS = 0.01
_GATHER_IDLE_SECONDS = 0.1
"""Between two looks at the views' changes: under load the views move hundreds of times a second.
Without any endpoint the pause is longer, since only a first endpoint would matter."""

Submit = Callable[[Sequence[Command]], "Future[list[Outcome]]"]
"""Hands commands to the writer. Raises Unavailable."""


class Dispatcher(BackgroundLoop):
    """Delivers to webhook endpoints, on an event loop of its own.

    ``stop`` begins no more deliveries, and waits until the deliveries in flight are answered and
    recorded. The writer starts before the dispatcher.
    """

    def __init__(
        self,
        conninfo: str,
        submit: Submit,
        open_secret: Opener,
        sender: Callable[[], Sender],
        schedule: Schedule,
        clock: Callable[[], datetime],
        most_in_flight: int = MOST_IN_FLIGHT,
    ) -> None:
        super().__init__("dispatcher")
        self._conninfo, self._submit, self._open_secret = conninfo, submit, open_secret
        self._make_sender, self._schedule, self._clock = sender, schedule, clock
        self._most_in_flight = most_in_flight
        self._loop: asyncio.AbstractEventLoop
        self._wake = asyncio.Event()
        self._started = threading.Event()

    def start(self) -> None:
        """Start the thread; return once its event loop runs."""
        super().start()
        self._started.wait()

    def wake(self) -> None:
        """Look for work now, since the clock may have been moved. Any thread may call this."""
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
                        await self._follow(Deliveries(connection), sender)
                except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                    # The ledger is an older version's: a view is being built from the whole log.
                    _logger.debug("a view is not built yet")
                    await self._pause()
                except (psycopg.Error, OSError) as error:
                    _logger.warning("cannot dispatch webhooks: %s", error)
                    await self._pause()
                except Exception:
                    # A programming error: only the tables are trusted from here on.
                    _logger.exception("the dispatcher failed; it starts over")
                    await self._pause()

    async def _follow(self, deliveries: Deliveries, sender: Sender) -> None:
        """Take the lead, or wait until it can be taken."""
        while not self._stopping.is_set():
            if await deliveries.lead():
                await self._lead(deliveries, sender)
            else:
                await self._pause()

    async def _lead(self, deliveries: Deliveries, sender: Sender) -> None:
        """Dispatch until told to stop. Raises the database's error when the connection is lost."""
        lead = _Lead(self, deliveries, sender)
        async with self._listening(lead.hear):
            try:
                while not self._stopping.is_set():
                    await lead.run_once()
                    await self._sleep(lead.idle_seconds())
                await lead.finish()
            finally:
                # A delivery in flight whose result can no longer be recorded is sent again by the
                # next lead.
                await lead.abandon()

    @contextlib.asynccontextmanager
    async def _listening(self, hear: Callable[[], bool]) -> AsyncIterator[None]:
        """Listen for moves of the views, on a separate connection."""

        def heard(_: str) -> None:
            if hear():
                self._wake.set()

        async def listen() -> None:
            while True:
                try:
                    async with await connect(self._conninfo) as connection:
                        ear = Ear(connection)
                        await connection.execute("LISTEN ledger_views")
                        hear()
                        await ear.listen(heard)
                except (psycopg.Error, OSError) as error:
                    _logger.warning("dispatcher cannot follow the views: %s", error)
                    await asyncio.sleep(_RETRY_SECONDS)

        listener = asyncio.create_task(listen())
        try:
            yield
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listener

    async def _sleep(self, seconds: float) -> None:
        """Sleep until woken, at most for so many seconds."""
        timer = self._loop.call_later(max(0.0, seconds), self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    async def _pause(self) -> None:
        """Wait before another try, unless told to stop."""
        if not self._stopping.is_set():
            await self._sleep(_RETRY_SECONDS)


class _Lead:
    """The work of one dispatcher, from taking the lead to losing it."""

    def __init__(self, dispatcher: Dispatcher, deliveries: Deliveries, sender: Sender) -> None:
        self._of, self._deliveries, self._sender = dispatcher, deliveries, sender
        self._roster = Roster(dispatcher._most_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[tuple[Claimed, Attempt]] = []
        """Attempts that were answered, or failed, and are not recorded yet."""
        self._settled: list[Claimed] = []
        """Deliveries whose failure the log has, and the tables do not have yet."""
        self._is_news = True
        self._looked_at = 0.0
        self._confirmed = Confirmation(dispatcher._loop, dispatcher._stopping)
        self._has_leftovers = True
        """Whether deleted endpoints may have left deliveries behind."""
        self._fault: BaseException | None = None
        """The error of a task that broke. The dispatcher then starts over, with nothing in hand."""

    def hear(self) -> bool:
        """Note that the views have moved; return whether that was not known yet."""
        known, self._is_news = self._is_news, True
        return not known

    async def run_once(self) -> None:
        """Take one turn: look at changes, record results, claim and send the next deliveries."""
        if self._fault is not None:
            raise self._fault
        if self._until_look() <= 0:
            self._is_news, self._looked_at = False, self._of._loop.time()
            sent_at = self._confirmed.now()
            news = await self._deliveries.changed(self._roster.seen)
            self._confirmed.confirm(sent_at)
            self._roster.update(news, self._now())
            await self._heed()
            await self._clear(news)
        await self._turn(sends=True)

    async def _heed(self) -> None:
        """Make the deliveries due that tests and recoveries ask for."""
        requesting = [watched.id for watched in self._roster.requesting()]
        if requesting:
            heeded = await self._deliveries.heed(requesting, self._now())
            self._roster.heed(heeded, self._now())
            self._is_news |= any(not one.is_done for one in heeded)

    async def _clear(self, news: News) -> None:
        """Drop deliveries that deleted endpoints have left behind, some at each look."""
        self._has_leftovers |= any(one.standing.endpoint.deleted for one in news.changed)
        if self._has_leftovers:
            self._has_leftovers = await self._deliveries.drop_deleted()
            self._is_news |= self._has_leftovers

    def idle_seconds(self) -> float:
        """The seconds for which there is nothing to do, as far as is known now."""
        if self._roster.is_ready or self._done or self._settled:
            return 0.0
        due = self._roster.next_due()
        look = self._until_look()
        return look if due is None else min(look, (due - self._now()).total_seconds())

    def _until_look(self) -> float:
        """The seconds until the next look at the views' changes."""
        pause = _RETRY_SECONDS
        if self._is_news:
            pause = _GATHER_IDLE_SECONDS if self._roster.is_empty else _GATHER_SECONDS
        return self._looked_at + pause - self._of._loop.time()

    async def finish(self) -> None:
        """Await and record the requests in flight: each ends by its own deadline."""
        self._confirmed.wake()
        while self._tasks or self._done or self._settled:
            await self._turn(sends=False)
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def abandon(self) -> None:
        """Cancel the tasks in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _now(self) -> datetime:
        return self._of._clock()

    # One turn.

    async def _turn(self, *, sends: bool) -> None:
        now = self._now()
        done, self._done = self._done, []
        settled, self._settled = self._settled, []
        verdicts = [(self._judge(claimed, attempt, now), attempt) for claimed, attempt in done]
        results = [one.result for one, _ in verdicts]
        results += [Result(claimed, "failed", None) for claimed in settled]
        failing = self._failing(verdicts)
        asks = self._roster.turn(now) if sends else []
        if not results and not asks:
            return
        sent_at = self._confirmed.now()
        given = await self._deliveries.turn(results, failing, asks, self._roster.reached, now)
        self._confirmed.confirm(sent_at)
        # Consequences are drawn only now that the results are recorded.
        for one, attempt in verdicts:
            count_result(one)
            self._conclude(one, attempt.url, now)
        for claimed in settled:
            count_failure()
            self._roster.release(claimed, None, now)
        self._is_news |= not self._roster.give(asks, given, now)
        for one_given in given.values():
            for claimed in one_given.claimed:
                self._begin(self._send(claimed))

    def _judge(self, claimed: Claimed, attempt: Attempt, now: datetime) -> Verdict:
        return verdict.judge(claimed, attempt, self._of._schedule, now, random.random())

    def _failing(self, verdicts: Sequence[tuple[Verdict, Attempt]]) -> dict[str, datetime | None]:
        """Since when endpoints fail, for the endpoints of which that has changed."""
        changed: dict[str, datetime | None] = {}
        for one, attempt in verdicts:
            claimed = one.result.claimed
            watched = self._roster.get(claimed.endpoint_id)
            if watched is None or claimed.is_test:
                continue
            since = None
            if not attempt.delivered:
                since = watched.failing_since or watched.counted_from(attempt.at)
            if since != watched.failing_since:
                watched.failing_since = changed[watched.id] = since
        return changed

    def _conclude(self, one: Verdict, url: str, now: datetime) -> None:
        """Draw the consequences of a recorded attempt at ``url``."""
        claimed = one.result.claimed
        watched = self._roster.get(claimed.endpoint_id)
        if watched is not None:
            since = watched.failing_since
            if one.gone:
                self._disable(watched, "gone", url)
            elif one.result.counts and since is not None and now - since >= FAILING_FOR:
                self._disable(watched, "failing", url)
        if one.gives_up:
            self._begin(self._give_up(claimed, claimed.tried + 1, one.result.attempt))
        else:
            self._roster.release(claimed, one.result.due_at, now)

    # Tasks beside the turns.

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._of._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        self._of._wake.set()

    async def _send(self, claimed: Claimed) -> None:
        """Send a delivery. If it has had all its attempts, only tell the log that it failed."""
        if claimed.tried >= self._of._schedule.attempts and not claimed.is_test:
            await self._give_up(claimed, claimed.tried, claimed.last)
            return
        may_begin = await self._confirmed.holds()
        watched = self._roster.get(claimed.endpoint_id)
        if watched is None or not may_begin:
            self._roster.release(claimed, None, self._now())
            return
        at, url = self._now(), watched.standing.endpoint.url
        try:
            secrets = secrets_of(watched, at, self._of._open_secret)
            body = claimed.body.encode()
            attempt = await self._sender.send(url, claimed.event_id, body, secrets)
        except Exception:
            # A programming error. For the receiver it is a failed attempt like any other.
            _logger.exception("a webhook could not be sent")
            attempt = Attempt(url, at, None, 0, "it could not be sent", None, None)
        self._done.append((claimed, attempt))

    async def _give_up(self, claimed: Claimed, tried: int, last: str | None) -> None:
        """Tell the log that a delivery failed for good, then count it as failed."""
        if not verdict.gives_up_silently(claimed):
            body = verdict.failure_of(claimed, tried, last)
            command = GiveUpDelivery(claimed.endpoint_id, claimed.event_id, claimed.round, body)
            if await self._execute(command) is None:
                return
        self._settled.append(claimed)

    def _disable(self, watched: Watched, reason: DisabledReason, url: str) -> None:
        if watched.halt():
            self._begin(self._tell_disabled(watched, reason, url))

    async def _tell_disabled(self, watched: Watched, reason: DisabledReason, url: str) -> None:
        """Record that the endpoint is disabled. Until the view shows it, the roster knows it."""
        outcome = await self._execute(DisableEndpoint(watched.id, reason, url))
        # A refusal means that somebody else disabled the endpoint first, or changed its URL. The
        # view shows that soon.
        position = outcome.position if isinstance(outcome, Receipt) else 0
        watched.halt_until(position, self._now())
        self._roster.consider(watched, self._now())

    async def _execute(self, command: Command) -> Outcome | None:
        """The outcome of a command, tried again while the writer is unavailable.

        Return None if the dispatcher was told to stop meanwhile.
        """
        while True:
            with contextlib.suppress(Unavailable):
                (outcome,) = await asyncio.wrap_future(self._of._submit([command]))
                if not isinstance(outcome, Unavailable):
                    return outcome
            if self._of._stopping.is_set():
                return None
            await asyncio.sleep(_RETRY_SECONDS)
