"""The page of a person's own sessions, with forms to end them."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Present, ReadRequest
from ledger.engine.page.pages import PageRoute, go, show
from ledger.engine.values.principal import EVERYONE
from ledger.features.sign_in.access.session_rows import OWN, session_view
from ledger.features.sign_in.page import session

router = APIRouter(include_in_schema=False, route_class=PageRoute)


class EndSessionForm(BaseModel):
    """The field of the form that ends a session."""

    model_config = ConfigDict(extra="forbid")

    form_key: str = Field(max_length=100)


@router.get("/ui/sessions", openapi_extra=needs(None))
async def show_sessions(request: ReadRequest, query: Present) -> Response:
    """The sessions of the signed-in person, in all browsers."""
    services, own = request.services, request.http.state.session.visitor.row
    # A person sees their own sessions, whatever tenant they have chosen in each.
    values = {
        "sub": own.sub,
        "issuer": own.issuer,
        "now": services.clock(),
        "idle": session.sessions_of(request.http).rules.idle,
    }
    rows = await services.pool.fetch(EVERYONE, OWN, values)
    views = [session_view(row) for row in rows]
    return show(request.http, "sessions.html", sessions=views, own=own.session_id)


@router.get("/ui/sessions/{session_id}/end", openapi_extra=needs(None))
async def lead_back(request: ReadRequest, session_id: str) -> Response:
    """Redirect the address of a form, opened as a page."""
    return go("/ui/sessions")


@router.post("/ui/sessions/{session_id}/end", openapi_extra=needs(None))
async def end_session(request: ReadRequest, session_id: str, form: EndSessionForm) -> Response:
    """End one of the person's own sessions."""
    http = request.http
    visitor = http.state.session.visitor
    await session.sessions_of(http).end_own(visitor, session_id, http.state.request_id)
    if session_id != visitor.row.session_id:
        return go("/ui/sessions")
    response = go("/")
    session.forget(http, response)
    return response
