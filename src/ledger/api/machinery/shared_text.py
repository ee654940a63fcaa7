"""A text that costs much to make, and for which anybody may ask: the metrics."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from ledger.api.machinery.compression import Packed
from ledger.telemetry.lines import for_nobody

_EVERY_SECONDS = 1.0
"""From the begin of a text until the begin of the next one."""


class SharedText:
    """The text is made at most once in so many seconds: all who ask meanwhile get the same.

    The cost of the text therefore does not grow with the requests. No text is kept: a request that
    comes too early waits for the next text. So nobody gets old numbers, and a client that asks in a
    loop gets one answer a second on each connection.
    """

    def __init__(self, every_seconds: float = _EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._begun_at = -math.inf
        self._making: asyncio.Task[Packed] | None = None

    async def read(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        """The next text, which ``make`` makes. Raises the error of ``make``."""
        if self._making is None:
            loop = asyncio.get_running_loop()
            self._making = loop.create_task(self._make(make), context=for_nobody())
        # A client that leaves takes the text from nobody else.
        return await asyncio.shield(self._making)

    async def _make(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._begun_at + self._every_seconds - loop.time())
            self._begun_at = loop.time()
            return await make()
        finally:
            self._making = None
