"""The writer: one thread a process that turns waiting commands into one append (group commit).

Committing one command at a time through the append lock gives some 1,400 appends a second however
many clients wait. So the thread takes all that waits, decides it under one lock, writes it in one
statement, commits once, and answers each command. A refused command simply contributes nothing; a
command that breaks in an unforeseen way makes the group be redone one by one, so that it alone
fails.

The writer knows whether appends succeed. One that ``probes`` finds it out by itself while nothing
is written: each second it appends a row that says nothing.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from eventsourcing.persistence import InterfaceError, OperationalError, PersistenceError

from ledger.application.cache import Cache
from ledger.application.carry_out import carry_out
from ledger.application.command import Command
from ledger.application.unit import Unit
from ledger.background import BackgroundLoop
from ledger.domain.errors import NotCarriedOut, Unavailable
from ledger.intake.request import Outcome
from ledger.log.event_log import Log
from ledger.log.vault import Vault

_GROUP = 1000
"""Commands in one append at the most: past this a larger batch gains nothing and holds the lock."""

_WAITING = 20_000
"""Commands that may wait before new ones are turned away."""

_logger = logging.getLogger(__name__)

_GATHER_SECONDS = 0.004
_QUIET_SECONDS = 0.002
"""Under load the thread waits until as much has come as the last append held, or nothing more
comes for a moment, but not for long: requests that were answered together come back one after the
other, and each append costs the same whatever it holds. A command that comes alone does not wait.
"""

_PROBE_SECONDS = 1.0
"""Between two probes while nothing is written."""

Outcomes = list[Outcome]


class _Ticket:
    """Commands handed in together, answered together."""

    __slots__ = ("commands", "deliver")

    def __init__(self, commands: Sequence[Command], deliver: Callable[[Outcomes], None]) -> None:
        self.commands = commands
        self.deliver = deliver


class Writer(BackgroundLoop):
    """Group commit over the log. ``start`` before ``submit``; ``stop`` finishes what waits."""

    def __init__(
        self,
        log: Log,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        *,
        probes: bool = False,
    ) -> None:
        super().__init__("writer")
        self._probe_seconds = _PROBE_SECONDS if probes else None
        self._failing_since: float | None = None
        """When the first of the appends began that have all failed; None: the last succeeded."""
        self._trying_since: float | None = None
        """When the append under way began."""
        self._tried_at = 0.0
        """When it was last found out whether a row can be written."""
        self._log, self._vault, self._clock, self._idle_after = log, vault, clock, idle_after
        self._cache = Cache()
        self._tickets: deque[_Ticket] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._together = 0
        """Commands of the last append, where they came from several: so many are waited for."""
        self._is_gathering = False
        self._enough = threading.Event()
        self._outdated: deque[str | None] = deque()
        """Runs whose keys are to be forgotten; None: all of them."""

    def start(self) -> None:
        """Start the thread.

        The interpreter's switch interval is lowered with it: after each reply of the database the
        thread needs the interpreter back, and it holds the append lock while it waits for it.
        """
        sys.setswitchinterval(0.0005)
        super().start()

    def hand_in(self, commands: Sequence[Command], deliver: Callable[[Outcomes], None]) -> None:
        """Hand in commands that belong together; ``deliver`` gets their outcomes, in order.

        It is called on the writer's thread and must not raise. Raises Unavailable at once when
        too much waits already.
        """
        if not commands:
            deliver([])
            return
        with self._changed:
            if self._stopping.is_set() or self._waiting + len(commands) > _WAITING:
                raise Unavailable("The ledger is busy.")
            self._tickets.append(_Ticket(commands, deliver))
            self._waiting += len(commands)
            if not self._is_gathering:
                self._changed.notify()
            elif self._waiting >= self._together:
                self._enough.set()

    def submit(self, commands: Sequence[Command]) -> "Future[Outcomes]":
        """The same with a future (which nobody can cancel: what is handed in is carried out)."""
        future: Future[Outcomes] = Future()
        future.set_running_or_notify_cancel()
        self.hand_in(commands, future.set_result)
        return future

    def execute(self, command: Command) -> Outcome:
        """Hand in one command and wait (for the command line and the sweeper)."""
        return self.submit([command]).result()[0]

    def forget_key(self, run_id: str | None) -> None:
        """Have a run's key that was destroyed elsewhere dropped from memory; None: every key.

        Between appends, on the writer's thread: during one a key that is not there would pass for
        destroyed. (What is decided needs none of this: the run itself tells that it is erased.)
        """
        with self._changed:
            self._outdated.append(run_id)
            self._changed.notify()

    def failing_seconds(self) -> float:
        """For how long appends have been tried in vain; 0 where the last one succeeded."""
        since = self._trying_since if self._failing_since is None else self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def _interrupt(self) -> None:
        with self._changed:
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, self._probe_seconds)
                while self._outdated:
                    self._cache.forget_key(self._outdated.popleft())
                is_asked = bool(self._tickets)
                if self._stopping.is_set() and not is_asked:
                    return
            if is_asked:
                self._gather()
                self._answer_waiting()
            if self._is_probe_due():
                self._probe()

    def _has_work(self) -> bool:
        return bool(self._tickets or self._outdated or self._stopping.is_set())

    def _is_probe_due(self) -> bool:
        """Whether nothing was written for a while: facts that are known already write nothing."""
        seconds = self._probe_seconds
        return seconds is not None and time.monotonic() - self._tried_at >= seconds

    def _probe(self) -> None:
        """Find out whether appends succeed."""
        with suppress(PersistenceError), self._trying():
            with self._log.ledger_recorder.append_transaction() as append:
                append.probe()
            self._note_success()

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Note when an append began, and whether the database was why it failed."""
        began = self._trying_since = time.monotonic()
        try:
            yield
        except PersistenceError as error:
            self._tried_at = time.monotonic()
            if self._failing_since is None:
                _logger.warning("appends fail: %s", error)
                self._failing_since = began
            raise
        finally:
            self._trying_since = None

    def _note_success(self) -> None:
        self._failing_since, self._tried_at = None, time.monotonic()

    def _gather(self) -> None:
        """Wait until enough has come, or nothing more comes for a moment."""
        self._enough.clear()
        self._is_gathering = True
        deadline = time.monotonic() + _GATHER_SECONDS
        seen = 0
        while seen < self._waiting < self._together and time.monotonic() < deadline:
            seen = self._waiting
            self._enough.wait(_QUIET_SECONDS)
        self._is_gathering = False

    def _take(self) -> list[_Ticket]:
        with self._changed:
            group = [self._tickets.popleft()]
            size = len(group[0].commands)
            while self._tickets and size + len(self._tickets[0].commands) <= _GROUP:
                group.append(self._tickets.popleft())
                size += len(group[-1].commands)
            self._waiting -= size
        return group

    def _answer_waiting(self) -> None:
        group = self._take()
        outcomes = self._append_safely([command for ticket in group for command in ticket.commands])
        self._together = len(outcomes) if len(group) > 1 else 0
        start = 0
        for ticket in group:
            end = start + len(ticket.commands)
            ticket.deliver(outcomes[start:end])
            start = end

    def _append_safely(self, commands: Sequence[Command]) -> Outcomes:
        try:
            with self._trying():
                return self._append(commands)
        except (OperationalError, InterfaceError) as error:
            _logger.warning("append failed: %s", error)
            unavailable = Unavailable("The database cannot be reached, or is too busy.")
            return [unavailable] * len(commands)
        except Exception:
            if len(commands) == 1:
                _logger.exception("a command could not be carried out")
                return [NotCarriedOut()]
            _logger.exception("a group failed; its commands are carried out one by one")
            return [self._append_safely([command])[0] for command in commands]

    def _append(self, commands: Sequence[Command]) -> Outcomes:
        outcomes: Outcomes = []
        touched: set[str] = set()
        try:
            with self._log.ledger_recorder.append_transaction() as append:
                unit = Unit(
                    append, self._log, self._cache, self._vault, self._clock, self._idle_after
                )
                touched = unit.events.touched
                unit.prepare(commands)
                outcomes += [carry_out(command, unit) for command in commands]
                unit.write()
        except BaseException:
            # Memory may be ahead of the table now. (Streams that were only read are as stored.)
            self._cache.forget(touched)
            raise
        if touched:
            self._note_success()
        self._cache.trim()
        return outcomes
