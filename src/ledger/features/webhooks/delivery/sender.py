"""One attempt at a delivery: sign, connect, post, read the beginning of the answer."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

import msgspec

from ledger.features.webhooks.client.answer import NoAnswer, ReceiverAnswer
from ledger.features.webhooks.client.connections import Connections
from ledger.features.webhooks.client.target import (
    CannotConnect,
    Connector,
    ForbiddenTarget,
    Resolve,
    Target,
    parse_url,
    resolve_host,
)
from ledger.features.webhooks.delivery import signing
from ledger.features.webhooks.delivery.schedule import parse_retry_after
from ledger.features.webhooks.formats.plain import JSON

# Contract, Feeds: delivered means 2xx within this time, name lookup and connecting included.
DEADLINE_SECONDS = 10.0

# Connecting has two phases, TCP with the lookup, then TLS. Each phase has two fifths of the
# deadline. So an unreachable receiver occupies a slot for a shorter time than a slow receiver.
_PHASE = 0.4

# Errors of the network or of the receiver (TimeoutError is an OSError). Any other error is a
# programming error and is raised.
_BROKEN = (OSError, NoAnswer, CannotConnect, ForbiddenTarget)


class Attempt(msgspec.Struct, frozen=True):
    """The outcome of one attempt."""

    url: str
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
    is_final: bool = False
    """True if another attempt would be useless."""
    secret: bytes | None = None
    """A channel's encrypted address or key."""

    @property
    def delivered(self) -> bool:
        return self.response_status is not None and 200 <= self.response_status < 300

    @property
    def gone(self) -> bool:
        """True if the receiver wants no more events."""
        return self.response_status == 410


class Sender(AbstractAsyncContextManager["Sender"]):
    """Sends any number of webhooks at once, over connections that stay open for a while.

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
        self._connections = Connections(
            Connector(allow_private, resolve), ssl_context, deadline * _PHASE
        )

    async def __aexit__(self, *_: object) -> None:
        self._connections.close()

    async def send(
        self,
        url: str,
        event_id: str,
        body: bytes,
        secrets: Sequence[str],
        organization_id: str | None,
        content_type: str = JSON,
    ) -> Attempt:
        """Post a body once, signed with each secret, if any. Raises no failure of the receiver.

        A redirect is not followed: nobody agreed to its target, and nothing has checked it. Only
        the head of the answer decides. A short answer is read to its end so that its connection can
        be reused.
        """
        at, begun, answer = self._clock(), time.perf_counter(), ReceiverAnswer()
        try:
            async with asyncio.timeout(self._deadline):
                target = parse_url(url)
                signature = signing.headers(event_id, body, at, secrets) if secrets else []
                request = _request(target, content_type, signature, body)
                await self._connections.exchange(target, organization_id, request, answer)
        except _BROKEN as error:
            if answer.status is None:
                failed_at = time.perf_counter()
                return Attempt(url, at, None, _ms(begun, failed_at), _why(error), None, None)
        assert answer.status is not None
        return Attempt(
            url=url,
            at=at,
            response_status=answer.status,
            latency_ms=_ms(begun, answer.head_at),
            error="redirects are not followed" if 300 <= answer.status < 400 else None,
            response_body=answer.start.decode(errors="replace").replace("\0", ""),
            retry_after=parse_retry_after(answer.retry_after, self._clock()),
        )


def _request(
    target: Target, content_type: str, signature: list[tuple[bytes, bytes]], body: bytes
) -> bytes:
    headers = [
        (b"host", target.authority.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"content-type", content_type.encode()),
        (b"user-agent", signing.USER_AGENT.encode()),
        *signature,
    ]
    lines = [b"POST %s HTTP/1.1" % target.resource.encode()]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join([*lines, b"", body])


def _ms(begun: float, ended: float) -> int:
    return round((ended - begun) * 1000)


def _why(error: Exception) -> str:
    """A fixed text for an error, which repeats no text of a library or of the receiver."""
    match error:
        case TimeoutError():
            return "timed out"
        case ForbiddenTarget():
            return "the address is not allowed"
        case CannotConnect() | NoAnswer():
            return str(error)
        case ssl.SSLError():
            return "TLS failed"
        case _:
            return "the connection broke"
