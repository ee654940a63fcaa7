"""The work of a dispatcher, from taking the lead to losing it (contract, Feeds).

A delivery is claimed and committed, then sent, and then its result is recorded, so no transaction
is open during a request. One loop on one connection does all the writes: it records the results of
several requests together, which makes room for the next. If a result was not recorded, for whatever
reason, the request is sent again: delivery is at-least-once.
"""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import msgspec
from prometheus_client import Counter

from ledger.engine.postgres.timing import CERTAIN_SECONDS, DISPATCH_SECONDS
from ledger.engine.values.errors import ClockSkew, Unavailable
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.webhooks.commands import DisableEndpoint, GiveUpDelivery
from ledger.features.webhooks.delivery import verdict
from ledger.features.webhooks.delivery.deliveries import Deliveries, ViewChanges
from ledger.features.webhooks.delivery.mailer import Mailer
from ledger.features.webhooks.delivery.registry import (
    DecryptSecret,
    EndpointRegistry,
    Watched,
    secrets_of,
)
from ledger.features.webhooks.delivery.schedule import Schedule
from ledger.features.webhooks.delivery.sender import Attempt, Sender
from ledger.features.webhooks.delivery.verdict import FAILING_FOR, AttemptVerdict, Claimed, Result
from ledger.features.webhooks.formats.contents import content_of, is_final, without_secrets
from ledger.features.webhooks.formats.mail import bytes_of
from ledger.features.webhooks.formats.plain import FormatOptions
from ledger.features.webhooks.model.endpoint import DisabledReason, Endpoint

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
"""The pause before another attempt to record."""

_STORED_SECONDS = 60.0
"""How long to keep a lead though the clock is wrong. Each change of the lead delays all deliveries
for some seconds, and perhaps no node has a right clock."""

_GATHER_SECONDS = 0.01
_GATHER_IDLE_SECONDS = 0.1
"""The intervals of checks for the views' changes: under load the views move hundreds of times a
second. The pause is longer without any endpoint, when only a first endpoint would matter."""

_DELIVERIES = Counter(
    "ledger_webhook_deliveries",
    "Answered or failed attempts at deliveries, by format and by what became of the delivery.",
    ["format", "outcome"],
)
_OUTCOMES = {"delivered": "delivered", "pending": "retrying", "failed": "failed"}

Submit = Callable[[Sequence[Command]], "Future[list[Outcome]]"]
"""Submits commands to the writer. Raises Unavailable."""


class DispatcherDeps(NamedTuple):
    """The dependencies of a dispatcher in each lead."""

    submit: Submit
    open_secret: DecryptSecret
    schedule: Schedule
    clock: Callable[[], datetime]
    most_in_flight: int
    mailer: Callable[[], Mailer]
    """Creates the sender of mails, on the dispatcher's event loop."""
    public_url: str | None
    """The address by which people reach the service, for links; None for messages without links."""
    gather: timedelta
    """How long a message to people waits for others about the same watch."""


