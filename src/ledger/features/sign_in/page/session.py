"""The session of a browser: a cookie with a random secret, whose hash is in the database.

Scripts cannot read the cookie, and the browser sends it only with requests from our own pages
(``SameSite=Strict``). The API ignores it. Each form contains a form key, made of the secret and the
shown tenant. A request from another site has neither, and a form of a tenant that was left changes
nothing in the entered one.
"""

import hmac
from typing import Any
from urllib.parse import urlsplit

import msgspec
from fastapi import Request, Response

from ledger.engine.http.machinery.headers import address_of
from ledger.engine.http.problems import Unauthorized
from ledger.engine.http.reading import services_of
from ledger.engine.values.errors import Forbidden
from ledger.engine.values.principal import Principal
from ledger.features.sign_in.access.sessions import Made, Sessions, Visitor, hash_of, new_secret

COOKIE = "ledger_session"

_BY_HTTPS = ".s"
"""The suffix of a cookie from a sign-in by https, which later requests may not show."""

_SAFE = frozenset({"GET", "HEAD"})


class TenantNotChosen(Unauthorized):
    """The person has grants in several tenants, and has not chosen one yet."""


class BrowserSession(msgspec.Struct, frozen=True):
    """The session of a browser that has signed in."""

    visitor: Visitor
    secret: str
    secure: bool

    @property
    def form_key(self) -> str:
        """The text in every form of this session, for the shown tenant."""
        row = self.visitor.row
        tenant = named(row.tenant) if row.permissions else "?"
        return hmac.digest(self.secret.encode(), f"form|{tenant}".encode(), "sha256").hex()

    def require_form_key(self, sent: str) -> None:
        """Raise Forbidden for a form that was not made for this session and tenant."""
        if not hmac.compare_digest(sent.encode(), self.form_key.encode()):
            raise Forbidden("This form has expired. Open the page again.")


def named(tenant: tuple[str | None, str | None]) -> str:
    """An organization, or a workspace of it, as the chooser names it; ``*`` for all tenants."""
    return "/".join(filter(None, tenant)) or "*"


def tenant_name(principal: Principal) -> str:
    """The tenant of a credential, as the chooser names it."""
    return named((principal.organization_id, principal.workspace_id))


def sessions_of(request: Request) -> Sessions:
    return services_of(request).of(Sessions)


def cookie_name(request: Request) -> str:
    """The cookie's name: over https, one that no other host and no http page may set."""
    return f"__Host-{COOKIE}" if services_of(request).is_public_by_https else COOKIE


def _cookie(request: Request) -> tuple[str, bool]:
    value = request.cookies.get(cookie_name(request), "")
    return value.removesuffix(_BY_HTTPS), value.endswith(_BY_HTTPS)


async def session_of(request: Request) -> BrowserSession:
    """The request's session. Raises Unauthorized without one, or if it has ended."""
    secret, secure = _cookie(request)
    visitor = await sessions_of(request).visitor(secret, address_of(request))
    return BrowserSession(visitor, secret, secure)


async def visitor_of(request: Request) -> Principal:
    """The session's principal. Raises Unauthorized, or Forbidden for another site's request."""
    found = await session_of(request)
    require_own_origin(request)
    principal = found.visitor.principal
    if principal is None:
        raise TenantNotChosen("Choose an organization first.")
    request.state.session, request.state.principal = found, principal
    return principal


async def session_to_end(request: Request) -> BrowserSession:
    """The request's session, even while the person's rights are unknown.

    Raises Unauthorized without one, or if it has ended.
    """
    secret, secure = _cookie(request)
    row = await sessions_of(request).row_of(secret)
    return BrowserSession(Visitor(row, None, {}), secret, secure)


def values_of(request: Request) -> dict[str, Any]:
    found: BrowserSession | None = getattr(request.state, "session", None)
    principal: Principal | None = getattr(request.state, "principal", None)
    return {
        "form_key": None if found is None else found.form_key,
        "tenants_granted": () if found is None else sorted(map(named, found.visitor.allowed)),
        "tenant_entered": None if principal is None else tenant_name(principal),
    }


def made_for(request: Request) -> Made:
    return Made(
        new_secret(),
        hash_of(_cookie(request)[0]),
        request.headers.get("user-agent", ""),
        address_of(request),
        request.state.request_id,
    )


def keep(request: Request, response: Response, secret: str) -> None:
    services = services_of(request)
    # Behind a proxy that ends TLS, only the browser's Origin header shows that TLS is used.
    is_https = request.headers.get("origin", "").startswith("https://")
    secure = services.is_public_by_https or is_https
    response.set_cookie(
        cookie_name(request),
        secret + (_BY_HTTPS if secure else ""),
        max_age=int(sessions_of(request).rules.seconds),
        path="/",
        httponly=True,
        samesite="strict",
        secure=secure,
    )


def forget(request: Request, response: Response) -> None:
    response.delete_cookie(
        cookie_name(request),
        path="/",
        httponly=True,
        samesite="strict",
        secure=services_of(request).is_public_by_https,
    )


def require_own_origin(request: Request) -> None:
    """Raise Forbidden for a request that changes something and comes from another site's page."""
    if request.method in _SAFE:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        own = site == "same-origin"
    else:
        own = origin is None or _host_of(origin) == request.headers.get("host")
    if not own:
        raise Forbidden("The request came from another site.")


def comes_from_elsewhere(request: Request) -> bool:
    """True if a link on another site led here: the browser then sends no ``Strict`` cookie."""
    headers = request.headers
    return (
        request.method == "GET"
        and headers.get("sec-fetch-site") == "cross-site"
        and headers.get("sec-fetch-mode") == "navigate"
    )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
