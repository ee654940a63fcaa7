"""Signing in and out, and the front page."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.api.access.authentication import address_of
from ledger.api.lean import needs, parse_query
from ledger.api.machinery.bodies import read_capped
from ledger.api.problems import REFUSALS, Unauthorized, as_refusal
from ledger.api.reading import Asking, Present, services_of
from ledger.web import session
from ledger.web.addresses import HOME, START, own_page
from ledger.web.key_forms import PERMISSIONS
from ledger.web.pages import PageRoute, go, home_of, refusal_page, show

router = APIRouter(include_in_schema=False)
signed_in = APIRouter(include_in_schema=False, route_class=PageRoute)

_LARGEST = 16 * 1024

_NOT_KNOWN = (
    "This token is unknown or was revoked. A key that has expired is refused too."
    " Paste the whole token; it begins with elk_."
)
_NOT_TAKEN = "This token has expired, or this service does not accept it. Paste the whole token."
_TOO_LONG = f"This token is too long. The limit is {session.LONGEST_TOKEN} characters."


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
        session.session_of(request)
    except Unauthorized:
        return show(request, "sign_in.html", next="", reason=None)
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
    try:
        session.require_own_origin(request)
        form = parse_query(await read_capped(request, _LARGEST), SignIn)
        assert isinstance(form, SignIn)
        target = own_page(form.next) if form.next else ""
        token = form.token.strip()
        if len(token) > session.LONGEST_TOKEN:
            return refusal_page(request, Unauthorized(_TOO_LONG), next=target)
        principal = await services_of(request).authenticator.authenticate(
            token, address_of(request)
        )
    except Unauthorized:
        reason = _NOT_TAKEN if token.count(".") == 2 else _NOT_KNOWN
        return refusal_page(request, Unauthorized(reason), next=target)
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    response = go(target or home_of(principal))
    session.keep(request, response, session.begin(request, token))
    return response


@signed_in.get(START, openapi_extra=needs(None))
async def show_start(asking: Asking, query: Present) -> Response:
    """The permissions of a credential that may open no other page, and its first fact."""
    may = asking.principal.permissions
    return show(
        asking.request,
        "start.html",
        may=[text for permission, text in PERMISSIONS.items() if permission in may],
        may_report=not may.isdisjoint({"write", "admin"}),
    )


@signed_in.post("/ui/sign-out", openapi_extra=needs(None))
async def sign_out(form: SignOut) -> Response:
    """End the session in this browser."""
    response = go("/")
    session.forget(response)
    return response
