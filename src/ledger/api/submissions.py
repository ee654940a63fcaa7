"""From the event loop to the writer's thread and back.

The writer answers a whole group at once; so do we: one wake-up of the loop a group, and each
request wakes once, when the views show what it wrote.
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
    """One process's way to its writer."""

    def __init__(self, writer: Writer, positions: ViewPositions) -> None:
        self._writer = writer
        self._positions = positions
        self._answered: deque[_Answered] = deque()
        self._is_awake = False
        """Whether the loop has been told to look; a late look costs nothing."""

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """Outcomes in order, once the views show them (or after 2 s). Raises Unavailable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Outcome]] = loop.create_future()

        def deliver(outcomes: list[Outcome]) -> None:
            # On the writer's thread.
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
            # A refusal has a record too, which the audit log then shows.
            last = max((getattr(outcome, "position", 0) for outcome in outcomes), default=0)
            self._positions.after(last, future, outcomes, late=outcomes)
