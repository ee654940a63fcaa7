"""Bodies of requests: what they are in, how much of them is taken, and how long (contract 2, 7).

A body is unpacked while it comes, and no further than its bound: what would unpack to a thousand
times its bytes costs as much as any body that is too large.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import NamedTuple

from fastapi import Request

from ledger.api.machinery.headers import header, joined
from ledger.api.problems import BadRequest, BodyTimeout, UnsupportedMediaType
from ledger.domain.errors import TooLarge

_PIECE = 256 * 1024
"""Bytes that are unpacked at once: in well under a millisecond."""

_GZIP = frozenset({b"gzip", b"x-gzip"})


class Pace(NamedTuple):
    """How long a body may take from its head on.

    One byte now and then keeps a connection, and what has come of the body in our memory. Whoever
    sends 8 MiB over a slow line goes on after that time, as long as the average is fair: these are
    two minutes at most.
    """

    seconds: float = 60.0
    bytes_per_second: float = 64 * 1024

    def seconds_for(self, size: int) -> float:
        """How long a body may take of which so many bytes have come."""
        return max(self.seconds, size / self.bytes_per_second)


def media_type(request: Request) -> str:
    """The body's media type in lower case. Raises UnsupportedMediaType for other charsets."""
    return _essence(header(request.scope, b"content-type") or b"")


@lru_cache(256)
def _essence(content_type: bytes) -> str:
    essence, *parameters = content_type.decode("latin-1").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("Only UTF-8 is taken.")
    return essence.strip()


async def read_capped(request: Request, limit: int) -> bytes:
    """The body, unpacked. Raises TooLarge, as soon as that is known, above ``limit`` bytes.

    Raises UnsupportedMediaType for another coding than gzip, BadRequest for broken gzip, and
    BodyTimeout for a body that comes too slowly.
    """
    packed = _is_packed(request)
    length = header(request.scope, b"content-length") or b""
    if length.isdigit() and int(length[:19]) > limit:
        raise _too_large(limit)
    pace: Pace = request.app.state.services.pace
    begun = asyncio.get_running_loop().time()
    unpacking = _Unpacking(limit) if packed else None
    parts, size = [], 0
    try:
        async with asyncio.timeout_at(begun + pace.seconds) as deadline:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                if unpacking is None:
                    parts.append(part)
                else:
                    parts += [piece async for piece in unpacking.take(part)]
                if (seconds := pace.seconds_for(size)) > pace.seconds:
                    deadline.reschedule(begun + seconds)
    except TimeoutError as error:
        raise BodyTimeout("The body did not come to its end in time.") from error
    if unpacking is not None and size:
        unpacking.end()
    return b"".join(parts)


def _is_packed(request: Request) -> bool:
    """Whether the body is gzip."""
    coding = (joined(request.scope, b"content-encoding") or b"").strip().lower()
    if coding in _GZIP:
        return True
    if coding not in (b"", b"identity"):
        raise UnsupportedMediaType("A body may be compressed by gzip only.")
    return False


class _Unpacking:
    """What of a body has been unpacked so far, up to so many bytes.

    One member, as all clients send it: thousands of empty ones would fit into a part.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._room = limit
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # gzip's head and sums, no others

    async def take(self, part: bytes) -> AsyncIterator[bytes]:
        """What a part unpacks to, piece by piece: others have their turn between two of them."""
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
        """Nothing more comes."""
        if not self._stream.eof:
            raise _broken()


def _broken() -> BadRequest:
    return BadRequest("The body is not gzip, or not all of it.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have at most {limit // 1024:,} KiB.")
