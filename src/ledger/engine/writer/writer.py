"""The writer: one thread per process that turns waiting commands into one append (group commit).

Committing one command at a time through the append lock gives some 1,400 appends a second, however
many clients wait. So the thread takes all waiting commands, decides them under one lock, writes
their events in one statement, commits once, and answers each command. Waiting organizations share
it through the fair queue (``fair_queue.py``). A refused command contributes at most the record of
its refusal. If a command raises an unexpected error, the commands of the group are carried out
again one by one, so that only this command fails.

The writer knows if appends succeed. A writer that ``probes`` finds out while nothing is written:
each second it updates a probe row as an append would write. It also beats each second (contract,
Several nodes), and notes that the service listens, if the process can take heartbeats
(``engine/log/leases.py``). Each append compares the machine's clock with the database's: a writer
with a wrong clock writes nothing.
"""

import asyncio
import ctypes
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial

import psycopg

from ledger.engine.background import BackgroundLoop
from ledger.engine.log.append import Append
from ledger.engine.log.event_log import Log
from ledger.engine.log.vault import Vault
from ledger.engine.postgres.clocks import is_wrong
from ledger.engine.postgres.timing import LISTENING_SECONDS
from ledger.engine.telemetry.lines import working_for
from ledger.engine.values.errors import ClockSkew, NotCarriedOut, RateLimited, Unavailable
from ledger.engine.views.inline import InlineViews
from ledger.engine.writer.command import Command, carry_out
from ledger.engine.writer.fair_queue import (
    STILL_SECONDS,
    FairQueue,
    Outcomes,
    Slice,
    Ticket,
)
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import Memory
from ledger.engine.writer.request import Outcome

WAITING = 20_000
"""The most waiting commands of one organization: further ones are refused."""

_logger = logging.getLogger(__name__)

GROUP_FAILED = "a group failed; its commands are carried out one by one"
"""The message that is logged before the commands of a failed group are tried singly."""

_GATHER_SECONDS = 0.01
_QUIET_SECONDS = 0.004
_TICK_SECONDS = 0.001
"""How long the thread gathers commands under load, how long it waits for the next command, and how
often it counts them: waking it for each would cost more than the delay.

Clients that got their outcomes together send their next requests one after the other, and each
append costs about the same whatever its size: the statements, the commit, and the views' rows. So
the thread waits until as many commands wait as the last append held, and as came during that
append. Then clients that have split into two alternating groups join again. The thread stops
waiting when no command has come for ``_QUIET_SECONDS``, and after ``_GATHER_SECONDS``. A command
that comes alone does not wait.
"""

_PROBE_SECONDS = 1.0
"""The time between two probes while nothing is written."""


class Observer:
    """Does nothing. The observer of the API and of the loops counts the work (``metrics.py``).

    A short command has no other: loading the library of metrics would take longer than its work.
    """

    def note_waiting(self, commands: int) -> None:
        """So many commands wait for their append now."""

    def note_lock(self, seconds: float) -> None:
        """An append has the lock and its first reads, so long after its begin."""

    def note_append(self, seconds: float, commands: int) -> None:
        """An append has committed, so long after its begin; it decided so many commands."""

    def note_outcomes(self, commands: Sequence[Command], outcomes: Sequence[Outcome]) -> None:
        """The first of these commands have these outcomes."""


class WriterState(ctypes.Structure):
    """How a writer is doing, in memory that processes may share. Times are in seconds.

    A time of 0 means never. Times are of the monotonic clock, which is the same in all processes.
    """

    failing_since: float
    """Start of the first append since which all have failed; 0 if the last one succeeded."""
    trying_since: float
    """Start of the append that is under way, or 0."""
    noted_at: float
    """When the writer last began a round of its loop."""
    folded: int
    """The views that the last append has moved, as ``MovedViews.packed``; 0 if it moved none."""
    clock_skew: float
    """By how many seconds the machine's clock is ahead of the database's, as last compared."""

    _fields_ = (
        ("failing_since", ctypes.c_double),
        ("trying_since", ctypes.c_double),
        ("noted_at", ctypes.c_double),
        ("clock_skew", ctypes.c_double),
        ("folded", ctypes.c_longlong),
    )

    def failing_seconds(self) -> float:
        """Seconds since the first of the failing appends, or the one under way, began; else 0."""
        since = self.failing_since or self.trying_since
        return time.monotonic() - since if since else 0.0


