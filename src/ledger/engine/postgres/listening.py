"""Listening on an event loop: the notifications of one connection (LISTEN, NOTIFY).

Silence may mean that nothing happens, or that the server has vanished while a proxy keeps the
connection open. So a listener sends an empty statement every few seconds, which the server must
answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg

from ledger.engine.postgres.exchange import SilentServer
from ledger.engine.postgres.timing import ASK_SECONDS


async def listen(
    connection: psycopg.AsyncConnection[Any],
    hear: Callable[[str], object],
    ask_seconds: float = ASK_SECONDS,
) -> None:
    """Give ``hear`` the payload of each notification, until cancelled.

    Raises the errors of ``hear``, SilentServer, or psycopg.OperationalError if the connection is
    lost.
    """
    while True:
        async for notification in connection.notifies(timeout=ask_seconds):
            hear(notification.payload)
        probe = asyncio.ensure_future(connection.execute(""))
        try:
            await asyncio.wait([probe], timeout=ask_seconds)
            if not probe.done():
                # Cancelling alone would ask the silent server to cancel, and wait for it.
                await connection.close()
                raise SilentServer
            await probe
        finally:
            probe.cancel()
