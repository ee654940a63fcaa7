"""Listening on an event loop: the notifications of one connection (LISTEN, NOTIFY).

For each notification psycopg's ``notifies`` takes 60 µs of CPU time; an exchange on the loop takes
20 µs. Under load each worker gets hundreds of notifications a second, and answers writes on them.

Silence may mean that nothing happens. Or the server has vanished, and a proxy keeps the connection
open. So a listener sends an empty group every few seconds, which the server must answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from ledger.postgres.exchange import Exchange, SilentServer
from ledger.postgres.lane import LoopDriver
from ledger.postgres.timing import ASK_SECONDS


class Ear:
    """A connection's notifications. Create it before the first LISTEN."""

    def __init__(
        self, connection: psycopg.AsyncConnection[Any], ask_seconds: float = ASK_SECONDS
    ) -> None:
        self._exchange: Exchange[None] = Exchange(connection)
        self._ask_seconds = ask_seconds

    async def listen(self, hear: Callable[[str], object]) -> None:
        """Give ``hear`` the payload of each notification, until cancelled.

        No other code may use the connection meanwhile. Raises what ``hear`` raises, SilentServer,
        or psycopg.OperationalError if the connection is lost. If a reply is still missing at the
        end, the connection is closed: psycopg would wait for that reply.
        """
        exchange, end = self._exchange, asyncio.get_running_loop().create_future()

        def fail(error: Exception) -> None:
            driver.stop()
            if not end.done():
                end.set_exception(error)

        def take() -> bool:
            for _ in exchange.take():
                pass  # an empty group has no outcomes; take() reads the reply to its sync
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
