"""Signing in with a token, signing out, and the front page."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import parse_query
from ledger.engine.http.machinery.bodies import read_capped
from ledger.engine.http.machinery.headers import address_of
from ledger.engine.http.problems import REFUSALS, Unauthorized, as_refusal, status_of
from ledger.engine.http.reading import services_of
from ledger.engine.page.addresses import HOME, own_page
from ledger.engine.page.navigation import home_of
from ledger.engine.page.pages import go, read_form, refusal_page, show
from ledger.engine.values.errors import RateLimited
from ledger.features.sign_in.page import session
from ledger.features.sign_in.page.refused import sign_in_page

router = APIRouter(include_in_schema=False)

_LARGEST = 16 * 1024

_UNKNOWN_TOKEN = (
    "This token is unknown or was revoked. A key that has expired is refused too."
    " Paste the whole token; it begins with elk_."
)
_REFUSED_TOKEN = (
    "This token has expired, or this service does not accept it. Paste the whole token."
)
_OFF = "Signing in with a token is turned off here."


class SignIn(BaseModel):
    """The fields of the sign-in form."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=8192)
    next: str = Field(default="", max_length=8000)


class SignOut(BaseModel):
    """The field of the sign-out form."""

    form_key: str


@router.get("/")
async def front_page(request: Request) -> Response:
    """The sign-in page; a visitor with a session is redirected to the board."""
    try:
        await session.session_of(request)
    except Unauthorized:
        return sign_in_page(request, next="", reason=None)
    except REFUSALS as error:
        # A person may sign in anew while the rights of the former session are unknown.
        refusal = as_refusal(error)
        return sign_in_page(request, status_of(refusal), next="", reason=refusal.detail)
    return go(HOME)


@router.get("/ui/")
@router.get("/ui/sign-in")
@router.get("/ui/sign-out")
@router.get("/ui/zone")
@router.get("/ui/theme")
@router.get("/ui/columns")
@router.get("/ui/views")
async def begin(request: Request) -> Response:
    """Redirect the address of a form, opened as a page, and ``/ui/`` to the front page."""
    return go("/")


@router.post("/ui/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session for the token in the form; a token is never part of an address."""
    target = token = ""
    services, sessions = services_of(request), session.sessions_of(request)
    try:
        session.require_own_origin(request)
        form = parse_query(await read_capped(request, _LARGEST), SignIn)
        assert isinstance(form, SignIn)
        target = own_page(form.next) if form.next else ""
        if not sessions.rules.allows_tokens:
            return refusal_page(request, Unauthorized(_OFF), next=target)
        token = form.token.strip()
        principal = await services.authenticator.authenticate(token, address_of(request))
        made = session.made_for(request)
        await sessions.begin_by_token(principal, token, made)
    except Unauthorized:
        reason = _REFUSED_TOKEN if token.count(".") == 2 else _UNKNOWN_TOKEN
        return refusal_page(request, Unauthorized(reason), next=target)
    except RateLimited as error:
        return sign_in_page(request, status_of(error), next=target, reason=error.detail)
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    response = go(target or home_of(principal))
    session.keep(request, response, made.secret)
    return response


@router.post("/ui/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session, then that of the identity provider if it offers this."""
    sessions = session.sessions_of(request)
    try:
        found = request.state.session = await session.session_to_end(request)
        session.require_own_origin(request)
        await read_form(request, SignOut)
        id_token = await sessions.end_own(
            found.visitor, found.visitor.row.session_id, request.state.request_id
        )
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    provider, address = sessions.rules.provider, None
    if provider is not None and found.visitor.row.by == "provider":
        address = await provider.end_address(id_token)
    request.state.session = None
    # After a form, a browser follows redirects only to our own pages.
    response = go("/") if address is None else show(request, "arrival.html", next=address)
    session.forget(request, response)
    return response
