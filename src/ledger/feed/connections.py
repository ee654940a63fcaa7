"""Connections to receivers, kept for the next delivery for a while.

httpcore's own pool goes through all its connections, square in the idle ones, twice a request:
with 64 busy each delivery costs four times as much, so receivers that keep us waiting would slow
the others. Here a request costs the same however many are in use.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore

# Shorter than the usual 5 s of servers: whoever closes first must not be them, just as we send.
KEEPALIVE_SECONDS = 4.0

_MOST_IDLE = 128


class Connections:
    """As many as are needed at once; up to 128 idle ones wait 4 s for another use."""

    def __init__(
        self,
        backend: httpcore.AsyncNetworkBackend,
        ssl_context: ssl.SSLContext | None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._backend, self._keepalive_seconds = backend, keepalive_seconds
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._idle: list[httpcore.AsyncHTTPConnection] = []
        """The one that has waited longest first, so the expired ones come first."""

    @asynccontextmanager
    async def borrow(self, origin: httpcore.Origin) -> AsyncIterator[httpcore.AsyncHTTPConnection]:
        """A connection for one request and its answer.

        After anything but a whole answer it has closed itself, and is forgotten.
        """
        connection = await self._take(origin)
        try:
            yield connection
        finally:
            # One that never came about calls itself idle too, but also closed.
            if connection.is_idle() and not connection.is_closed():
                self._idle.append(connection)
                await self._close_idle(_MOST_IDLE)

    async def close(self) -> None:
        """Close those that wait."""
        await self._close_idle(0)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        while (kept := self._pop(origin)) is not None:
            # Expired is also one that the other side has closed meanwhile.
            if not kept.has_expired():
                return kept
            await kept.aclose()
        return httpcore.AsyncHTTPConnection(
            origin=origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_seconds,
            retries=0,
            network_backend=self._backend,
        )

    def _pop(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection | None:
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].can_handle_request(origin):
                return self._idle.pop(index)
        return None

    async def _close_idle(self, most: int) -> None:
        """Close the longest idle until there are so few, and those whose time is over."""
        while self._idle and (len(self._idle) > most or self._idle[0].has_expired()):
            await self._idle.pop(0).aclose()
