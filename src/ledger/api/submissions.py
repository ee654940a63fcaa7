"""Submissions carry commands from the event loop to the writer's thread, and outcomes back.

The writer answers a whole group at once. The loop is therefore woken once for a group, and each
request is woken once, when the views show its events.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from ledger.application.command import Command
from ledger.application.writer import Writer
from ledger.domain.errors import Unavailable
from ledger.intake.request import Outcome
from ledger.reads.positions import ViewPositions

_PATIENCE_SECONDS = 7.5
"""How long a request waits for the writer if appends fail: for longer it waits only behind others.
With the wait for the views this is less than the 10 s of the contract (Several nodes)."""

_FAILING_SECONDS = 5.0
"""An append that takes so long fails; a healthy one of any size does not take so long."""

_LOOK_SECONDS = 0.5
"""The time between two further looks at whether appends fail."""


class _Waiting:
    """A request that waits for the outcomes of its commands."""

    __slots__ = ("future", "timer")

    def __init__(self, future: asyncio.Future[list[Outcome]]) -> None:
        self.future = future
        self.timer: asyncio.TimerHandle | None = None


_Answered = tuple[_Waiting, list[Outcome]]


class Submissions:
    """Hands the commands of one process to its writer."""

    def __init__(self, writer: Writer, positions: ViewPositions) -> None:
        self._writer = writer
        self._positions = positions
        self._answered: deque[_Answered] = deque()
        self._is_awake = False
        """Whether a drain is scheduled on the loop; a drain that finds nothing costs nothing."""

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """Return the outcomes in the commands' order, once the views show them, or after 2 s.

        Raises Unavailable; the commands may be carried out all the same.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future())

        def deliver(outcomes: list[Outcome]) -> None:
            # Called on the writer's thread.
            self._answered.append((waiting, outcomes))
            if not self._is_awake:
                self._is_awake = True
                loop.call_soon_threadsafe(self._drain)

        self._writer.hand_in(commands, deliver)
        waiting.timer = loop.call_later(_PATIENCE_SECONDS, self._look, waiting)
        try:
            return await waiting.future
        finally:
            waiting.timer.cancel()

    def _look(self, waiting: _Waiting) -> None:
        """Give up a request if appends fail: the group before its own may have taken the time."""
        if waiting.future.done():
            return
        if self._writer.failing_seconds() >= _FAILING_SECONDS:
            waiting.future.set_exception(
                Unavailable("The database does not answer. The write may be recorded all the same.")
            )
            return
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(_LOOK_SECONDS, self._look, waiting)

    def _drain(self) -> None:
        self._is_awake = False
        while self._answered:
            waiting, outcomes = self._answered.popleft()
            if waiting.timer is not None:
                waiting.timer.cancel()
            # A refusal has a position too, that of its record: the audit log then shows it.
            last = max((getattr(outcome, "position", 0) for outcome in outcomes), default=0)
            self._positions.after(last, waiting.future, outcomes, late=outcomes)
