"""Signing in at the identity provider, and its message that a session is over (contract, Sign-in).

    sign-in page ─▶ /ui/oidc/sign-in ─▶ provider ─▶ /ui/oidc/callback ─▶ the requested page

The provider redirects the browser to the callback from another site, so the browser sends no
strict cookie. So the callback's page links to the callback once more, like any link from elsewhere
(``arrival.html``): now the browser sends the cookie of its former session, which ends.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request, Response
from prometheus_client import Counter

from ledger.engine.http.machinery.bodies import read_capped
from ledger.engine.http.problems import REFUSALS, BadRequest, as_refusal
from ledger.engine.http.reading import services_of
from ledger.engine.http.writing import submit
from ledger.engine.log.vault import CannotOpen
from ledger.engine.page.addresses import here, own_page, with_parameter
from ledger.engine.page.navigation import home_of
from ledger.engine.page.pages import go, refusal_page, show
from ledger.engine.values.errors import Forbidden, LedgerError, NotFound, ReadOnly, Unavailable
from ledger.engine.values.principal import person
from ledger.engine.writer.command import RefusedWrite
from ledger.engine.writer.request import About
from ledger.features.sign_in.commands import EndSessionsOfProvider
from ledger.features.sign_in.model import REFUSED_ACTION
from ledger.features.sign_in.page import session
from ledger.features.sign_in.page.places import remembered

if TYPE_CHECKING:
    from ledger.features.sign_in.access.open_id import OpenIdProvider, SignedIn, SignInFlow

router = APIRouter(include_in_schema=False)

FLOW_SECONDS = 600
"""How long a sign-in at the provider may take."""

_MOST_FLOWS = 8
"""A browser's concurrent sign-ins; a further one drops the others."""

_MOST_PARAMETERS = 100

_LONGEST_NEXT = 2000
"""In bytes."""

_PURPOSE = "ui/flow"
_PATH = "/ui/oidc"
_LARGEST = 64 * 1024

_SIGN_INS = Counter(
    "ledger_sign_ins", "Sign-ins at the identity provider, by how they ended.", ["outcome"]
)
for _outcome in ("begun", "without_grant", "refused", "unavailable"):
    _SIGN_INS.labels(_outcome)


@router.get(f"{_PATH}/sign-in")
async def begin(request: Request) -> Response:
    """Redirect to the provider; a cookie keeps the values that its answer must match."""
    try:
        provider = _provider(request)
        next_page = request.query_params.get("next", "")
        if len(next_page.encode(errors="replace")) > _LONGEST_NEXT:
            next_page = ""  # a browser keeps no cookie of more than 4 KB
        expires = int(services_of(request).clock().timestamp()) + FLOW_SECONDS
        address, flow = await provider.begin(own_page(next_page) if next_page else "", expires)
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    response = go(address)
    flows = [name for name in request.cookies if name.startswith(_prefix(request))]
    for name in flows if len(flows) >= _MOST_FLOWS else ():
        _drop(request, response, name)
    sealed = services_of(request).vault.seal(_PURPOSE, msgspec.json.encode(flow))
    response.set_cookie(
        _cookie_of(request, flow.state),
        base64.urlsafe_b64encode(sealed).rstrip(b"=").decode(),
        max_age=FLOW_SECONDS,
        path=_PATH,
        httponly=True,
        samesite="lax",
        secure=services_of(request).is_public_by_https,
    )
    return response


@router.get(f"{_PATH}/callback")
async def finish(request: Request) -> Response:
    """Process the provider's answer; begin the session, and redirect."""
    from ledger.features.sign_in.access.open_id import SignInRefused

    name = None
    try:
        provider = _provider(request)
        answer = _parameters(request.url.query)
        if not answer.get("state"):
            raise SignInRefused("The identity provider's answer lacks its state.")
        flow = _flow_of(request, answer["state"])
        if session.comes_from_elsewhere(request):
            return _led_on(request, here(request))
        if services_of(request).only_reads:
            raise ReadOnly
        name = _cookie_of(request, answer["state"])
        response = await _signed_in(request, provider, flow, answer)
    except REFUSALS as error:
        refusal = as_refusal(error)
        _SIGN_INS.labels("refused" if isinstance(refusal, BadRequest) else "unavailable").inc()
        response = refusal_page(request, refusal)
    if name is not None:
        _drop(request, response, name)
    return response


