"""All pages, as one addition to the application of the API."""

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ledger.api.app import LedgerApi
from ledger.domain.errors import NotFound
from ledger.web import audit, board, events, jump, line, run, sign_in, webhooks
from ledger.web.pages import make_ready, refusal_page

PAGES = (
    sign_in.router,
    sign_in.signed_in,
    board.router,
    line.router,
    run.router,
    events.router,
    audit.router,
    webhooks.router,
    jump.router,
)

_NO_PAGE = "There is no such page."

_unknown = APIRouter(include_in_schema=False)


class _Static(StaticFiles):
    """Files whose address changes with their content: a browser asks for each once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file. Raises HTTPException where there is none."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


@_unknown.get("/ui/{path:path}")
async def show_nothing(request: Request, path: str) -> Response:
    """Nothing is at any other address below ``/ui``."""
    return refusal_page(request, NotFound(_NO_PAGE))


def add_pages(app: LedgerApi) -> None:
    """Put the pages beside the API."""
    make_ready()
    answer_elsewhere = app.answer_nothing

    def answer_nothing(request: Request) -> Response:
        if request.scope["path"].startswith("/ui/"):
            return refusal_page(request, NotFound(_NO_PAGE))
        return answer_elsewhere(request)

    app.answer_nothing = answer_nothing
    app.mount("/ui/static", _Static(packages=[("ledger.web", "static")]), name="static")
    for router in PAGES:
        app.add_routes(router)
    app.add_routes(_unknown)
