"""The services of one API process, opened and closed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from ledger.engine.http.gauges import DatabaseGauges, SharedText
from ledger.engine.http.machinery.bodies import Pace
from ledger.engine.http.machinery.failures import Failures
from ledger.engine.http.machinery.loop_slices import LoopSlices
from ledger.engine.http.machinery.parsing import Parsing
from ledger.engine.http.machinery.shares import Heavy, Shares
from ledger.engine.log.vault import Vault
from ledger.engine.postgres.clocks import is_wrong
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.postgres.timing import FAILING_SECONDS, WRITER_SECONDS
from ledger.engine.reads.answers import Answers, Reads
from ledger.engine.reads.positions import ViewPositions
from ledger.engine.values.errors import ReadOnly, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.writer.command import Command
from ledger.engine.writer.hand_over import RemoteWriter
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer

T = TypeVar("T")

NodeWriter = Writer | RemoteWriter

_CHECK_SECONDS = 0.5
"""The time between two checks for failing appends."""


class _Waiting:
    __slots__ = ("for_views", "future", "timer")

    def __init__(self, future: asyncio.Future[list[Outcome]], for_views: bool) -> None:
        self.future, self.for_views = future, for_views
        self.timer: asyncio.TimerHandle | None = None


_Answered = tuple[_Waiting, list[Outcome]]


def last_position(outcomes: Iterable[Outcome]) -> int:
    """The last position of the outcomes. A refusal has one too, at which the audit log shows it."""
    return max(map(_last_of, outcomes), default=0)


def _last_of(outcome: Outcome) -> int:
    if isinstance(outcome, Receipt):
        return outcome.last_position
    position: int = getattr(outcome, "position", 0)
    return position


class Submissions:
    """Hands the commands of one process to its writer, and returns their outcomes.

    The writer's thread answers a whole group at once. So the loop is woken once for a group, and
    each request once, when the views show its events.
    """

    def __init__(self, writer: NodeWriter, positions: ViewPositions) -> None:
        self._writer = writer
        self._positions = positions
        self._answered: deque[_Answered] = deque()
        self._is_awake = False
        """True if a drain is scheduled on the loop; a drain that finds nothing costs nothing."""

    async def submit(self, commands: Sequence[Command], *, for_views: bool = True) -> list[Outcome]:
        """Return the outcomes in the commands' order, once the views show them, or after 2 s.

        If not ``for_views``, return them once they are recorded. Raises Unavailable; the commands
        may be carried out all the same.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), for_views)

        wake = loop.call_soon if self._writer.is_on_loop else loop.call_soon_threadsafe

        def deliver(outcomes: list[Outcome]) -> None:
            self._answered.append((waiting, outcomes))
            if not self._is_awake:
                self._is_awake = True
                wake(self._drain)

        self._writer.hand_in(commands, deliver)
        waiting.timer = loop.call_later(WRITER_SECONDS, self._check, waiting)
        try:
            return await waiting.future
        finally:
            waiting.timer.cancel()

    def _check(self, waiting: _Waiting) -> None:
        """Give up a request if appends fail: the previous group may have used up the time."""
        if waiting.future.done():
            return
        if self._writer.failing_seconds() >= FAILING_SECONDS:
            waiting.future.set_exception(
                Unavailable("The database does not answer. The write may be recorded all the same.")
            )
            return
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(_CHECK_SECONDS, self._check, waiting)

    def _drain(self) -> None:
        self._is_awake = False
        self._positions.refresh()
        while self._answered:
            waiting, outcomes = self._answered.popleft()
            if waiting.timer is not None:
                waiting.timer.cancel()
            last = last_position(outcomes) if waiting.for_views else 0
            self._positions.after(last, waiting.future, outcomes, late=outcomes)


class Writing(NamedTuple):
    """The parts that write; a process of a read node has none."""

    writer: NodeWriter
    submissions: Submissions


class Credentials(Protocol):
    """Finds the principal of a token (``features/sign_in``)."""

    failures: Failures

    async def authenticate(self, token: str, peer: str | None) -> Principal:
        """``peer`` is the client's address. Raises Unauthorized; Unavailable without a check."""
        ...


