"""Submissions carry commands from the event loop to the writer's thread, and outcomes back.

The writer answers a whole group at once. The loop is therefore woken once for a group, and each
request is woken once, when the views show its events.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from ledger.application.command import Command
from ledger.application.writer import Writer
from ledger.intake.request import Outcome
from ledger.reads.positions import ViewPositions

_Answered = tuple[asyncio.Future[list[Outcome]], list[Outcome]]


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

        Raises Unavailable.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Outcome]] = loop.create_future()

        def deliver(outcomes: list[Outcome]) -> None:
            # Called on the writer's thread.
            self._answered.append((future, outcomes))
            if not self._is_awake:
                self._is_awake = True
                loop.call_soon_threadsafe(self._drain)

        self._writer.hand_in(commands, deliver)
        return await future

    def _drain(self) -> None:
        self._is_awake = False
        while self._answered:
            future, outcomes = self._answered.popleft()
            # A refusal has a position too, that of its record: the audit log then shows it.
            last = max((getattr(outcome, "position", 0) for outcome in outcomes), default=0)
            self._positions.after(last, future, outcomes, late=outcomes)
