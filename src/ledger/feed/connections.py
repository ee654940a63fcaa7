"""Connections to receivers, kept for the next delivery for a while.

httpcore's own pool goes through all its connections, square in the idle ones, twice a request:
with 64 busy each delivery costs four times as much, so receivers that keep us waiting would slow
the others. Here a request costs the same however many are in use.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore

# Shorter than the usual 5 s of servers: whoever closes first must not be them, just as we send.
KEEPALIVE_SECONDS = 4.0

_MOST_IDLE = 128


class StaleConnection(Exception):
    """A kept connection broke before an answer came, as it does where the other side ends it just
    then. That says nothing about the receiver: a new one may be tried."""


class _Opener(httpcore.AsyncNetworkBackend):
    """The way to the network of one connection: it knows what it has opened."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend
        self._opened: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self._opened = await self._backend.connect_tcp(*args, **options)
        return self._opened

    async def aclose(self) -> None:
        """Close the stream, if one was opened, below all that was put on it."""
        if self._opened is not None:
            await self._opened.aclose()


class _Connection(httpcore.AsyncHTTPConnection):
    """httpcore's, but closing it does close it.

    One that is cancelled in the midst of a TLS handshake leaves its socket to the collector.
    """

    def __init__(
        self,
        origin: httpcore.Origin,
        ssl_context: ssl.SSLContext,
        keepalive_seconds: float,
        backend: httpcore.AsyncNetworkBackend,
    ) -> None:
        self._opener = _Opener(backend)
        super().__init__(
            origin=origin,
            ssl_context=ssl_context,
            keepalive_expiry=keepalive_seconds,
            retries=0,
            network_backend=self._opener,
        )

    async def aclose(self) -> None:
        await super().aclose()
        await self._opener.aclose()


class Connections:
    """As many as are needed at once; up to 128 idle ones wait 4 s for another use.

    Those whose time is over are closed when the next one is given back.
    """

    def __init__(
        self,
        backend: httpcore.AsyncNetworkBackend,
        ssl_context: ssl.SSLContext | None,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._backend, self._keepalive_seconds = backend, keepalive_seconds
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._idle: list[_Connection] = []
        """The one that has waited longest first, so the expired ones come first."""

    @asynccontextmanager
    async def borrow(
        self, origin: httpcore.Origin, fresh: bool = False
    ) -> AsyncIterator[_Connection]:
        """A connection for one request and its answer; after anything but a whole one it closes.

        One that is kept, unless ``fresh``. Raises StaleConnection where such a one breaks.
        """
        kept = None if fresh else await self._take(origin)
        connection = kept or self._new(origin)
        try:
            yield connection
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
            if kept is None:
                raise
            raise StaleConnection from error
        finally:
            # One that never came about calls itself idle too, but also closed.
            if connection.is_idle() and not connection.is_closed():
                self._idle.append(connection)
                await self._close_idle(_MOST_IDLE)
            else:
                # Cancelled between two of its steps, it would stay open until it is collected.
                await connection.aclose()

    async def close(self) -> None:
        """Close those that wait."""
        await self._close_idle(0)

    def _new(self, origin: httpcore.Origin) -> _Connection:
        return _Connection(origin, self._ssl_context, self._keepalive_seconds, self._backend)

    async def _take(self, origin: httpcore.Origin) -> _Connection | None:
        while (kept := self._pop(origin)) is not None:
            # Expired is also one that the other side has closed meanwhile.
            if not kept.has_expired():
                return kept
            await kept.aclose()
        return None

    def _pop(self, origin: httpcore.Origin) -> _Connection | None:
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].can_handle_request(origin):
                return self._idle.pop(index)
        return None

    async def _close_idle(self, most: int) -> None:
        """Close the longest idle until there are so few, and those whose time is over."""
        while self._idle and (len(self._idle) > most or self._idle[0].has_expired()):
            await self._idle.pop(0).aclose()
