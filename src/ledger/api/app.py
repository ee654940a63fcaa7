"""The HTTP application: routers, refusals, the headers of every answer."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.types import Receive, Scope, Send

from ledger import __version__
from ledger.api import problems
from ledger.api.documentation import PROBLEM_SCHEMA, without_null_defaults
from ledger.api.fact_schema import FACT_SCHEMAS
from ledger.api.lean import LeanRoute
from ledger.api.machinery.compression import Compression
from ledger.api.machinery.head import answer_head
from ledger.api.machinery.middleware import EveryAnswer
from ledger.api.models import FactBatchAnswer
from ledger.api.routes import (
    audit,
    docs,
    event_types,
    executions,
    exports,
    facts,
    feeds,
    operations,
    proofs,
    runs,
    stories,
    streams,
    webhooks,
)
from ledger.api.services import ApiServices
from ledger.domain.errors import NotFound

_ABOUT = """
The whole truth about work in progress: product lines report facts, the log keeps them for ever,
the views answer. Every answer carries `Ledger-Position`; send it back as `Ledger-Min-Position` to
read at least that far.
"""


# Streams before feeds: an event's path would take theirs for an id.
ROUTED = (
    facts,
    executions,
    runs,
    stories,
    streams,
    feeds,
    event_types,
    webhooks,
    audit,
    exports,
    proofs,
    operations,
)


def _nothing(request: Request) -> Response:
    """The answer where nothing can be."""
    return problems.problem(request, NotFound("There is nothing here."))


class LedgerApi(FastAPI):
    """FastAPI's application, with a shorter way to the routes that need none of its layers."""

    def __init__(self, services: ApiServices, **options: Any) -> None:
        super().__init__(**options)
        self.state.services = services
        self._every_answer = EveryAnswer(Compression(self._dispatch), services.positions)
        self._lean: list[LeanRoute] = []
        self.answer_nothing: Callable[[Request], Response] = _nothing
        """Answers a request whose path cannot name anything; pages put their own in its place."""

    def add_routes(self, router: APIRouter) -> None:
        """Take a router's routes as they are: an included router is matched anew, and twice."""
        self.router.routes.extend(router.routes)
        self._lean += [route for route in router.routes if isinstance(route, LeanRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every answer goes through one place, whoever gives it."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "HEAD":
            await answer_head(self._every_answer, scope, receive, send)
        else:
            await self._every_answer(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _has_encoded_slash(scope):
            scope["app"] = self
            await self.answer_nothing(Request(scope))(scope, receive, send)
            return
        for route in self._lean:
            if route.takes(scope):
                scope["app"] = self
                await route.serve(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _has_encoded_slash(scope: Scope) -> bool:
    """Whether a name in the path has a slash in it: nothing has such a name (contract 7).

    The server decodes the path as a whole, and one name becomes two. A proxy that lets only some
    paths through, by how they begin, reads them otherwise.
    """
    raw: bytes = scope.get("raw_path") or b""
    return b"%" in raw and b"%2f" in raw.lower()


def create_app(services: ApiServices) -> LedgerApi:
    """The application over one process's services, which it opens and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await services.open()
        try:
            yield
        finally:
            await services.close()

    app = LedgerApi(
        services,
        title="Execution ledger",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    docs.install(app)
    for module in ROUTED:
        app.add_routes(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the schemas of the bodies that the routes parse themselves."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        problem = dict(PROBLEM_SCHEMA)
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        batch = FactBatchAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(batch.pop("$defs", {}))
        schemas["FactBatchAnswer"] = batch
        schemas.update(FACT_SCHEMAS)
        event_types.describe(schemas)
        # Generators of clients name classes by titles, and give up where two are alike.
        document["components"]["schemas"] = {
            name: {**schema, "title": name} for name, schema in schemas.items()
        }
        app.openapi_schema = without_null_defaults(document)
    return app.openapi_schema
