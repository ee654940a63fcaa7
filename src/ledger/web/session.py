"""The session: the visitor's token, in a cookie that only this service can read.

The cookie holds the token, encrypted under the master key. Scripts cannot read the cookie, and the
browser sends it only with requests from our own pages (``SameSite=Strict``). The API ignores it.
A session has a form key, which every form of the session contains. A request that another site
makes has neither cookie nor form key.
"""

import base64
import binascii
import hmac
import secrets
from datetime import datetime
from urllib.parse import urlsplit

import msgspec
from fastapi import Request, Response

from ledger.api.problems import Unauthorized
from ledger.api.reading import services_of
from ledger.domain.errors import Forbidden
from ledger.log.vault import CannotOpen

COOKIE = "ledger_session"

SESSION_SECONDS = 12 * 3600
"""A session ends this long after its last use. An open page counts as use when it refreshes."""

LONGEST_TOKEN = 2800
"""In characters. A longer token, once encrypted, exceeds the 4 KB that browsers allow a cookie."""

_PURPOSE = "ui/session"
_SAFE = frozenset({"GET", "HEAD"})


class Session(msgspec.Struct, frozen=True):
    """The session of a browser that has signed in."""

    token: str
    form_key: str
    """The secret that every form of this session contains."""
    expires: int
    """Seconds since 1970."""
    secure: bool
    """Whether the browser signed in over TLS."""

    def is_aging(self, now: datetime) -> bool:
        """Whether to prolong the session: at most once a minute, not for each page."""
        return self.expires - now.timestamp() < SESSION_SECONDS - 60

    def prolonged(self, now: datetime) -> "Session":
        return msgspec.structs.replace(self, expires=_expiry(now))

    def require_form_key(self, sent: str) -> None:
        """Raise Forbidden for a form that was not made for this session."""
        if not hmac.compare_digest(sent.encode(), self.form_key.encode()):
            raise Forbidden("This form has expired. Open the page again.")


def begin(request: Request, token: str) -> Session:
    """Begin a session for a token that was authenticated."""
    # Behind a proxy that ends TLS, only the browser's Origin header shows that TLS is used.
    secure = request.headers.get("origin", "").startswith("https://")
    return Session(token, secrets.token_urlsafe(24), _expiry(services_of(request).clock()), secure)


def _expiry(now: datetime) -> int:
    return int(now.timestamp()) + SESSION_SECONDS


def session_of(request: Request) -> Session:
    """The request's session. Raises Unauthorized without a session, or if it has expired."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(COOKIE, "") + "==")
        opened = services_of(request).vault.open(_PURPOSE, sealed)
        session = msgspec.json.decode(opened, type=Session)
    except (binascii.Error, ValueError, CannotOpen, msgspec.MsgspecError) as error:
        raise Unauthorized("Sign in to see this page.") from error
    if session.expires < services_of(request).clock().timestamp():
        raise Unauthorized("Your session has expired. Sign in again.")
    return session


def keep(request: Request, response: Response, session: Session) -> None:
    """Set the session's cookie in the browser."""
    sealed = services_of(request).vault.seal(_PURPOSE, msgspec.json.encode(session))
    response.set_cookie(
        COOKIE,
        base64.urlsafe_b64encode(sealed).rstrip(b"=").decode(),
        max_age=SESSION_SECONDS,
        path="/",
        httponly=True,
        samesite="strict",
        secure=session.secure,
    )


def forget(response: Response) -> None:
    """Delete the session's cookie in the browser."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


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


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
