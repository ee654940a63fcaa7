"""The chooser of organizations, for a person who has grants in several."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.problems import REFUSALS, as_refusal
from ledger.engine.http.reading import services_of
from ledger.engine.page.addresses import HOME, own_page
from ledger.engine.page.navigation import home_of
from ledger.engine.page.pages import go, read_form, refusal_page, show
from ledger.engine.values.errors import NotFound
from ledger.features.sign_in.access.sessions import principal_in
from ledger.features.sign_in.page import session

router = APIRouter(include_in_schema=False)

_COOKIE = "ledger_place"
_YEAR = 365 * 86_400


class TenantForm(BaseModel):
    """The chosen organization, or a workspace of one; ``*`` for all."""

    model_config = ConfigDict(extra="forbid")

    form_key: str = Field(max_length=100)
    place: str = Field(max_length=200)
    next: str = Field(default="", max_length=8000)


def remembered(request: Request) -> tuple[str | None, str | None]:
    """The tenant last chosen in this browser; without one, a tenant that nobody has."""
    organization_id, _, workspace_id = request.cookies.get(_COOKIE, "?").partition("/")
    return (None, None) if organization_id == "*" else (organization_id, workspace_id or None)


@router.get("/ui/place")
async def ask(request: Request) -> Response:
    """The page on which a person chooses a tenant."""
    try:
        found = request.state.session = await session.session_of(request)
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    request.state.principal = found.visitor.principal
    chosen = request.query_params.get("next", "")
    return show(request, "place.html", next=own_page(chosen) if chosen else "")


@router.post("/ui/place")
async def choose(request: Request) -> Response:
    """Enter a tenant, and remember it in this browser."""
    try:
        found = request.state.session = await session.session_of(request)
        session.require_own_origin(request)
        form = await read_form(request, TenantForm)
        visitor = found.visitor
        by_name = {session.named(tenant): access for tenant, access in visitor.allowed.items()}
        access = by_name.get(form.place)
        if access is None:
            raise NotFound("You have no access there.")
        await session.sessions_of(request).enter(visitor, access, request.state.request_id)
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    home = home_of(principal_in(visitor.row, access))
    response = go(own_page(form.next) if form.next else home)
    response.set_cookie(
        _COOKIE,
        form.place,
        max_age=_YEAR,
        path=HOME,
        httponly=True,
        samesite="strict",
        secure=services_of(request).is_public_by_https,
    )
    return response
