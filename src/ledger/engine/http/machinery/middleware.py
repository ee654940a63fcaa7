"""Middleware of every request and answer, whichever route answers (contract, Access).

``RootPath`` is around everything else. ``answer_head`` makes HEAD of GET. ``ResponseMiddleware``
compresses, adds the headers (the request id, the position, and the rules for caches and browsers)
and counts.
"""

import logging
import random
import re
import time
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from prometheus_client import REGISTRY, Histogram
from prometheus_client.core import Metric
from starlette.middleware.gzip import GZipResponder
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.engine.http.machinery.cors import Cors
from ledger.engine.http.machinery.headers import (
    HEADERS,
    count,
    is_of_the_api,
    packer_of,
    weak,
)
from ledger.engine.http.problems import BadRequest, InternalError, problem
from ledger.engine.reads.positions import ViewPositions
from ledger.engine.telemetry.lines import REQUEST_ID

_logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

_HOST = re.compile(
    rb"""(?:\[(?:(?P<ip6>[0-9A-Fa-f:.]+)|[vV][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]"""
    rb"""|(?:[\w.~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})++)(?::[0-9]*)?"""
)
"""A host with an optional port (RFC 9110, 7.2; RFC 3986, 3.2.2)."""

_IS_HEAD = "ledger.is_head"

_COOKIE_PATH = re.compile(rb"(; path=)(/[^;]*)", re.IGNORECASE)

_WITHOUT_ROUTE = frozenset({400, 401, 404, 405})
"""Statuses that anybody can cause on each route. A process never drops a series, so with routes
among the labels a stranger could make the metrics expensive (contract, Health)."""


def _request_seconds(*labels: str) -> Histogram:
    return Histogram(
        "ledger_http_request_seconds",
        "Requests that were answered, and the seconds until their answers began.",
        labels,
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        registry=None,
    )


_OF_ROUTES = _request_seconds("route", "method", "status")
_OF_REFUSED = _request_seconds("method", "status")
"""Of the same name: the processes' files are added up by name and labels."""


class _RequestSeconds:
    """Both histograms as one family, for a process that runs alone and keeps no files."""

    def collect(self) -> list[Metric]:
        (family,), (refused,) = _OF_ROUTES.collect(), _OF_REFUSED.collect()
        family.samples += refused.samples
        return [family]


REGISTRY.register(_RequestSeconds())


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE"})
"""Methods that some route supports; the metrics count all others as "other". HTTP has some thirty,
and a client could cause a time series for each method and route."""


_Headers = Mapping[bytes, bytes]

_OF_OTHERS: _Headers = {
    b"vary": b"Accept-Encoding",
    # A browser must not take an answer of another content type for a page or a script.
    b"x-content-type-options": b"nosniff",
}
"""For pages and files, which set their own rules for caches (``web``)."""

_OF_THE_API: _Headers = {
    **_OF_OTHERS,
    b"vary": b"Authorization, Accept-Encoding, Origin",
    b"cache-control": b"private, no-cache",
}
"""For the API. An answer depends on the credential, and may change at any time: a client may cache
it, and revalidates it (``If-None-Match``) before the next use."""

_SECRET: _Headers = {**_OF_THE_API, b"cache-control": b"no-store"}
"""For an answer with a secret, which is shown once: no cache may keep it."""

_EXACT: _Headers = {**_OF_THE_API, b"cache-control": b"private, no-cache, no-transform"}
"""For an answer that no proxy may change."""


_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""For a year, a browser that came by https uses nothing else. (One that came by http ignores it.)
Other hosts of the domain are not ours, so the header leaves them out."""


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have the application answer a GET, and pass on only the start of the answer.

    HEAD is the answer of GET without its body (RFC 9110, 9.3.2), on every path that supports GET. A
    streamed answer sees its reader disconnect.
    """

    async def send_start(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})
        elif message.get("more_body"):
            raise ClientDisconnect

    # The server keeps the scope with HEAD in it, and therefore sends no body.
    await app({**scope, "method": "GET", _IS_HEAD: True}, receive, send_start)


def is_head(scope: Scope) -> bool:
    """True if the answer will be sent without its body."""
    return _IS_HEAD in scope


