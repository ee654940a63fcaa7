"""One attempt at a delivery: sign, connect, post, read the beginning of the answer.

httpcore, not httpx: only httpcore has a public interface for a backend that pins the address.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType

import httpcore
import msgspec

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

# Contract, Feeds: delivered means 2xx within this time, name lookup and connecting included.
DEADLINE_SECONDS = 10.0

# Connecting has two phases, TCP with the lookup, then TLS. Each phase has two fifths of the
# deadline: a receiver that cannot be reached occupies a place among the requests in flight for a
# shorter time than a slow receiver.
_PHASE = 0.4

_CONTENT = [(name.encode(), value.encode()) for name, value in signing.CONTENT.items()]

# How much of an answer an operator sees, and how much is read so that the connection can be kept.
_KEPT_BYTES = 1024
_READ_BYTES = 64 * 1024

# Errors of the network or of the receiver. Any other error is a programming error and is raised.
_BROKEN = (
    TimeoutError,
    OSError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.RemoteProtocolError,
)


class Attempt(msgspec.Struct, frozen=True):
    """The outcome of one attempt."""

    url: str
    """The address that the request was sent to."""
    at: datetime
    response_status: int | None
    """None if no answer came."""
    latency_ms: int
    """The time until the head of the answer, or until the failure."""
    error: str | None
    """Why no answer came; or why an answer is a failure, if its status alone does not say so."""
    response_body: str | None
    """The first KB of the answer as text."""
    retry_after: timedelta | None

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted the delivery."""
        return self.response_status is not None and 200 <= self.response_status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more events."""
        return self.response_status == 410


class Sender:
    """Sends webhooks, any number at once, over connections that are kept for a while.

    A sender is an async context manager and belongs to one event loop.
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
        """Post a body once, signed with each secret. No failure of the receiver is raised.

        A redirect is not followed: nobody has agreed to its target, and nothing has checked it.
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
        """The answer's head, its latency, and the beginning of its body."""
        async with self._connections.borrow(request.url.origin, fresh) as connection:
            async with asyncio.timeout_at(end):
                response = await connection.handle_async_request(request)
            latency = _since(begun)
            return response, latency, await _read_start(response, end)

    def _request(
        self, target: Target, signature: list[tuple[bytes, bytes]], body: bytes
    ) -> httpcore.Request:
        # The URL was parsed before: httpcore's own parser loses the text after a semicolon in the
        # path.
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.resource
        )
        return httpcore.Request(
            "POST",
            url,
            headers=[
                (b"host", target.authority.encode()),
                (b"content-length", b"%d" % len(body)),
                *_CONTENT,
                *signature,
            ],
            content=body,
            extensions={"timeout": {"connect": self._deadline * _PHASE}},
        )


async def _read_start(response: httpcore.Response, end: float) -> bytes:
    """The first KB of the answer's body, or the part that came in time: only the head decides.

    A body that is not too long is read to its end; otherwise its connection could not be kept.
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
    """A fixed text for an error: texts of a library or of the receiver are not repeated."""
    match error:
        case TimeoutError() | httpcore.TimeoutException():
            return "timed out"
        case ForbiddenTarget():
            return "the address is not allowed"
        case CannotConnect():
            return str(error)
        # The backend raises CannotConnect for TCP, so a ConnectError comes from the TLS handshake.
        case httpcore.ConnectError() | ssl.SSLError():
            return "TLS failed"
        case httpcore.RemoteProtocolError():
            return "no HTTP answer came"
        case _:
            return "the connection broke"
