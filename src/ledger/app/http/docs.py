"""`/docs`: the API as a page to read and to try, from this service alone (contract, Access).

FastAPI's own page loads its script from a public server. In a closed network that page is empty,
and the owner of that server could read the token that a user types in. ``fastapi-offline`` brings
the same files as a package; the Content-Security-Policy limits the page to these files.

The viewer is in the page's frame, and their styles would disturb each other. So the page's style is
in a cascade layer, below the viewer's, and does not reach into the viewer.
"""

from contextlib import suppress
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

from ledger.engine.http.problems import Unauthorized
from ledger.engine.page.pages import content_policy, show
from ledger.features.sign_in.page.session import visitor_of

router = APIRouter(include_in_schema=False)

_POLICY = content_policy("script-src 'self'", "img-src 'self' data:", "form-action 'self'")

_STYLE = """
@layer page, viewer;
@layer page {{
{page}
}}
/* Drawings keep their attributes, which count as styles. */
@layer viewer {{
#viewer, #viewer :not(svg, svg *) {{ all: revert; }}
}}
"""
_FRAME = _STYLE.format(
    page=(files("ledger.engine.page") / "static" / "page.css").read_text("utf-8")
)


def install(app: FastAPI) -> None:
    """Serve the viewer's files, without a token."""
    app.mount("/docs/static", StaticFiles(packages=[("fastapi_offline", "static")]), name="docs")


@router.get("/docs")
async def show_docs(request: Request) -> Response:
    """The viewer of the OpenAPI document; without a session, it has no navigation."""
    with suppress(Unauthorized):
        await visitor_of(request)
    response = show(request, "docs.html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@router.get("/ui/docs.css")
async def show_frame(request: Request) -> Response:
    """The page's style, in a layer below the viewer's."""
    return Response(_FRAME, media_type="text/css", headers={"Cache-Control": "no-cache"})
