"""The pages, added to the application of the API."""

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from ledger.app.features import FEATURES, page_routers
from ledger.app.http import docs
from ledger.app.http.app import LedgerApi
from ledger.engine.page.frame import Frame
from ledger.engine.page.pages import refusal_page, templates_of
from ledger.engine.values.errors import LedgerError, NotFound
from ledger.features.feed.names import names_of_managed
from ledger.features.feed.page.actions import label_of
from ledger.features.sign_in.page import refused, session
from ledger.features.sign_in.persons import persons_of
from ledger.features.watches.page.bell import bell_of

FRAME = Frame(
    templates=templates_of(
        *(f"ledger.features.{feature.name}.page" for feature in FEATURES if feature.pages)
    ),
    visitor_of=session.visitor_of,
    session_values=session.values_of,
    sign_in=refused.sign_in,
    sign_in_again=refused.sign_in_again,
    persons_of=persons_of,
    bell_of=bell_of,
    label_of=label_of,
    names_of_managed=names_of_managed,
)
"""The parts of every page that features bring."""

_NO_PAGE = "There is no page at this address."

_unknown = APIRouter(include_in_schema=False)


class _Static(StaticFiles):
    """Static files. Their addresses change with their content, so a browser requests each once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file. Raises HTTPException for an unknown path."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


@_unknown.get("/ui/{path:path}")
async def show_nothing(request: Request, path: str) -> Response:
    """Answer every unknown address below ``/ui`` with the page of a 404."""
    return refusal_page(request, NotFound(_NO_PAGE))


def make_ready() -> None:
    """Compile every template at start, so that the first visitor need not wait for it."""
    for name in FRAME.templates.list_templates():
        FRAME.templates.get_template(name)


def add_pages(app: LedgerApi) -> None:
    make_ready()
    app.state.frame = FRAME
    answer_elsewhere, refuse_elsewhere = app.answer_nothing, app.refuse

    def answer_nothing(request: Request) -> Response:
        if request.scope["path"].startswith("/ui/"):
            return refusal_page(request, NotFound(_NO_PAGE))
        return answer_elsewhere(request)

    def refuse(request: Request, error: LedgerError) -> Response:
        is_page = f"{request.scope['path']}/".startswith("/ui/")
        return (refusal_page if is_page else refuse_elsewhere)(request, error)

    app.answer_nothing, app.refuse = answer_nothing, refuse
    docs.install(app)
    app.mount("/ui/static", _Static(packages=[("ledger.engine.page", "static")]), name="static")
    for router in (*page_routers(), docs.router, _unknown):
        app.add_routes(router)
