"""``/mcp``: the reading tools for assistants (contract, Assistants), by the official SDK.

The tools are those of the Python client (``execution_ledger.mcp``). A call sends requests to the
routes of this same application, in the process, with the bearer token of the request. So
permissions, tenant isolation, shares, metrics and the audit of reads are those of the routes. The
module is loaded only where ``LEDGER_MCP`` is set: it needs the extra ``mcp``, and takes half a
second.

Each request is whole in itself: no session, no cookie, no stream from the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import httpx
import msgspec
from execution_ledger._async.transport import AsyncTransport
from execution_ledger._requests import Settings
from execution_ledger.mcp.server import create_server
from execution_ledger.mcp.tools import ToolLedger
from fastapi import Request, Response
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger import __version__
from ledger.engine.http import problems
from ledger.engine.http.lean import authenticate
from ledger.engine.http.machinery.bodies import media_type, read_capped, while_connected
from ledger.engine.http.machinery.headers import header, joined, token_of
from ledger.engine.http.machinery.shares import Share
from ledger.engine.values.errors import Forbidden, NotFound

PATH = "/mcp"
METADATA_PATH = "/.well-known/oauth-protected-resource"
"""RFC 9728: a client without a token finds the identity provider here."""

MAX_BYTES = 256 * 1024
"""The most bytes of a request, which holds a few short arguments."""

CALL_SECONDS = 10.0
"""The time limit of a request to a route, with its attempts."""

_THIS = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine."""

_NO_STORE = (b"cache-control", b"no-store")
_REPLACED = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"accept"})
"""Headers that no longer fit a body that was read, and the accepted types: responses are JSON,
whatever a client says."""
_ACCEPT = (b"accept", b"application/json, text/event-stream")


class _Message(msgspec.Struct):
    """A request or a notification of JSON-RPC. The library would refuse others in its own words."""

    jsonrpc: Literal["2.0"]
    method: str
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


_read_message = msgspec.json.Decoder(_Message).decode


