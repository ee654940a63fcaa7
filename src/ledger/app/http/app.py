"""The HTTP application: its routes, its refusals, and the middleware of every response."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ledger import __version__
from ledger.app.features import routers
from ledger.app.http import operations
from ledger.engine.http import problems
from ledger.engine.http.document.compose import compose
from ledger.engine.http.lean import LeanRoute, Router
from ledger.engine.http.machinery.cors import Cors
from ledger.engine.http.machinery.headers import Packed
from ledger.engine.http.machinery.middleware import ResponseMiddleware, RootPath, answer_head
from ledger.engine.http.services import ApiServices
from ledger.engine.values.errors import Behind, LedgerError, NotFound, ReadOnly

if TYPE_CHECKING:
    # Only loaded where assistants are served.
    from ledger.app.http.assistants import Assistants


PROBES = ("/healthz", "/readyz", "/metrics")
"""The only paths on a node that does not serve requests (contract, Several nodes)."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_OURS = ("/v1", "/ui")
"""The API and the pages. Every node answers health and metrics."""

_FIXED = "/ui/static/"
"""Files that are a part of the code."""


def _nothing(request: Request) -> Response:
    return problems.problem(request, NotFound("No resource has this path."))


_Matched = tuple[Callable[[str], "re.Match[str] | None"], LeanRoute]
"""A route, and the function that matches it with a path."""


class LedgerApi(FastAPI):
    """FastAPI's application, with a shortcut past its layers to the lean routes."""

    def __init__(self, services: ApiServices, *, only_probes: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._only_probes = only_probes
        self.state.services = self.services = services
        origins = services.cors_origins
        self._cors = Cors(origins) if origins else None
        app = ResponseMiddleware(
            self._dispatch,
            services.positions,
            self._cors,
            only_https=services.is_public_by_https,
        )
        root_path = services.root_path
        self._every_answer: ASGIApp = RootPath(app, root_path) if root_path else app
        self._lean: defaultdict[str, list[_Matched]] = defaultdict(list)
        self.routers: list[Router] = []
        """The routers of the API, which the OpenAPI document describes."""
        self.assistants: Assistants | None = None
        """Serves assistants; None if no assistant is served."""
        self.answer_nothing: Callable[[Request], Response] = _nothing
        """Answers a request whose path can name no resource; the pages replace it by their own."""
        self.refuse: Callable[[Request, LedgerError], Response] = problems.problem
        """Answers a request that a read node refuses; the pages replace it for their paths."""

    @cached_property
    def document(self) -> Packed:
        """The OpenAPI document, encoded once: it depends on no request."""
        text = json.dumps(compose(self, self.routers), ensure_ascii=False, separators=(",", ":"))
        return Packed(text.encode(), "application/json")

    def add_routes(self, router: APIRouter) -> None:
        """Add a router's routes directly: an included router would be matched again, and twice."""
        self.router.routes.extend(router.routes)
        for route in router.routes:
            if isinstance(route, LeanRoute):
                for method in route.methods or ():
                    self._lean[method].append((route.path_regex.match, route))
        if isinstance(router, Router):
            self.routers.append(router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. ``ResponseMiddleware`` handles every HTTP response."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "HEAD":
            await answer_head(self._every_answer, scope, receive, send)
        else:
            await self._every_answer(scope, receive, send)

    def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._cors is not None and (answer := self._cors.preflight(scope)) is not None:
            return answer(scope, receive, send)
        scope["app"], path, services = self, scope["path"], self.services
        if services.only_reads:
            refusal = _refusal_of(scope, why_late=services.positions.why_late)
            if refusal is not None:
                return self.refuse(Request(scope), refusal)(scope, receive, send)
        if b"%" in scope["raw_path"] and _has_encoded_slash(scope):
            return self.answer_nothing(Request(scope))(scope, receive, send)
        if self._only_probes and path not in PROBES:
            return self.answer_nothing(Request(scope))(scope, receive, send)
        if self.assistants is not None and self.assistants.serves(path):
            return self.assistants(scope, receive, send)
        for matches, route in self._lean.get(scope["method"], ()):
            if found := matches(path):
                scope["path_params"] = found.groupdict()
                return route.serve(scope, receive, send)
        return super().__call__(scope, receive, send)


def _has_encoded_slash(scope: Scope) -> bool:
    """True if a name in the path contains a slash: no resource has such a name (contract, Access).

    The server decodes the path as a whole, so one name would become two. A proxy that allows paths
    by their prefix would read such a path differently.
    """
    raw: bytes = scope.get("raw_path") or b""
    return b"%" in raw and b"%2f" in raw.lower()


def _refusal_of(scope: Scope, *, why_late: str | None) -> LedgerError | None:
    """Why a read node refuses a request; None if it takes the request.

    ``why_late`` says why its standby is too far behind to answer any read; None if it is not.
    """
    path: str = scope["path"]
    if not any(path == prefix or path.startswith(f"{prefix}/") for prefix in _OURS):
        return None
    if scope["method"] not in _READING:
        return ReadOnly()
    if why_late is not None and not path.startswith(_FIXED):
        return Behind(f"The standby of this node is more than five seconds behind: {why_late}.")
    return None


def create_app(
    services: ApiServices,
    running: Callable[[ApiServices], AbstractAsyncContextManager[Any]] = nullcontext,
    *,
    only_probes: bool = False,
) -> LedgerApi:
    """Return the application over one process's services; it opens and closes the services.

    While they are open, those of features are ``running``. With ``only_probes``, the application
    serves only the paths of ``PROBES``.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await services.open()
        except Exception as error:
            services.failure = error
            raise
        try:
            serving = nullcontext() if app.assistants is None else app.assistants.run()
            async with running(services), serving:
                yield
        finally:
            await services.close()

    app = LedgerApi(
        services,
        only_probes=only_probes,
        title="Execution ledger",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for router in (*routers(), operations.router):
        app.add_routes(router)
    return app
