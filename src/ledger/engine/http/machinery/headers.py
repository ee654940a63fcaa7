"""A request's headers as the server gave them, and the compression that they ask for.

Starlette's headers scan and decode all headers for each requested name.

Answers are compressed for clients that accept it (contract, Access), by Starlette's gzip. It leaves
out event streams by their content type. Exact answers are never compressed: their very bytes were
requested.

Compression is safe for pages too. A page contains the key of its session's forms, and repeats parts
of its address. By the lengths of pages with chosen words, an attacker could guess the key (BREACH).
But the session's cookie is ``SameSite=Strict`` (``features/sign_in/page/session.py``), so no page
of another site can make a browser request one of ours with it.
"""

import gzip
import re
from functools import lru_cache

from starlette.middleware.gzip import GZipResponder
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from ledger.engine.http.problems import Unauthorized

HEADERS = "ledger.headers"
"""In a scope: the first header of each name. ``ResponseMiddleware`` makes it, once a request."""


def is_of_the_api(scope: Scope) -> bool:
    """True if the request's path is below ``/v1``."""
    path: str = scope["path"]
    return path.startswith("/v1/") or path == "/v1"


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a lower-case name, or None."""
    value: bytes | None = scope[HEADERS].get(name)
    return value


def count(scope: Scope, name: bytes) -> int:
    headers, by_name = scope["headers"], scope[HEADERS]
    if len(by_name) == len(headers):
        return int(name in by_name)
    return sum(other == name for other, _ in headers)


def joined(scope: Scope, name: bytes) -> bytes | None:
    """All headers of a lower-case name, joined to one list (RFC 9110, 5.3)."""
    if count(scope, name) < 2:
        return header(scope, name)
    return b",".join(value for other, value in scope["headers"] if other == name)


_LARGEST_PLAIN = 1024

_LEVEL = 3
"""The highest of zlib's fast levels. A page of 25 lines (12 KB) shrinks to 8.4 % in 0.06 ms, at
level 6 to 7.6 % in 0.09 ms. A worker has one thread for all of this."""

_LEVEL_OF_PAGES = 6
"""A page is made for a person, in some 20 ms. The board (134 KB) shrinks from 16.8 KB at level 3 to
14.1 KB, for 3 ms more."""

_WEIGHT = re.compile(rb"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


def packer_of(scope: Scope, start: Message, app: ASGIApp) -> GZipResponder | None:
    """Starlette's gzip for an answer of the application that starts so; None: it is sent as it is.

    Small answers bypass the library, which costs more than all other layers.
    """
    if start["status"] in (204, 304):
        return None
    for name, value in start["headers"]:
        # A streamed answer declares no length.
        if name == b"content-length" and int(value) <= _LARGEST_PLAIN:
            return None
    if not _accepts_gzip(scope) or is_exact(scope):
        return None
    level = _LEVEL if is_of_the_api(scope) else _LEVEL_OF_PAGES
    return GZipResponder(app, _LARGEST_PLAIN + 1, level)


class Packed:
    """A body for many requests, compressed once. The library passes on an answer with a coding."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self._body, self._media_type = body, media_type
        self._packed = packed(body)

    def answer(self, scope: Scope) -> Response:
        if compresses(scope, len(self._body)):
            coding = {"Content-Encoding": "gzip"}
            return Response(self._packed, headers=coding, media_type=self._media_type)
        return Response(self._body, media_type=self._media_type)


def packed(body: bytes) -> bytes:
    """The body of an answer of the API, compressed."""
    return gzip.compress(body, _LEVEL, mtime=0)


def compresses(scope: Scope, size: int) -> bool:
    """True if the answer to a request, a whole body of ``size`` bytes, is compressed."""
    return size > _LARGEST_PLAIN and not is_exact(scope) and _accepts_gzip(scope)


def is_exact(scope: Scope) -> bool:
    """True if the route has said that no byte of its answer may be changed on the way."""
    exact: bool = scope["state"].get("is_exact", False)
    return exact


def weak(tag: bytes) -> bytes:
    """The weak form of an entity tag: same content, perhaps other bytes (RFC 9110, 8.8.1)."""
    return tag if tag.startswith(b"W/") else b"W/" + tag


def _accepts_gzip(scope: Scope) -> bool:
    if b"accept-encoding" not in scope[HEADERS]:
        return False
    return _names_gzip(joined(scope, b"accept-encoding") or b"")


@lru_cache(64)
def _names_gzip(accepted: bytes) -> bool:
    """True if an Accept-Encoding accepts gzip; a malformed weight counts as 0."""
    weights = {}
    for part in accepted.lower().split(b","):
        coding, has_weight, weight = part.partition(b";")
        found = _WEIGHT.fullmatch(weight.strip())
        weights[coding.strip()] = float(found[1]) if found else float(not has_weight)
    named = [weights[coding] for coding in (b"gzip", b"x-gzip") if coding in weights]
    return max(named or [weights.get(b"*", 0.0)]) > 0


def token_of(request: Request) -> str:
    """The bearer token that the request names. Raises Unauthorized."""
    scope = request.scope
    headers: dict[bytes, bytes] = scope[HEADERS]
    if len(headers) != len(scope["headers"]) and count(scope, b"authorization") > 1:
        # A proxy may have checked the other header.
        raise Unauthorized("Exactly one Authorization header is needed.")
    sent = headers.get(b"authorization", b"").decode("latin-1")
    scheme, _, token = sent.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("A bearer token is needed.")
    return token.strip()


def address_of(request: Request) -> str | None:
    """The address from which the request came: behind a proxy, the proxy's."""
    client = request.scope.get("client")
    return client[0] if client else None
