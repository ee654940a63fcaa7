"""Cross-origin requests: which pages of other sites may call the API (contract, Access).

By default none may. A browser reads an answer for a page of another origin only if the answer
allows that origin. Before a request with a token, it sends a preflight without one. No answer ever
allows cookies, so a page of another origin needs a token of its own.

Starlette's ``CORSMiddleware`` refuses a preflight as plain text, not as a problem. It cannot allow
the headers of CloudEvents, whose names are unlimited. It does not see the answers made outside of
it, such as that of a failed request; a browser would hide these from the page.
"""

import re

from starlette.responses import Response
from starlette.types import Scope

from ledger.engine.http.machinery.headers import header, is_of_the_api

_METHODS = b"GET, HEAD, POST, PATCH, DELETE"

_REQUEST_HEADERS = (
    b"Authorization, Content-Type, Content-Encoding, Idempotency-Key, Ledger-Min-Position,"
    b" If-None-Match, Last-Event-ID, X-Request-Id"
)
"""The headers that a page may send, besides the attributes of a fact in binary mode."""

_ATTRIBUTE = re.compile(rb"ce-[a-z0-9]{1,64}")
_MOST_ATTRIBUTES = 64

_EXPOSED = b"Ledger-Position, ETag, Retry-After, Idempotency-Replayed, X-Request-Id"
"""The headers of an answer that the page may read, besides those that every page may read."""

_SECONDS = b"600"
"""How long a browser may rely on a preflight."""


class Cors:
    """The headers that allow a list of origins, at least one, to call the API."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers_of(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers of an answer; none for an origin that is not on the list."""
        origin = self._allowed(scope)
        if origin is None:
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a preflight of an allowed origin; None for any other request."""
        if (
            scope["method"] != "OPTIONS"
            or header(scope, b"access-control-request-method") is None
            or self._allowed(scope) is None
        ):
            return None
        requested = header(scope, b"access-control-request-headers") or b""
        names = [name.strip().lower() for name in requested.split(b",", _MOST_ATTRIBUTES)]
        attributes = filter(_ATTRIBUTE.fullmatch, names)
        answer = Response(status_code=204)
        answer.raw_headers += [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", b", ".join([_REQUEST_HEADERS, *attributes])),
            (b"access-control-max-age", _SECONDS),
        ]
        return answer

    def _allowed(self, scope: Scope) -> bytes | None:
        if not is_of_the_api(scope):
            return None
        origin = header(scope, b"origin")
        return origin if origin in self._origins else None