class Confirmation:
    """The latest confirmation of a lead. Create it when the session begins to lead.

    A process that was frozen continues with requests that it was about to begin. By then another
    process may lead, and may have sent them. So no request begins before the database has answered
    a statement of the session that leads. If the session was ended, that statement fails, and the
    tasks that wait here are cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, is_ending: Callable[[], bool]) -> None:
        self._loop, self._is_ending = loop, is_ending
        self._confirmed_at = loop.time()
        self._changed = asyncio.Event()

    def now(self) -> float:
        """The instant at which a statement is sent that may confirm the lead."""
        return self._loop.time()

    def confirm(self, sent_at: float) -> None:
        """Note that the database has answered a statement sent at this instant."""
        self._confirmed_at = sent_at
        self._changed.set()

    def wake(self) -> None:
        """Let the waiting tasks check if the lead ends."""
        self._changed.set()

    async def holds(self) -> bool:
        """Wait until the lead is certain; return False if it ends meanwhile."""
        while self._loop.time() - self._confirmed_at > CERTAIN_SECONDS:
            if self._is_ending():
                return False
            self._changed.clear()
            await self._changed.wait()
        return True


class Lead:
    """The work of a dispatcher, on its event loop. ``stopping`` is set when it must stop.

    ``wake`` is set when there may be work, or a task has ended.
    """

    def __init__(
        self,
        deps: DispatcherDeps,
        deliveries: Deliveries,
        sender: Sender,
        stopping: threading.Event,
        wake: asyncio.Event,
    ) -> None:
        self._deps, self._deliveries, self._sender = deps, deliveries, sender
        self._stopping, self._wake, self._loop = stopping, wake, asyncio.get_running_loop()
        self._registry = EndpointRegistry(deps.most_in_flight)
        self._mailer = deps.mailer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: list[tuple[Claimed, Attempt, float]] = []
        """Attempts that were answered, or failed, and are not recorded yet."""
        self._settled: list[Claimed] = []
        """Deliveries whose failure is in the log, but not in the tables yet."""
        self._has_changes = True
        self._looked_at = 0.0
        self._confirmed = Confirmation(self._loop, self.is_ending)
        self._has_leftovers = True
        """True if deleted endpoints may have left deliveries behind."""
        self._fault: BaseException | None = None
        """The error of a task that broke. The dispatcher then restarts with nothing in flight."""
        self._began_at = self._loop.time()
        self._skew: ClockSkew | None = None
        """Why another node must lead."""

    def is_ending(self) -> bool:
        return self._skew is not None or self._stopping.is_set()

    def hear(self) -> bool:
        """Note that the views have moved; return True if that is new."""
        was_set, self._has_changes = self._has_changes, True
        return not was_set

    async def run_once(self) -> None:
        """Run one round: read changes, record results, claim and send the next deliveries."""
        if self._fault is not None:
            raise self._fault
        if self._until_check() <= 0:
            self._has_changes, self._looked_at = False, self._loop.time()
            sent_at = self._confirmed.now()
            changes = await self._deliveries.changed(self._registry.position)
            self._confirmed.confirm(sent_at)
            self._registry.update(changes, self._now())
            await self._apply_requests()
            await self._clear(changes)
        await self._round(sends=True)

    async def _apply_requests(self) -> None:
        requesting = [watched.id for watched in self._registry.requesting()]
        if requesting:
            applied = await self._deliveries.apply_requests(requesting, self._now())
            self._registry.apply_outcomes(applied, self._now())
            self._has_changes |= any(not one.is_done for one in applied)

    async def _clear(self, changes: ViewChanges) -> None:
        """Drop some deliveries that deleted endpoints have left behind."""
        self._has_leftovers |= any(one.state.endpoint.deleted for one in changes.changed)
        if self._has_leftovers:
            self._has_leftovers = await self._deliveries.drop_deleted()
            self._has_changes |= self._has_leftovers

    def idle_seconds(self) -> float:
        """The seconds until there is something to do, as far as is known now."""
        if self._registry.is_ready or self._done or self._settled:
            return 0.0
        due = self._registry.next_due()
        check = self._until_check()
        return check if due is None else min(check, (due - self._now()).total_seconds())

    def _until_check(self) -> float:
        """The seconds until the next check for the views' changes."""
        pause = DISPATCH_SECONDS
        if self._has_changes:
            pause = _GATHER_IDLE_SECONDS if self._registry.is_empty else _GATHER_SECONDS
        return self._looked_at + pause - self._loop.time()

    async def finish(self) -> None:
        """Await and record the requests in flight: each ends by its own deadline.

        Raises ClockSkew if another node must lead.
        """
        self._confirmed.wake()
        while self._tasks or self._done or self._settled:
            await self._round(sends=False)
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._skew is not None:
            raise self._skew

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _now(self) -> datetime:
        return self._deps.clock()

    # One round.

    async def _round(self, *, sends: bool) -> None:
        now = self._now()
        done, self._done = self._done, []
        settled, self._settled = self._settled, []
        verdicts = [
            (verdict.judge(claimed, attempt, self._deps.schedule, now, jitter), attempt)
            for claimed, attempt, jitter in done
        ]
        results = [one.result for one, _ in verdicts]
        results += [Result(claimed, "failed", None) for claimed in settled]
        failing = self._failing(verdicts)
        asks = self._registry.next_asks(now) if sends else []
        if not results and not asks:
            return
        sent_at = self._confirmed.now()
        found = await self._deliveries.round(results, failing, asks, self._registry.reached, now)
        self._confirmed.confirm(sent_at)
        # The consequences follow only now that the results are recorded.
        for one, attempt in verdicts:
            # A test is not counted. A delivery that is given up counts once the log has its
            # failure.
            if not (one.gives_up or one.result.claimed.is_test):
                outcome = _OUTCOMES[one.result.status]
                _DELIVERIES.labels(one.result.claimed.format, outcome).inc()
            self._conclude(one, attempt, now)
        for claimed in settled:
            _DELIVERIES.labels(claimed.format, "failed").inc()
            self._registry.release(claimed, None, now)
        self._has_changes |= not self._registry.give(asks, found, now)
        for endpoint_id, batch in found.items():
            if batch.skipped and (watched := self._registry.get(endpoint_id)) is not None:
                skipped = _DELIVERIES.labels(watched.state.endpoint.format, "skipped")
                skipped.inc(batch.skipped)
            for message in batch.messages:
                self._begin(self._send(message))

    def _failing(
        self, verdicts: Sequence[tuple[AttemptVerdict, Attempt]]
    ) -> dict[str, datetime | None]:
        """Since when endpoints fail, for the endpoints where that has changed."""
        changed: dict[str, datetime | None] = {}
        for one, attempt in verdicts:
            claimed = one.result.claimed
            watched = self._registry.get(claimed.endpoint_id)
            if watched is None or claimed.is_test:
                continue
            since = None
            if not attempt.delivered:
                since = watched.failing_since or watched.counted_from(attempt.at)
            if since != watched.failing_since:
                watched.failing_since = changed[watched.id] = since
        return changed

    def _conclude(self, one: AttemptVerdict, attempt: Attempt, now: datetime) -> None:
        claimed = one.result.claimed
        watched = self._registry.get(claimed.endpoint_id)
        if watched is not None:
            since = watched.failing_since
            if one.gone:
                self._disable(watched, "gone", attempt)
            elif one.result.counts and since is not None and now - since >= FAILING_FOR:
                self._disable(watched, "failing", attempt)
        if one.gives_up:
            self._begin(self._give_up(claimed, claimed.tried + 1, one.result.attempt))
        else:
            self._registry.release(claimed, one.result.due_at, now)

    # Tasks outside the rounds.

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        self._wake.set()

    async def _send(self, message: list[Claimed]) -> None:
        """Send deliveries as one message.

        For those without attempts left, only record in the log that they failed.
        """
        most = self._deps.schedule.attempts
        spent = [one for one in message if one.tried >= most and not one.is_test]
        for claimed in spent:
            self._begin(self._give_up(claimed, claimed.tried, claimed.last))
        if spent:
            message = [one for one in message if one not in spent]
        if not message:
            return
        may_begin = await self._confirmed.holds()
        watched = self._registry.get(message[0].endpoint_id)
        if watched is None or not may_begin:
            for claimed in message:
                self._registry.release(claimed, None, self._now())
            return
        endpoint, at = watched.state.endpoint, self._now()
        try:
            secrets = secrets_of(watched, at, self._deps.open_secret)
            attempt = await self._attempt(endpoint, message, secrets)
        except Exception:
            # A programming error. For the receiver it is a failed attempt like any other.
            _logger.exception("a webhook could not be sent")
            attempt = Attempt(endpoint.url, at, None, 0, "it could not be sent", None, None)
        # The deliveries of a message stay together when it is sent again.
        jitter = random.random()
        self._done += [(claimed, attempt, jitter) for claimed in message]

    async def _attempt(
        self, endpoint: Endpoint, message: Sequence[Claimed], secrets: Sequence[str]
    ) -> Attempt:
        event_id, bodies = message[0].event_id, [claimed.body for claimed in message]
        options = FormatOptions(endpoint.format, endpoint.details, self._deps.public_url)
        send = partial(self._sender.send, organization_id=endpoint.organization_id)
        if not endpoint.is_channel:
            type_, text = content_of(options, bodies)
            return await send(endpoint.url, event_id, text.encode(), secrets, content_type=type_)
        if endpoint.format == "email":
            make = partial(bytes_of, options, bodies, self._mailer.sender)
            made = await self._mailer.send(endpoint.url, secrets[0].split(","), make)
        else:
            url = secrets[0] if endpoint.format == "slack" else endpoint.url
            type_, text = content_of(options, bodies, secrets[0])
            made = await send(url, event_id, text.encode(), (), content_type=type_)
        return msgspec.structs.replace(
            made,
            url=endpoint.url,
            response_body=without_secrets(made.response_body, endpoint.format, secrets[0]),
            is_final=is_final(endpoint.format, made.response_status),
            secret=endpoint.secrets[0].sealed,
        )

    async def _give_up(self, claimed: Claimed, tried: int, last: str | None) -> None:
        """Record in the log that a delivery failed for good, then count it as failed."""
        if not verdict.gives_up_silently(claimed):
            body = verdict.failure_of(claimed, tried, last)
            command = GiveUpDelivery(claimed.endpoint_id, claimed.event_id, claimed.round, body)
            if await self._execute(command) is None:
                return
        self._settled.append(claimed)

    def _disable(self, watched: Watched, reason: DisabledReason, attempt: Attempt) -> None:
        if watched.halt():
            command = DisableEndpoint(watched.id, reason, attempt.url, attempt.secret)
            self._begin(self._tell_disabled(watched, command))

    async def _tell_disabled(self, watched: Watched, command: DisableEndpoint) -> None:
        """Record that the endpoint is disabled. The registry has it until the view shows it."""
        outcome = await self._execute(command)
        # If the command is refused, somebody else disabled the endpoint first, or changed its URL.
        # The view shows that soon.
        position = outcome.position if isinstance(outcome, Receipt) else 0
        watched.halt_until(position, self._now())
        self._registry.consider(watched, self._now())

    async def _execute(self, command: Command) -> Outcome | None:
        """The outcome of a command, which is retried while the writer is unavailable.

        Returns None if the lead ends meanwhile. A wrong clock ends the lead: nothing can be
        recorded here. The next leader finds the delivery, or the endpoint, as this one did.
        """
        while True:
            with contextlib.suppress(Unavailable):
                (outcome,) = await asyncio.wrap_future(self._deps.submit([command]))
                if not isinstance(outcome, Unavailable):
                    return outcome
                is_old = self._loop.time() - self._began_at >= _STORED_SECONDS
                if isinstance(outcome, ClockSkew) and is_old:
                    self._skew = outcome
            if self.is_ending():
                return None
            await asyncio.sleep(_RETRY_SECONDS)
