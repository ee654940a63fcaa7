"""What the database tells an event loop: the notifications of one connection.

psycopg's own ``notifies`` takes 60 µs of a process's time for each; the exchange on a loop takes
20. Under load each worker hears of hundreds a second, and answers writes then.

Silence may mean that nothing happens, or that a proxy keeps the connection alive whose server has
vanished. So an empty group is sent now and then, which the server must answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from ledger.postgres.exchange import Exchange, SilentServer
from ledger.postgres.loop import LoopDriver

_ASK_SECONDS = 3.0
"""Between two empty groups. The one before must have been answered by then."""


class Ear:
    """A connection's notifications from now on: to be made before the first LISTEN."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], ask_seconds: float = _ASK_SECONDS
    ) -> None:
        self._exchange: Exchange[None] = Exchange(connection)
        self._ask_seconds = ask_seconds

    async def listen(self, hear: Callable[[str], object]) -> None:
        """Give ``hear`` the payload of each, until cancelled.

        Nobody else may use the connection meanwhile. Raises what ``hear`` raises, SilentServer, or
        psycopg.OperationalError when the connection is lost. A connection whose server owes an
        answer at the end is closed: psycopg would wait for it.
        """
        exchange, end = self._exchange, asyncio.get_running_loop().create_future()

        def fail(error: Exception) -> None:
            driver.stop()
            if not end.done():
                end.set_exception(error)

        def take() -> bool:
            for _ in exchange.take():
                pass  # an empty group has no outcomes, but an end
            try:
                for payload in exchange.notifications():
                    hear(payload)
            except Exception as error:
                fail(error)
            return end.done()

        async def ask_again() -> None:
            while not end.done():
                await asyncio.sleep(self._ask_seconds)
                if exchange.is_waiting:
                    fail(SilentServer())
                else:
                    driver.sync()

        driver = LoopDriver(exchange, take, fail)
        driver.receive()
        asking = asyncio.create_task(ask_again())
        try:
            await end
        finally:
            asking.cancel()
            driver.stop()
            if exchange.is_waiting:
                exchange.close()
