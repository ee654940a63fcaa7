"""Whether a dispatcher still leads, as far as the database has confirmed it lately.

A process that was frozen goes on with requests that it was about to begin. By then another process
may lead, and may have sent them. So no request begins before the database has answered a statement
of the session that leads. If the session was ended, that statement fails, and the tasks that wait
here are cancelled.
"""

import asyncio
from collections.abc import Callable

_CERTAIN_SECONDS = 4.0
"""For how long the lead is certain once it was confirmed: for less time than rivals wait before
they end a frozen leader."""


class Confirmation:
    """The latest confirmation of a lead. Create it when the session begins to lead."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_ending: Callable[[], bool]) -> None:
        self._loop, self._is_ending = loop, is_ending
        self._confirmed_at = loop.time()
        self._news = asyncio.Event()

    def now(self) -> float:
        """The instant at which a statement is sent that may confirm the lead."""
        return self._loop.time()

    def confirm(self, sent_at: float) -> None:
        """Note that the database has answered a statement sent at this instant."""
        self._confirmed_at = sent_at
        self._news.set()

    def wake(self) -> None:
        """Let the tasks that wait see that the lead ends."""
        self._news.set()

    async def holds(self) -> bool:
        """Wait until the lead is certain; False if it is ending meanwhile."""
        while self._loop.time() - self._confirmed_at > _CERTAIN_SECONDS:
            if self._is_ending():
                return False
            self._news.clear()
            await self._news.wait()
        return True
