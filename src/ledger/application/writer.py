"""The writer: one thread a process that turns waiting commands into one append (group commit).

Committing one command at a time through the table lock gives some 1,400 appends a second however
many clients wait. So the thread takes all that waits, decides it under one lock, writes it in one
statement, commits once, and answers each command. A refused command simply contributes nothing; a
command that breaks in an unforeseen way makes the group be redone one by one, so that it alone
fails.
"""

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta

from eventsourcing.persistence import InterfaceError, OperationalError

from ledger.application.unit import Cache, Command, Outcome, Unit
from ledger.domain.errors import Refused, Unavailable
from ledger.store.log import Log
from ledger.store.vault import Vault

_GROUP = 1000
"""Commands in one append at the most: past this a larger batch gains nothing and holds the lock."""

_WAITING = 20_000
"""Commands that may wait before new ones are turned away."""

_logger = logging.getLogger(__name__)

Outcomes = list[Outcome]


class _Ticket:
    """Commands handed in together, answered together."""

    __slots__ = ("commands", "future")

    def __init__(self, commands: Sequence[Command], future: "Future[Outcomes]") -> None:
        self.commands = commands
        self.future = future


class Writer:
    """Group commit over the log. ``start`` before ``submit``; ``stop`` finishes what waits."""

    def __init__(
        self,
        log: Log,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
    ) -> None:
        self._log, self._vault, self._clock, self._idle_after = log, vault, clock, idle_after
        self._cache = Cache()
        self._tickets: deque[_Ticket] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)

    def start(self) -> None:
        """Start the thread.

        The interpreter's switch interval is lowered with it: after each reply of the database the
        thread needs the interpreter back, and it holds the table lock while it waits for it.
        """
        sys.setswitchinterval(0.0005)
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def submit(self, commands: Sequence[Command]) -> "Future[Outcomes]":
        """Hand in commands that belong together; their outcomes come in the same order.

        Raises Unavailable at once when too much waits already.
        """
        future: Future[Outcomes] = Future()
        if not commands:
            future.set_result([])
            return future
        with self._changed:
            if self._stopping or self._waiting + len(commands) > _WAITING:
                raise Unavailable("The ledger is busy.")
            self._tickets.append(_Ticket(commands, future))
            self._waiting += len(commands)
            self._changed.notify()
        return future

    def execute(self, command: Command) -> Outcome:
        """Hand in one command and wait (for the command line and the sweeper)."""
        return self.submit([command]).result()[0]

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._tickets and not self._stopping:
                    self._changed.wait()
                if not self._tickets:
                    return
                group = self._take()
            self._answer(group)

    def _take(self) -> list[_Ticket]:
        group = [self._tickets.popleft()]
        size = len(group[0].commands)
        while self._tickets and size + len(self._tickets[0].commands) <= _GROUP:
            group.append(self._tickets.popleft())
            size += len(group[-1].commands)
        self._waiting -= size
        return group

    def _answer(self, group: list[_Ticket]) -> None:
        outcomes = self._append_safely([c for ticket in group for c in ticket.commands])
        start = 0
        for ticket in group:
            end = start + len(ticket.commands)
            ticket.future.set_result(outcomes[start:end])
            start = end

    def _append_safely(self, commands: list[Command]) -> Outcomes:
        try:
            return self._append(commands)
        except (OperationalError, InterfaceError) as error:
            _logger.warning("append failed: %s", error)
            unavailable = Unavailable("The database cannot be reached, or is too busy.")
            return [unavailable] * len(commands)
        except Exception:
            if len(commands) == 1:
                _logger.exception("a command could not be carried out")
                return [Unavailable("The command could not be carried out.")]
            _logger.exception("a group failed; its commands are carried out one by one")
            return [outcome for command in commands for outcome in self._append_safely([command])]

    def _append(self, commands: list[Command]) -> Outcomes:
        outcomes: Outcomes = []
        touched: set[str] = set()
        try:
            with self._log.ledger_recorder.append_transaction() as append:
                unit = Unit(
                    append, self._log, self._cache, self._vault, self._clock, self._idle_after
                )
                touched = unit.touched
                unit.prepare(commands)
                for command in commands:
                    unit.begin()
                    try:
                        outcomes.append(command.decide(unit))
                    except Refused as refusal:
                        outcomes.append(refusal)
                unit.write()
        except BaseException:
            # Memory may be ahead of the table now. (Streams that were only read are as stored.)
            self._cache.forget(touched)
            raise
        self._cache.trim()
        return outcomes
