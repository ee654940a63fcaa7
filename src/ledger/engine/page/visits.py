"""The end of a person's last visit, which the browser keeps: a visit ends half an hour after its
last page."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from fastapi import Request, Response

from ledger.engine.http.reading import services_of

_COOKIE = "ledger_visits"
_BREAK = timedelta(minutes=30)
_YEAR = 365 * 86_400


def _stored(request: Request) -> tuple[datetime | None, datetime | None]:
    """The latest page that was opened, and the last one of the visit before."""
    found: list[datetime | None] = []
    for text in request.cookies.get(_COOKIE, "").split("~")[:2]:
        with suppress(ValueError, OverflowError):
            found.append(datetime.fromtimestamp(int(text), UTC) if int(text) > 0 else None)
    latest, before = [*found, None, None][:2]
    return latest, before


def last_visit(request: Request) -> datetime | None:
    """The instant of the last page of the visit before this one; None: this is the first one."""
    latest, before = _stored(request)
    if latest is not None and services_of(request).clock() - latest > _BREAK:
        return latest
    return before


def keep_visit(request: Request, response: Response) -> None:
    """Keep that a person opened a page; a page that refreshes itself is no visit."""
    if request.headers.get("hx-target") == "view":
        return
    now, (latest, _) = services_of(request).clock(), _stored(request)
    if latest is not None and now - latest < timedelta(minutes=1):
        return
    before = last_visit(request)
    value = f"{int(now.timestamp())}~{int(before.timestamp()) if before else 0}"
    response.set_cookie(_COOKIE, value, max_age=_YEAR, path="/ui", httponly=True, samesite="strict")