class ApiServices:
    """The services of one API process; without ``writing`` those of a read node."""

    def __init__(
        self,
        writing: Writing | None,
        pool: ReadPool,
        positions: ViewPositions,
        vault: Vault,
        clock: Callable[[], datetime],
        authenticator: Credentials,
        lapsed: Callable[[Collection[Principal]], Awaitable[frozenset[Principal]]],
        gauges: DatabaseGauges,
        *,
        parts: Iterable[object],
        cors_origins: frozenset[str] = frozenset(),
        root_path: str = "",
        is_public_by_https: bool = False,
        unaudited_reads: bool = False,
        metrics_token: str | None = None,
        public_url: str | None = None,
    ) -> None:
        """``parts`` are services of features; ``lapsed`` finds the ended credentials."""
        self._writing = writing
        self.only_reads = writing is None
        """True on a read node, which has no writer (contract, Several nodes)."""
        self.shows_payloads = writing is not None or unaudited_reads
        """True if answers may hold a run's data: not on a read node, unless its operator allows."""
        self.pool = pool
        self.positions = positions
        self.vault = vault
        self.clock = clock
        self.pace = Pace()
        self.cors_origins = cors_origins
        self.root_path = root_path
        """The prefix of every address, for a proxy that serves other things beside us."""
        self.is_public_by_https = is_public_by_https
        self.public_url = public_url
        """The address by which people reach the service, for links in messages."""
        answers = Answers(pool.fetch)
        self.reads = Reads(pool.fetch, positions, answers, clock)
        positions.on_moved(answers.on_moved)
        positions.on_silence(pool.renew)
        if writing is not None:
            positions.share(writing.writer.state)
            positions.on_reached(writing.writer.note_projected)
            positions.on_erased(writing.writer.forget_key)
        positions.on_erased(answers.forget)
        self.authenticator, self.lapsed = authenticator, lapsed
        self.gauges = gauges
        self.metrics = SharedText()
        self.metrics_token = metrics_token
        """The bearer token for the metrics; None: anybody may read them."""
        self.shares = Shares()
        self.heavy = Heavy()
        self.parsing = Parsing()
        self.slices = LoopSlices()
        self._parts: dict[type[Any], Any] = {}
        self.add(*parts)
        self.failure: Exception | None = None

    def add(self, *parts: object) -> None:
        """Have ``of`` return these services of features."""
        self._parts |= {type(part): part for part in parts}

    def of(self, kind: type[T]) -> T:
        """The service of a feature. Raises ReadOnly for a service that a read node lacks."""
        if kind not in self._parts and self.only_reads:
            raise ReadOnly
        part: T = self._parts[kind]
        return part

    @property
    def writer(self) -> NodeWriter:
        """Raises ReadOnly on a read node."""
        if self._writing is None:
            raise ReadOnly
        return self._writing.writer

    @property
    def submissions(self) -> Submissions:
        """Raises ReadOnly on a read node."""
        if self._writing is None:
            raise ReadOnly
        return self._writing.submissions

    def failing_seconds(self) -> float:
        """For how long appends have failed; 0 on a read node, which makes none."""
        return self._writing.writer.failing_seconds() if self._writing else 0.0

    @property
    def is_skewed(self) -> bool:
        """True if the clock is wrong: too far from the database's to write."""
        return is_wrong(self.clock_skew)

    @property
    def clock_skew(self) -> float:
        """Seconds by which the clock is ahead of the database's."""
        return (self._writing.writer if self._writing else self.positions).clock_skew

    def stop_listening(self) -> None:
        """Note from now on that no request will arrive any more."""
        if self._writing is not None:
            self._writing.writer.stop_listening()

    def _leave(self) -> None:
        """Read from the server to which writes go now: the former one may live on."""
        self.pool.leave()
        self.positions.leave()

    async def open(self) -> None:
        """Connect and start. Raises the database's error if it cannot be reached."""
        if self._writing is not None:
            loop = asyncio.get_running_loop()
            leave = partial(loop.call_soon_threadsafe, self._leave)
            self._writing.writer.on_elsewhere = leave
        await self.pool.open()
        await self.positions.start()
        self.parsing.start()
        if self._writing is not None:
            await self._writing.writer.open()

    async def close(self) -> None:
        """Answer the accepted commands, and release everything."""
        self.parsing.stop()
        if self._writing is not None:
            await self._writing.writer.close()
        self.authenticator.failures.tell()
        await self.positions.stop()
        await self.pool.close()