class Assistants:
    """The ASGI application at ``/mcp``, and at the path of its metadata.

    ``app`` has the routes. ``public_url`` is the address at which clients reach the service; a
    request with another host is refused, as is one of a page of another origin. ``issuer`` is the
    identity provider; None if there are only API keys.
    """

    path = PATH
    """The name of the route in the metrics."""

    def __init__(
        self, app: ASGIApp, public_url: str, issuer: str | None, *, shows_payloads: bool
    ) -> None:
        self._app, self._shows_payloads = app, shows_payloads
        public = urlsplit(public_url)
        self._hosts = _hosts_of(public)
        self._origins = frozenset(f"{public.scheme}://{host}" for host in self._hosts)
        self._metadata: dict[str, Any] | None = None
        self._challenge = "Bearer"
        if issuer is not None:
            self._metadata = {
                "resource": f"{public_url}{PATH}",
                "resource_name": "Execution ledger",
                "authorization_servers": [issuer],
                "bearer_methods_supported": ["header"],
            }
            url = f"{public_url}{METADATA_PATH}{PATH}"
            self._challenge = f'Bearer resource_metadata="{url}"'
        self._metadata_paths = {f"{METADATA_PATH}{prefix}{PATH}" for prefix in ("", public.path)}
        # The library logs each request and each refusal, in addition to our own access log.
        logging.getLogger("mcp").setLevel(logging.ERROR)
        self._sessions = StreamableHTTPSessionManager(
            create_server(self._ledger_of, __version__),
            json_response=True,
            stateless=True,
            max_request_body_size=MAX_BYTES,
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve requests until the block ends."""
        begun, ended = asyncio.Event(), asyncio.Event()

        async def serve() -> None:
            async with self._sessions.run():
                begun.set()
                await ended.wait()

        # A task of its own: the task that entered the library's scope must leave it.
        serving = asyncio.create_task(serve())
        serving.add_done_callback(lambda _: begun.set())
        await begun.wait()
        try:
            yield
        finally:
            ended.set()
            await serving

    def serves(self, path: str) -> bool:
        return path == PATH or path in self._metadata_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. A refusal is a problem; a fault within the protocol is its error."""
        request = Request(scope, receive)

        async def send_unstored(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], _NO_STORE]
            await send(message)

        try:
            self._check(request)
            if scope["path"] != PATH:
                await self._described(request)(scope, receive, send_unstored)
            else:
                await self._exchange(request, send_unstored)
        except problems.REFUSALS as error:
            refusal = problems.as_refusal(error)
            headers: dict[str, str] = {}
            if isinstance(refusal, problems.MethodNotAllowed):
                headers["Allow"] = "POST" if scope["path"] == PATH else "GET, HEAD"
            answer = problems.problem(request, refusal, headers)
            if isinstance(refusal, problems.Unauthorized):
                answer.headers["WWW-Authenticate"] = self._challenge
            await answer(scope, receive, send_unstored)

    def _check(self, request: Request) -> None:
        """Raise Misdirected or Forbidden for a request that a foreign page may have caused.

        A page of another site, whose name its owner points to this machine, names its own host.
        """
        if (header(request.scope, b"host") or b"").decode("latin-1").lower() not in self._hosts:
            raise problems.Misdirected("The Host is not that of the service's public address.")
        origin = joined(request.scope, b"origin")
        if origin is not None and origin.decode("latin-1").lower() not in self._origins:
            raise Forbidden("Pages of other origins may not use the tools.")

    def _described(self, request: Request) -> Response:
        if self._metadata is None:
            raise NotFound("No resource has this path.")
        if request.method != "GET":
            raise problems.MethodNotAllowed("The path does not support this method.")
        return Response(json.dumps(self._metadata), media_type="application/json")

    async def _exchange(self, request: Request, send: Send) -> None:
        """Answer a client's message. Raises one of REFUSALS before the response."""
        if request.method != "POST":
            raise problems.MethodNotAllowed("The path does not support this method.")
        principal = await authenticate(request)
        state = request.scope["state"]
        state["credential"] = principal.id
        request.scope["route"] = self
        # A separate share: what calls read counts as reads, and must find room there.
        state["share"] = share = Share(request.app.state.services.shares.calls, principal)
        try:
            if media_type(request) != "application/json":
                raise problems.UnsupportedMediaType(
                    "Send the header Content-Type: application/json."
                )
            body = await read_capped(request, MAX_BYTES)
            if (answer := _refusal_of(body)) is not None:
                await answer(request.scope, request.receive, send)
                return
            headers = [pair for pair in request.scope["headers"] if pair[0] not in _REPLACED]
            scope = {**request.scope, "headers": [*headers, _ACCEPT]}
            await while_connected(
                self._sessions.handle_request(scope, _giving(body), send), request.receive
            )
        finally:
            share.end()

    def _ledger_of(self, context: ServerRequestContext[Any, Any]) -> ToolLedger:
        """The ledger as the bearer of the request's token sees it."""
        request = context.request
        assert isinstance(request, Request)
        settings = Settings("http://ledger", token_of(request), "", CALL_SECONDS)
        return ToolLedger(
            AsyncTransport(settings, _Inside(self._app, request)), self._shows_payloads
        )


class _Inside(httpx.AsyncBaseTransport):
    """Sends requests to the routes of this process on behalf of a request, under its id."""

    def __init__(self, app: ASGIApp, request: Request) -> None:
        client = (request.client.host, request.client.port) if request.client else ("", 0)
        self._request_id: str = request.state.request_id
        self._routes = httpx.ASGITransport(app, raise_app_exceptions=False, client=client)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["x-request-id"] = self._request_id
        request.headers["accept-encoding"] = "identity"
        return await self._routes.handle_async_request(request)


def _refusal_of(body: bytes) -> Response | None:
    """The refusal of a body that is no single message of JSON-RPC; None if it is one."""
    try:
        _read_message(body)
    except msgspec.ValidationError:
        code, words = -32600, "The body must be one request or notification of JSON-RPC 2.0."
    except (msgspec.DecodeError, RecursionError):
        code, words = -32700, "The body is no JSON."
    else:
        return None
    problem = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": words}}
    return Response(json.dumps(problem), 400, media_type="application/json")


def _giving(body: bytes) -> Receive:
    """A channel that gives a body which was read, and nothing after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


def _hosts_of(public: SplitResult) -> frozenset[str]:
    """The hosts that a request may name: the public one; for this machine each of its names."""
    port = f":{public.port}" if public.port is not None else ""
    host = public.netloc.removesuffix(port)
    return frozenset(f"{name}{port}" for name in (_THIS if host in _THIS else (host,)))
