"""Who looks at the page: a token, in a cookie that only this service can read.

The cookie holds the token encrypted under the master key, is out of reach of scripts, and travels
only with requests that our own pages make (``SameSite=Strict``). The API does not look at it. Each
session has a key of its own that every form carries: a request that another site made has neither.
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
"""A session ends so long after its last use: a working day, and no page left open ends it."""

LONGEST_TOKEN = 2800
"""Characters: sealed, no more fits into the 4 KB that browsers take for a cookie."""

_PURPOSE = "ui/session"
_SAFE = frozenset({"GET", "HEAD"})


class Session(msgspec.Struct, frozen=True):
    """One browser that has signed in."""

    token: str
    form_key: str
    """What every form of this session carries."""
    expires: int
    """Seconds since 1970."""
    secure: bool
    """Whether it was begun over TLS."""

    def is_aging(self, now: datetime) -> bool:
        """Whether it is time to prolong it: not for each page, but within a minute."""
        return self.expires - now.timestamp() < SESSION_SECONDS - 60

    def prolonged(self, now: datetime) -> "Session":
        """The same for another while."""
        return msgspec.structs.replace(self, expires=_expiry(now))

    def require_form_key(self, sent: str) -> None:
        """Raise Forbidden where a form was not made for this session."""
        if not hmac.compare_digest(sent.encode(), self.form_key.encode()):
            raise Forbidden("This form is no longer valid: open the page again.")


def begin(request: Request, token: str) -> Session:
    """A session for a token that was checked."""
    # Behind a proxy that ends TLS only the browser knows that there is any.
    secure = request.headers.get("origin", "").startswith("https://")
    return Session(token, secrets.token_urlsafe(24), _expiry(services_of(request).clock()), secure)


def _expiry(now: datetime) -> int:
    return int(now.timestamp()) + SESSION_SECONDS


def session_of(request: Request) -> Session:
    """The request's session. Raises Unauthorized where there is none, or it is over."""
    try:
        sealed = base64.urlsafe_b64decode(request.cookies.get(COOKIE, "") + "==")
        opened = services_of(request).vault.open(_PURPOSE, sealed)
        session = msgspec.json.decode(opened, type=Session)
    except (binascii.Error, ValueError, CannotOpen, msgspec.MsgspecError) as error:
        raise Unauthorized("Sign in to see this page.") from error
    if session.expires < services_of(request).clock().timestamp():
        raise Unauthorized("The session is over: sign in again.")
    return session


def keep(request: Request, response: Response, session: Session) -> None:
    """Give the browser the session's cookie."""
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
    """Take the session's cookie back."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def require_own_origin(request: Request) -> None:
    """Raise Forbidden for a request that changes something and that another site's page made."""
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