async def _signed_in(
    request: Request, provider: "OpenIdProvider", flow: "SignInFlow", answer: Mapping[str, str]
) -> Response:
    from ledger.features.sign_in.access.open_id import SignInRefused

    sessions = session.sessions_of(request)
    signed_in = await provider.finish(flow, answer, sessions.refresher.wanted())
    try:
        claims = sessions.rules.grants.stored_claims(signed_in.claims)
    except ValueError as error:
        text = f"The identity provider sends too many details about you: {error}."
        raise SignInRefused(text) from error
    allowed = sessions.rules.grants.judge(claims)
    if not allowed:
        _SIGN_INS.labels("without_grant").inc()
        return await _without_grant(request, signed_in)
    access = allowed.get(remembered(request)) if len(allowed) > 1 else next(iter(allowed.values()))
    made = session.made_for(request)
    await sessions.begin_by_provider(signed_in, claims, access, made)
    _SIGN_INS.labels("begun").inc()
    if access is None:
        target = with_parameter("/ui/place", "next", flow.next or None)
    else:
        target = flow.next or home_of(person(signed_in.sub, access.permissions, *access.tenant))
    response = _led_on(request, target)
    session.keep(request, response, made.secret)
    return response


async def _without_grant(request: Request, signed_in: "SignedIn") -> Response:
    """Record that a person has no grant, and show the claims that a grant could use."""
    refusal = Forbidden("You are signed in, but nobody has given you access yet.")
    principal = person(signed_in.sub, ())
    about = About(REFUSED_ACTION)
    command = RefusedWrite(refusal, about, principal, request.state.request_id)
    for outcome in await submit(request, [command]):
        if isinstance(outcome, Unavailable):
            raise outcome
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in signed_in.claims.items()
    }
    # JSON may contain half of a character, which no page can show.
    claims = {
        part.encode(errors="replace").decode(): value.encode(errors="replace").decode()
        for part, value in texts.items()
    }
    return show(request, "no_grant.html", 403, claims=claims)


@router.post(f"{_PATH}/logout")
async def log_out(request: Request) -> Response:
    """End the sessions that a logout token names (OpenID Connect Back-Channel Logout 1.0)."""
    try:
        provider = _provider(request)
        form = _parameters((await read_capped(request, _LARGEST)).decode("ascii", "replace"))
        logout = await provider.logout_of(form.get("logout_token", ""))
        if logout is None:
            raise BadRequest("The logout token is not valid.")
        command = EndSessionsOfProvider(
            provider.config.issuer, logout.sub, logout.sid, logout.at, request.state.request_id
        )
        (outcome,) = await submit(request, [command])
        if isinstance(outcome, LedgerError):
            raise outcome
    except BadRequest as error:
        body = {"error": "invalid_request", "error_description": error.detail}
        return _plain(400, msgspec.json.encode(body))
    except REFUSALS as error:
        return refusal_page(request, as_refusal(error))
    return _plain(200, b"{}")


def _plain(status: int, body: bytes) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(body, status, headers=headers, media_type="application/json")


def _led_on(request: Request, address: str) -> Response:
    response = show(request, "arrival.html", next=address)
    # The address of this page has the provider's code.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _provider(request: Request) -> "OpenIdProvider":
    provider = session.sessions_of(request).rules.provider
    if provider is None:
        raise NotFound("There is no page at this address.")
    return provider


def _parameters(query: str) -> Mapping[str, str]:
    """The parameters of an answer. Raises BadRequest for a duplicate."""
    if query.count("&") >= _MOST_PARAMETERS:
        raise BadRequest("There are too many parameters.")
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("A parameter is given twice.")
    return values


def _prefix(request: Request) -> str:
    secure = services_of(request).is_public_by_https
    return "__Secure-ledger_flow_" if secure else "ledger_flow_"


def _cookie_of(request: Request, state: str) -> str:
    digest = hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()
    return f"{_prefix(request)}{digest[:12]}"


def _flow_of(request: Request, state: str) -> "SignInFlow":
    from ledger.features.sign_in.access.open_id import SignInFlow, SignInRefused

    try:
        value = request.cookies.get(_cookie_of(request, state), "")
        opened = services_of(request).vault.open(_PURPOSE, base64.urlsafe_b64decode(value + "=="))
        flow = msgspec.json.decode(opened, type=SignInFlow)
    except (binascii.Error, ValueError, CannotOpen, msgspec.MsgspecError):
        flow = None
    now = services_of(request).clock().timestamp()
    if flow is None or flow.state != state or flow.expires < now:
        raise SignInRefused(
            "This sign-in took more than 10 minutes, or began in another browser. Start again."
        )
    return flow


def _drop(request: Request, response: Response, name: str) -> None:
    secure = services_of(request).is_public_by_https
    response.delete_cookie(name, path=_PATH, httponly=True, samesite="lax", secure=secure)
