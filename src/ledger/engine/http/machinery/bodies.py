"""Request bodies: media type, and limits of size and time (contract, Facts and Access).

A body is decompressed while it arrives, and never beyond its limit. So a body that grows a
thousandfold costs no more than any other that is too large.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable
from functools import lru_cache
from typing import NamedTuple, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from ledger.engine.http.machinery.headers import HEADERS, joined
from ledger.engine.http.machinery.shares import Bound, Share
from ledger.engine.http.problems import BadRequest, BodyTimeout, UnsupportedMediaType
from ledger.engine.values.errors import TooLarge

T = TypeVar("T")

IS_COMPLETE = "ledger.is_body_complete"
"""In a scope once the whole body has arrived. A server need not say so (``connection.py`` does)."""

_PIECE = 256 * 1024
"""Bytes that are decompressed in one step: well under a millisecond."""

_GZIP = frozenset({b"gzip", b"x-gzip"})


class Pace(NamedTuple):
    """The time limit of a body, counted from the end of its head.

    Without it, a client that sends a byte now and then would hold a connection, and its body in our
    memory. A slow client may exceed ``seconds`` if its average rate is at least
    ``bytes_per_second``. So a body of 8 MiB takes about two minutes at most.
    """

    seconds: float = 60.0
    bytes_per_second: float = 64 * 1024

    def seconds_for(self, size: int) -> float:
        """The time limit once ``size`` bytes have arrived."""
        return max(self.seconds, size / self.bytes_per_second)


def media_type(request: Request) -> str:
    """The body's media type in lower case. Raises UnsupportedMediaType unless in UTF-8."""
    return _essence(request.scope[HEADERS].get(b"content-type", b""))


@lru_cache(256)
def _essence(content_type: bytes) -> str:
    essence, *parameters = content_type.decode("latin-1").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("The charset of the body must be UTF-8.")
    return essence.strip()


async def read_capped(request: Request, limit: int) -> bytes:
    """Return the decompressed body. Raises TooLarge above ``limit`` bytes, as soon as possible.

    Raises UnsupportedMediaType for a coding other than gzip, BadRequest for broken gzip,
    BodyTimeout for a slow body, and RateLimited if too much of the credential waits.
    """
    scope = request.scope
    headers: dict[bytes, bytes] = scope[HEADERS]
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:19]) > limit:
        raise _too_large(limit)
    body = _Body(limit, scope, is_packed=b"content-encoding" in headers and _is_packed(request))
    if IS_COMPLETE in scope:
        # Nothing is left to wait for, so there is no timer.
        await body.read(request.receive)
    else:
        pace: Pace = scope["app"].services.pace
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(begun + pace.seconds) as deadline:
                while await body.read(request.receive):
                    if (seconds := pace.seconds_for(body.size)) > pace.seconds:
                        deadline.reschedule(begun + seconds)
        except TimeoutError as error:
            raise BodyTimeout("The body did not arrive completely in time.") from error
    return body.end()


async def while_connected(work: Awaitable[T], receive: Receive) -> T:
    """Return the work's result, or cancel it when the client has gone. Raises ClientDisconnect."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        working.cancel()
        gone.cancel()


def _is_packed(request: Request) -> bool:
    """True if the body is compressed by gzip. Raises UnsupportedMediaType for other codings."""
    coding = (joined(request.scope, b"content-encoding") or b"").strip().lower()
    if coding in _GZIP:
        return True
    if coding not in (b"", b"identity"):
        raise UnsupportedMediaType("The Content-Encoding of the body must be gzip, or absent.")
    return False


class _Body:
    """A body that arrives in parts, which count in the share of its credential."""

    def __init__(self, limit: int, scope: Scope, *, is_packed: bool) -> None:
        self._limit = limit
        self._unpacking = _Unpacking(limit) if is_packed else None
        self._share: Share | None = scope["state"].get("share")
        self._bodies: Bound = scope["app"].services.shares.bodies
        self._pieces: list[bytes] = []
        self.size = 0
        """The bytes that have arrived, before they are decompressed."""

    async def read(self, receive: Receive) -> bool:
        """Read the next part. Return True if a further one will come.

        Raises ClientDisconnect, TooLarge, BadRequest and RateLimited.
        """
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        self.size += len(part)
        if self.size > self._limit:
            raise _too_large(self._limit)
        if self._unpacking is None:
            self._keep(part)
        else:
            async for piece in self._unpacking.feed(part):
                self._keep(piece)
        more: bool = message.get("more_body", False)
        return more

    def end(self) -> bytes:
        """The whole body. Raises BadRequest for an incomplete gzip member."""
        if self._unpacking is not None and self.size:
            self._unpacking.end()
        return b"".join(self._pieces)

    def _keep(self, piece: bytes) -> None:
        if piece and self._share is not None:
            self._share.count(self._bodies, len(piece))
        self._pieces.append(piece)


class _Unpacking:
    """Decompresses one gzip member, up to ``limit`` bytes: empty members could be thousands."""

    def __init__(self, limit: int) -> None:
        self._limit = self._room = limit
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # gzip's header and checksums only

    async def feed(self, part: bytes) -> AsyncIterator[bytes]:
        """Decompress a part piece by piece; other tasks run between two pieces."""
        if self._stream.eof and part:
            raise _broken()
        while part:
            try:
                unpacked = self._stream.decompress(part, min(_PIECE, self._room + 1))
            except zlib.error as error:
                raise _broken() from error
            self._room -= len(unpacked)
            if self._room < 0:
                raise _too_large(self._limit)
            if self._stream.unused_data:
                raise _broken()
            yield unpacked
            if part := self._stream.unconsumed_tail:
                await asyncio.sleep(0)

    def end(self) -> None:
        """Check that the member is complete. Raises BadRequest."""
        if not self._stream.eof:
            raise _broken()


def _broken() -> BadRequest:
    return BadRequest("The body is not one complete gzip member.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have at most {limit // 1024:,} KiB.")