class Writer(BackgroundLoop):
    """Group commit over the log.

    ``start`` must be called before ``submit``. ``stop`` carries out the waiting commands first, and
    closes the log's connection.
    """

    is_on_loop = False
    """True if outcomes are delivered on the event loop; these are by the writer's thread."""

    def __init__(
        self,
        log: Log,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        *,
        probes: bool = False,
        is_apart: bool = True,
        state: WriterState | None = None,
        observer: Observer | None = None,
        views: InlineViews | None = None,
    ) -> None:
        """``views`` are moved by small appends; None leaves them to the projector."""
        super().__init__("writer")
        self.state = WriterState() if state is None else state
        ctypes.memset(ctypes.byref(self.state), 0, ctypes.sizeof(self.state))  # of one before
        self.views = views
        self._observer = observer or Observer()
        self._probe_seconds = _PROBE_SECONDS if probes else None
        self._beats = self._listens = probes
        """True if this writer beats, and if it then notes that the service listens."""
        self._beaten_at = -LISTENING_SECONDS
        """When an append of this writer last beat."""
        self._tried_at = 0.0
        """When an append or a probe last showed if a row can be written."""
        self.on_elsewhere: Callable[[], object] = lambda: None
        """The thread calls it when a new connection has led to another PostgreSQL."""
        log.on_elsewhere = lambda: self.on_elsewhere()
        self._log, self._vault, self._clock, self._idle_after = log, vault, clock, idle_after
        self._memory = Memory(log.codec, vault)
        self._queue = FairQueue(is_apart=is_apart)
        self._changed = threading.Condition()
        self._together = 0
        """How many commands to gather: those that the last append answered, if several callers
        submitted them, plus those that came during it; else 0."""
        self._is_gathering = False
        self._enough = threading.Event()
        self._outdated: deque[str | None] = deque()
        """Runs whose keys must be forgotten; None for all of them."""

    def start(self) -> None:
        """Start the thread.

        It lowers the interpreter's switch interval, because the thread needs the interpreter's lock
        after each reply of the database, and holds the append lock while it waits for that.
        """
        sys.setswitchinterval(0.0005)
        super().start()

    async def open(self) -> None:
        self.start()

    async def close(self) -> None:
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        super().stop()
        self._log.close()

    def hand_in(self, commands: Sequence[Command], deliver: Callable[[Outcomes], None]) -> None:
        """Hand in commands that belong together; ``deliver`` gets their outcomes, in order.

        The writer's thread calls ``deliver``, which must not raise. Raises RateLimited at once if
        too many commands of the organization wait already.
        """
        if not commands:
            deliver([])
            return
        ticket = Ticket(commands, deliver)
        with self._changed:
            if self._stopping.is_set():
                raise Unavailable("The ledger is about to stop.")
            if self._queue.waiting_of(ticket.tenant_key) + len(commands) > WAITING:
                raise RateLimited("The ledger is busy with what waits already.")
            self._queue.add(ticket)
            self._observer.note_waiting(self._queue.waiting)
            if not self._is_gathering:
                self._changed.notify()
            elif self._queue.waiting >= self._together:
                self._enough.set()

    def submit(self, commands: Sequence[Command]) -> "Future[Outcomes]":
        """Hand in commands; return the future of their outcomes.

        The future cannot be cancelled: commands that were handed in are carried out.
        """
        future: Future[Outcomes] = Future()
        future.set_running_or_notify_cancel()
        self.hand_in(commands, future.set_result)
        return future

    def execute(self, command: Command) -> Outcome:
        return self.submit([command]).result()[0]

    def forget_key(self, run_id: str | None) -> None:
        """Drop from memory a run's key that another process destroyed; every key if None.

        The writer's thread drops it between two appends: during an append a missing key would count
        as destroyed. (Decisions do not depend on this: the run itself shows that it is erased.)
        """
        with self._changed:
            self._outdated.append(run_id)
            self._changed.notify()

    def note_projected(self, position: int) -> None:
        """Note the position that all live views have reached: see ``FairQueue``."""
        with self._changed:
            self._queue.note_projected(position)
            # Without waiting commands, waking the thread at each step of the views is of no use.
            if self._queue:
                self._changed.notify()

    def stop_listening(self) -> None:
        """Stop noting that the service listens: no request will arrive any more."""
        self._listens = False

    @property
    def clock_skew(self) -> float:
        """By how many seconds the machine's clock is ahead of the database's, as last compared."""
        return self.state.clock_skew

    @property
    def is_skewed(self) -> bool:
        """True if the clock was too wrong for writing when it was last compared."""
        return is_wrong(self.clock_skew)

    def failing_seconds(self) -> float:
        return self.state.failing_seconds()

    def _interrupt(self) -> None:
        with self._changed:
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                # Commands that wait for views are checked again, in case the views stand still.
                waits = self._queue or self.views is not None
                timeout = self._probe_seconds or (STILL_SECONDS if waits else None)
                is_failing = bool(self.state.failing_since)
                due = None if self.views is None or is_failing else self.views.announces_in()
                if due is not None:
                    timeout = due if timeout is None else min(due, timeout)
                self._wait(timeout)
                self.state.noted_at = time.monotonic()
                while self._outdated:
                    self._memory.forget_key(self._outdated.popleft())
                is_stopping = self._stopping.is_set()
                has_commands = bool(self._queue) if is_stopping else self._queue.is_ready()
            if is_stopping and not has_commands:
                self._announce(is_last=True)
                return
            if has_commands:
                self._gather()
                self._answer_waiting()
            if self._is_probe_due() and not is_stopping:
                self._probe()
            self._announce()

    def _announce(self, *, is_last: bool = False) -> None:
        """Notify other processes of the views that were moved here, if that is due."""
        if self.views is not None and not self.state.failing_since:
            with suppress(psycopg.Error):
                self.views.announce(self._log, is_last=is_last)

    def _wait(self, timeout: float | None) -> None:
        """Wait for work, at most so many seconds. The caller holds ``_changed``."""
        self._changed.wait_for(self._has_work, timeout)

    def _receive(self, timeout: float = 0) -> None:
        """Let commands come, for as long or until there are enough."""
        if timeout:
            self._enough.wait(timeout)

    def _has_work(self) -> bool:
        return bool(self._queue.is_ready() or self._outdated or self._stopping.is_set())

    def _is_probe_due(self) -> bool:
        """True if no append has written for a while; repeated facts write nothing."""
        seconds = self._probe_seconds
        return seconds is not None and time.monotonic() - self._tried_at >= seconds

    def _probe(self) -> None:
        with suppress(psycopg.Error, ClockSkew), self._trying():
            with self._log.append_transaction() as append:
                if append.is_first:
                    self._memory.clear()
                append.probe()
                self._beat(append, self._now(append))
            self._note_success()

    def _check_clock(self, append: Append) -> None:
        """Raise ClockSkew if this machine's clock is too far from the database's.

        The machine's clock counts: a story is told under another time. A node with a wrong clock
        would give wrong instants to its own events, and, since instants rise, to those of all nodes
        after it.
        """
        was_skewed, self.state.clock_skew = self.is_skewed, append.clocks.skew or 0.0
        if self.is_skewed:
            self._tried_at = time.monotonic()
            if not was_skewed:
                _logger.error("nothing is written: the clock is %+.1f s off", self.clock_skew)
            raise ClockSkew
        if was_skewed:
            _logger.warning("the clock is right again")

    def _now(self, append: Append) -> datetime:
        """The present instant. Raises ClockSkew also if the clock was set just before."""
        now = self._clock()
        self._check_clock(append)
        return now

    def _beat(self, append: Append, now: datetime) -> None:
        """Beat if this writer does and a second has passed since the last beat."""
        if self._beats and time.monotonic() - self._beaten_at >= LISTENING_SECONDS:
            append.beat(now, listens=self._listens)
            self._beaten_at = time.monotonic()

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Note the start of an append, and its failure if the database was the cause."""
        began = self.state.trying_since = time.monotonic()
        try:
            yield
        except psycopg.Error as error:
            self._tried_at = time.monotonic()
            self.state.failing_since = self.state.failing_since or began
            _logger.warning("an append failed: %s", error)
            raise
        finally:
            self.state.trying_since = 0.0

    def _note_success(self) -> None:
        self.state.failing_since, self._tried_at = 0.0, time.monotonic()

    def _gather(self) -> None:
        self._enough.clear()
        self._is_gathering = True
        now = last = time.monotonic()
        deadline = now + _GATHER_SECONDS
        counted = self._queue.waiting
        while counted < self._together and now < deadline and now - last < _QUIET_SECONDS:
            self._receive(_TICK_SECONDS)
            now = time.monotonic()
            if self._queue.waiting > counted:
                counted, last = self._queue.waiting, now
        self._is_gathering = False

    def _answer_waiting(self) -> None:
        with self._changed:
            plan = self._queue.plan(is_last=self._stopping.is_set())
        if not plan:
            return  # others have come, and the views are not that far
        commands = [command for each in plan for command in each.commands]
        with working_for({command.request_id for command in commands}):
            outcomes = self._append_safely(commands, plan)
        self._observer.note_outcomes(commands, outcomes)
        self._receive()
        with self._changed:
            finished = self._queue.settle(plan, outcomes)
            self._observer.note_waiting(self._queue.waiting)
            answered = sum(len(ticket.commands) for ticket in finished)
            self._together = answered + self._queue.waiting if len(finished) > 1 else 0
        self._deliver(finished)

    def _deliver(self, finished: Sequence[Ticket]) -> None:
        for ticket in finished:
            ticket.deliver(ticket.outcomes)

    def _append_safely(self, commands: Sequence[Command], plan: Sequence[Slice]) -> Outcomes:
        """Return the outcomes of the first commands, up to the end of the slot."""
        try:
            with self._trying():
                return self._append(commands, plan)
        except ClockSkew as error:
            return [error.with_traceback(None)] * len(commands)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            unavailable = Unavailable("The database cannot be reached, or is too busy.")
            return [unavailable] * len(commands)
        except Exception as error:
            if len(commands) == 1 and isinstance(error, Unavailable):
                return [error.with_traceback(None)]
            if len(commands) == 1:
                _logger.exception("a command could not be carried out")
                return [NotCarriedOut()]
            if not isinstance(error, Unavailable):
                _logger.exception(GROUP_FAILED)
            return [self._append_safely([command], plan)[0] for command in commands]

    def _append(self, commands: Sequence[Command], plan: Sequence[Slice]) -> Outcomes:
        """Append, with the views if possible. If they are the cause of an error, append again."""
        views = self.views
        try:
            outcomes = self._append_with(views, commands, plan)
        except Exception as error:
            if views is None or not views.fail(error):
                raise
            return self._append_with(None, commands, plan)
        if views is not None and (folded := views.settle()) is not None:
            self.state.folded = folded.packed(views.names)
            self._queue.note_projected(folded.position)
        return outcomes

    def _append_with(
        self, views: InlineViews | None, commands: Sequence[Command], plan: Sequence[Slice]
    ) -> Outcomes:
        outcomes: Outcomes = []
        touched: set[str] = set()
        began = time.perf_counter()
        try:
            with self._log.append_transaction() as append:
                group = Group(
                    append,
                    self._memory,
                    self._log.codec,
                    self._vault,
                    partial(self._now, append),
                    self._idle_after,
                )
                touched = group.touched
                group.prepare(commands, self._clock())
                self._observer.note_lock(time.perf_counter() - began)
                self._check_clock(append)
                start = append.next_position - 1
                slot = self._queue.begin(plan, append.is_awaited, self._receive)
                for command in commands:
                    if outcomes and slot.is_over(len(outcomes)):
                        break
                    outcomes.append(carry_out(command, group))
                events = group.write()
                self._beat(append, group.now)
                if touched and not (views is not None and views.fold(append, events, start)):
                    append.notify()
        except BaseException:
            # The touched aggregates in memory may be ahead of the table now, so they are dropped.
            # (Aggregates that were only read are as stored.)
            self._memory.forget(touched)
            raise
        self._observer.note_append(time.perf_counter() - began, len(outcomes))
        if touched:
            self._note_success()
            self._queue.note_end(plan, start, append.next_position - 1)
        self._memory.end()
        return outcomes