class ResponseMiddleware:
    """ASGI middleware. The request id comes from ``X-Request-Id`` when that is a plain token."""

    def __init__(
        self, app: ASGIApp, positions: ViewPositions, cors: Cors | None, *, only_https: bool
    ) -> None:
        self._app = app
        self._only_https = only_https
        self._positions = positions
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what the application sends passes one function, whatever the answer needs."""
        headers = scope[HEADERS] = dict(reversed(scope["headers"]))
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%032x" % random.getrandbits(128)
        state = scope.setdefault("state", {})
        state["request_id"] = text = request_id.decode()
        REQUEST_ID.set(text)
        started = time.perf_counter()
        packer: GZipResponder | None = None
        answered = False

        def send_with_headers(message: Message) -> Awaitable[None]:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._begin(scope, message, request_id)
                status, route = message["status"], scope.get("route")
                path = None if status in _WITHOUT_ROUTE else getattr(route, "path", "none")
                _seconds_of(path, scope["method"], status).observe(time.perf_counter() - started)
            return send(message)

        async def send_weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs: list[tuple[bytes, bytes]] = message["headers"]
                if (b"content-encoding", b"gzip") in pairs:
                    pairs[:] = [(n, weak(v) if n == b"etag" else v) for n, v in pairs]
            await send_with_headers(message)

        def send_packed(message: Message) -> Awaitable[None]:
            nonlocal packer
            if message["type"] == "http.response.start":
                packer = packer_of(scope, message, self._app)
                if packer is None:
                    return send_with_headers(message)
                packer.send = send_weakened
            return (send if packer is None else packer.send_with_compression)(message)

        try:
            host, is_single = headers.get(b"host"), len(headers) == len(scope["headers"])
            if host and _is_host(host) and (is_single or count(scope, b"host") == 1):
                await self._app(scope, receive, send_packed)
            else:
                # Two servers on the way may read different hosts from such a request.
                refusal = BadRequest(
                    "The request must have exactly one Host header, with a host and perhaps a port."
                )
                closing = {"Connection": "close"}
                await problem(Request(scope), refusal, closing)(scope, receive, send_with_headers)
        except ClientDisconnect:
            _logger.info("a request was broken off by its client")
        except Exception:
            _logger.exception("request %s could not be answered", text)
            if answered:
                raise
            failure = InternalError(
                "The service failed; its log has the error under this request_id."
            )
            await problem(Request(scope), failure)(scope, receive, send_with_headers)

    def _begin(self, scope: Scope, start: Message, request_id: bytes) -> None:
        """Add ours to the headers of an answer's start; of the same name, ours replace others."""
        headers: list[tuple[bytes, bytes]] = start["headers"]
        state, ours = scope["state"], _OF_THE_API
        if not scope["path"].startswith("/v1/") and not is_of_the_api(scope):
            ours = _OF_OTHERS
        elif state.get("is_exact"):
            ours = _EXACT
        elif state.get("holds_secret"):
            ours = _SECRET
        names = {name for name, _ in headers}
        if not ours.keys().isdisjoint(names):
            headers[:] = [pair for pair in headers if pair[0] not in ours]
        headers += ours.items()
        if start["status"] == 408:
            # The rest of the body may still arrive, in front of the next request.
            headers.append((b"connection", b"close"))
        headers.append((b"x-request-id", request_id))
        if self._only_https:
            headers.append(_STRICT_TRANSPORT)
        if self._cors is not None:
            headers += self._cors.headers_of(scope)
        # A 503 is not the earlier answer: the replayed command's subject could not be read.
        if state.get("replayed") and start["status"] != 503:
            headers.append((b"idempotency-replayed", b"true"))
        if b"ledger-position" not in names:
            headers.append((b"ledger-position", b"%d" % self._positions.last_announced))


@lru_cache(64)
def _is_host(value: bytes) -> bool:
    found = _HOST.fullmatch(value.strip(b" \t"))
    try:
        return found is not None and bool(not found["ip6"] or IPv6Address(found["ip6"].decode()))
    except AddressValueError:
        return False


@lru_cache(1000)
def _seconds_of(path: str | None, method: str, status: int) -> Histogram:
    named = method if method in _METHODS else "other"
    if path is None:
        return _OF_REFUSED.labels(named, status)
    return _OF_ROUTES.labels(path, named, status)


class RootPath:
    """ASGI middleware for a service below a path prefix of a proxy (contract, Access).

    Some proxies strip the prefix from a request's path, others pass it on: both are accepted. All
    code behind this class sees and writes addresses without it. This class adds it to the addresses
    in an answer's headers, ``engine/page/pages.py`` to those in pages.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self._raw = prefix.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_prefixed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._prefixed(name, value)) for name, value in message["headers"]
                ]
            await send(message)

        path = without_prefix(scope["path"], self._prefix)
        await self._app({**scope, "path": path}, receive, send_prefixed)

    def _prefixed(self, name: bytes, value: bytes) -> bytes:
        if name == b"location" and value.startswith(b"/"):
            return self._raw + value
        # A browser takes a cookie of this name for the whole host alone.
        if name == b"set-cookie" and not value.startswith(b"__Host-"):
            return _COOKIE_PATH.sub(self._widened, value)
        return value

    def _widened(self, found: re.Match[bytes]) -> bytes:
        # Not "/ledger/": the address of the front page may be "/ledger".
        return found[1] + self._raw + (b"" if found[2] == b"/" else found[2])


def without_prefix(path: str, prefix: str) -> str:
    """The path without the prefix, if it has it."""
    if path == prefix:
        return "/"
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
