"""One attempt at a delivery: sign, connect, post, read the beginning of the answer.

httpcore, not httpx: only the former has a public place for a backend that pins the address.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType

import httpcore
import msgspec

from ledger import __version__
from ledger.feed import signing
from ledger.feed.connections import Connections, StaleConnection
from ledger.feed.resolver import CannotConnect
from ledger.feed.schedule import parse_retry_after
from ledger.feed.target import (
    ForbiddenTarget,
    PinnedBackend,
    Resolve,
    Target,
    parse_url,
    resolve_host,
)

# Contract 5: delivered means 2xx within this time, name lookup and connecting included.
DEADLINE_SECONDS = 10.0

# Connecting has two phases, TCP with the lookup, then TLS. Each has two fifths of the deadline: who
# cannot be reached takes a place among the requests in flight for less time than who is slow.
_PHASE = 0.4

# What an operator gets to see of an answer, and how much of it is read to save the connection.
_KEPT_BYTES = 1024
_READ_BYTES = 64 * 1024

# The answer, or the way to it, broke. Anything else is a fault of ours and is raised.
_BROKEN = (
    TimeoutError,
    OSError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.RemoteProtocolError,
)


class Attempt(msgspec.Struct, frozen=True):
    """What came of one attempt."""

    url: str
    """Where it was sent."""
    at: datetime
    response_status: int | None
    """None where no answer came."""
    latency_ms: int
    """Until the head of the answer, or the failure."""
    error: str | None
    """Why no answer came, or why this one does not do, where the status does not say so."""
    response_body: str | None
    """The first KB of the answer as text."""
    retry_after: timedelta | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.response_status is not None and 200 <= self.response_status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing any more."""
        return self.response_status == 410


class Sender:
    """Sends webhooks, any number at once, over connections that are kept for a while.

    An async context manager; it belongs to one event loop.
    """

    def __init__(
        self,
        allow_private: bool,
        clock: Callable[[], datetime],
        deadline: float = DEADLINE_SECONDS,
        resolve: Resolve = resolve_host,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if deadline <= 0:
            raise ValueError("the deadline must be positive")
        self._clock, self._deadline = clock, deadline
        self._connections = Connections(PinnedBackend(allow_private, resolve), ssl_context)

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._connections.close()

    async def send(self, url: str, event_id: str, body: bytes, secrets: Sequence[str]) -> Attempt:
        """Post a body once, signed with each secret. Raises nothing that is the other side's doing.

        A redirect is not followed: where it leads, nobody has agreed to and nothing has checked.
        """
        at, begun = self._clock(), time.perf_counter()
        end = asyncio.get_running_loop().time() + self._deadline
        try:
            request = self._request(
                parse_url(url), signing.headers(event_id, body, at, secrets), body
            )
            try:
                response, latency, start = await self._exchange(request, begun, end)
            except StaleConnection:
                response, latency, start = await self._exchange(request, begun, end, fresh=True)
        except (*_BROKEN, ForbiddenTarget, CannotConnect) as error:
            return Attempt(url, at, None, _since(begun), _why(error), None, None)
        return Attempt(
            url=url,
            at=at,
            response_status=response.status,
            latency_ms=latency,
            error="redirects are not followed" if 300 <= response.status < 400 else None,
            response_body=start.decode(errors="replace").replace("\0", ""),
            retry_after=parse_retry_after(_header(response, b"retry-after"), self._clock()),
        )

    async def _exchange(
        self, request: httpcore.Request, begun: float, end: float, fresh: bool = False
    ) -> tuple[httpcore.Response, int, bytes]:
        """The answer's head, how long it took, and the beginning of its body."""
        async with self._connections.borrow(request.url.origin, fresh) as connection:
            async with asyncio.timeout_at(end):
                response = await connection.handle_async_request(request)
            latency = _since(begun)
            return response, latency, await _read_start(response, end)

    def _request(
        self, target: Target, signature: list[tuple[bytes, bytes]], body: bytes
    ) -> httpcore.Request:
        # Taken apart by us: httpcore's own parser loses what follows a semicolon in the path.
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.resource
        )
        return httpcore.Request(
            "POST",
            url,
            headers=[
                (b"host", target.authority.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"user-agent", f"execution-ledger/{__version__}".encode()),
                *signature,
            ],
            content=body,
            extensions={"timeout": {"connect": self._deadline * _PHASE}},
        )


async def _read_start(response: httpcore.Response, end: float) -> bytes:
    """The first KB of the answer's body, or what came of it in time: the head counts, not this.

    A body that is not too long is read to its end, or else its connection could not be kept.
    """
    kept, size = b"", 0
    try:
        async with asyncio.timeout_at(end):
            async for part in response.aiter_stream():
                kept += part[: _KEPT_BYTES - len(kept)]
                size += len(part)
                if size > _READ_BYTES:
                    break
    except _BROKEN:
        pass
    finally:
        await response.aclose()
    return kept


def _header(response: httpcore.Response, name: bytes) -> str | None:
    found = (value for key, value in response.headers if key.lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1")


def _since(begun: float) -> int:
    return round((time.perf_counter() - begun) * 1000)


def _why(error: Exception) -> str:
    """A fixed sentence: what the other side's library or server says is not repeated."""
    match error:
        case TimeoutError() | httpcore.TimeoutException():
            return "timed out"
        case ForbiddenTarget():
            return "the address is not allowed"
        case CannotConnect():
            return str(error)
        # The backend has its own for connections, so this one is about the handshake.
        case httpcore.ConnectError() | ssl.SSLError():
            return "TLS failed"
        case httpcore.RemoteProtocolError():
            return "no HTTP answer came"
        case _:
            return "the connection broke"
