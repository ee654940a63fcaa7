"""Answers compressed on their way out, for who accepts it (contract 7): Starlette's gzip.

Event streams are not: the library leaves them as they are, by their content type. Forms carry a key
of their session, and addresses are repeated in pages. Who makes a browser ask for pages with words
of his choice, and sees how long the answers are, could guess at that key. The session's cookie is
``SameSite=Strict`` (``web/session.py``): no other site's page makes a browser ask for one of ours.
"""

import re
from functools import lru_cache

from starlette.middleware.gzip import GZipResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.api.machinery.headers import joined

_LARGEST_PLAIN = 1024

_LEVEL = 3
"""The last one of zlib's quick ones. Of a page of 25 lines (12 KB) it leaves 8.4 % in 0.06 ms, and
level 6 7.6 % in 0.09 ms; of the board (51 KB) 10.3 % in 0.3 ms, and level 6 9.4 % in 0.6 ms. A
worker has one thread for all of that."""

_WEIGHT = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class Compression:
    """ASGI middleware. The library is not gone through in vain: it takes longer for a small answer
    than everything else that all answers have in common."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; compress the answer if that is worth it."""
        if not _accepts_gzip(scope):
            await self._app(scope, receive, send)
            return
        packing: GZipResponder | None = None

        async def send_weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[tuple[bytes, bytes]] = message["headers"]
                if (b"content-encoding", b"gzip") in headers:
                    headers[:] = [(n, weak(v) if n == b"etag" else v) for n, v in headers]
            await send(message)

        async def send_packed(message: Message) -> None:
            nonlocal packing
            if message["type"] == "http.response.start" and not _is_small(message):
                packing = GZipResponder(self._app, _LARGEST_PLAIN + 1, _LEVEL)
                packing.send = send_weakened
            await (send if packing is None else packing.send_with_compression)(message)

        await self._app(scope, receive, send_packed)


def _is_small(start: Message) -> bool:
    """Whether an answer says as it starts that it is not worth it; a streamed one never does."""
    if start["status"] in (204, 304):
        return True
    lengths = [value for name, value in start["headers"] if name == b"content-length"]
    return bool(lengths) and int(lengths[0]) <= _LARGEST_PLAIN


def compresses(scope: Scope, size: int) -> bool:
    """Whether a request is answered a whole body of so many bytes compressed."""
    return size > _LARGEST_PLAIN and _accepts_gzip(scope)


def weak(tag: bytes) -> bytes:
    """An entity tag that says: the same content, perhaps in other bytes (RFC 9110, 8.8.1)."""
    return tag if tag.startswith(b"W/") else b"W/" + tag


def _accepts_gzip(scope: Scope) -> bool:
    accepted = joined(scope, b"accept-encoding")
    return accepted is not None and _names_gzip(accepted)


@lru_cache(64)
def _names_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding takes gzip; a weight that is none takes nothing."""
    weights = {}
    for part in accepted.lower().split(b","):
        coding, has_weight, weight = part.partition(b";")
        known = _WEIGHT.fullmatch(weight.strip())
        weights[coding.strip()] = float(known[1]) if known else float(not has_weight)
    named = [weights[coding] for coding in (b"gzip", b"x-gzip") if coding in weights]
    return max(named or [weights.get(b"*", 0.0)]) > 0
