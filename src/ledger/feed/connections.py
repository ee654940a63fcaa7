"""Connections to receivers, kept for a while for the next delivery.

httpcore's own pool goes through all its connections twice per request, in time quadratic in the
idle ones. With 64 busy connections each delivery costs four times as much, so slow receivers would
slow the others down. Here the cost of a request does not depend on the connections in use.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpcore

# Shorter than the 5 s that is usual for servers: a server should not close a connection just when
# a request is sent on it.
KEEPALIVE_SECONDS = 4.0

_MOST_IDLE = 128


class StaleConnection(Exception):
    """A kept connection broke before an answer came: the receiver may have closed it just then.

    The break says nothing about the receiver's health: a new connection may be tried.
    """


class _Opener(httpcore.AsyncNetworkBackend):
    """The network backend of one connection: it remembers the stream that it opened."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend
        self._opened: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self._opened = await self._backend.connect_tcp(*args, **options)
        return self._opened

    async def aclose(self) -> None:
        """Close the opened stream, if any, beneath the layers that were put on it (TLS)."""
        if self._opened is not None:
            await self._opened.aclose()


class _Connection(httpcore.AsyncHTTPConnection):
    """httpcore's connection, except that closing it always closes its socket.

    httpcore leaves the socket of a cancelled TLS handshake to the garbage collector.
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
    """As many connections as are needed at once; up to 128 idle ones wait 4 s for another use.

    Expired connections are closed when the next connection is given back.
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
        """The idle connections, the longest idle first, so the expired ones come first."""

    @asynccontextmanager
    async def borrow(
        self, origin: httpcore.Origin, fresh: bool = False
    ) -> AsyncIterator[_Connection]:
        """A connection for one request and its answer: a kept connection if any, unless ``fresh``.

        After a whole answer the connection is kept, otherwise closed. Raises StaleConnection if a
        kept connection breaks.
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
            # A connection that was never established calls itself idle, but also closed.
            if connection.is_idle() and not connection.is_closed():
                self._idle.append(connection)
                await self._close_idle(_MOST_IDLE)
            else:
                # Without this, a request cancelled between two steps would leave the connection
                # open until it is garbage-collected.
                await connection.aclose()

    async def close(self) -> None:
        """Close the idle connections."""
        await self._close_idle(0)

    def _new(self, origin: httpcore.Origin) -> _Connection:
        return _Connection(origin, self._ssl_context, self._keepalive_seconds, self._backend)

    async def _take(self, origin: httpcore.Origin) -> _Connection | None:
        while (kept := self._pop(origin)) is not None:
            # A connection that the receiver has closed meanwhile counts as expired, too.
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
        """Close the longest idle connections until ``most`` are left, and all expired ones."""
        while self._idle and (len(self._idle) > most or self._idle[0].has_expired()):
            await self._idle.pop(0).aclose()
