"""Refusals as RFC 9457 problem details (contract, Access), with the one table of codes.

The OpenAPI responses of the refusals, by kind of route, stand at the end.
"""

import json
import logging
from functools import cache
from typing import Any

import msgspec
import psycopg
from fastapi import FastAPI, Request, Response
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.routing import Route

from ledger.engine.values.errors import (
    Behind,
    Invalid,
    LedgerError,
    NotFound,
    RateLimited,
    Refused,
    Unavailable,
)

_logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[str, tuple[int, str]] = {
    "unauthorized": (401, "Unauthorized"),
    "forbidden": (403, "Forbidden"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "timeout": (408, "The request took too long"),
    "invalid_state": (409, "The present state forbids it"),
    "id_taken": (409, "The id is taken"),
    "fact_conflict": (409, "The fact was recorded with another content"),
    "too_large": (413, "Too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "misdirected": (421, "Wrong host"),
    "invalid_request": (422, "Invalid request"),
    "invalid_cursor": (400, "Invalid cursor"),
    "runs_not_supported": (422, "The line has no runs"),
    "idempotency_key_reused": (422, "The Idempotency-Key was used before"),
    "rate_limited": (429, "Too much waits already"),
    "internal_error": (500, "Internal error"),
    "behind": (503, "The views are behind"),
    "clock_skew": (503, "The node's clock is wrong"),
    "document_altered": (503, "The document was altered"),
    "read_only": (503, "This node only reads"),
    "unavailable": (503, "Unavailable"),
}
"""code → (status, title of the page that shows the refusal)."""

PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
"""The titles of problems: the phrases of the statuses in RFC 9110, which the type ``about:blank``
requires (RFC 9457, 4.2.1). Python's own phrases differ between its versions."""

UNBUILT = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
"""The database's errors while the tables of a view are not built yet, or not rebuilt yet."""

REFUSALS = (LedgerError, psycopg.OperationalError, psycopg.InterfaceError, *UNBUILT)
"""The errors of a route that are answered by a problem. The read pool's own errors (no connection
in time, too many waiting reads) are operational errors too."""

_SECONDS = {
    "behind": "1",
    "clock_skew": "2",
    "document_altered": "1",
    "read_only": "1",
    "unavailable": "2",
}
"""code → seconds after which the request may be sent again."""


_REFUSED = Counter(
    "ledger_refusals", "Refused requests, and refused facts of a batch, by code.", ["code"]
)


class FieldError(msgspec.Struct):
    """An invalid field or parameter."""

    pointer: str
    detail: str


class Problem(msgspec.Struct):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None
    errors: list[FieldError] | msgspec.UnsetType | None = msgspec.UNSET


class Unauthorized(LedgerError):
    """The credential is missing, unknown, revoked or mistyped."""

    code = "unauthorized"


class BadRequest(LedgerError):
    """The request cannot be parsed: 400. Any other ``invalid_request`` is 422."""

    code = "invalid_request"


class InvalidCursor(LedgerError):
    """The cursor was not made by this service, or was made for other filters."""

    code = "invalid_cursor"

    def __init__(self, detail: str = "The cursor is not valid for this request.") -> None:
        super().__init__(detail)


class UnsupportedMediaType(LedgerError):
    """The route does not support the body's content type, charset or coding."""

    code = "unsupported_media_type"


class Misdirected(LedgerError):
    """The request names a host that is not the service's own."""

    code = "misdirected"


class BodyTimeout(LedgerError):
    """The body arrived too slowly; nothing of it was recorded."""

    code = "timeout"


class MethodNotAllowed(LedgerError):
    """The path exists, but does not support the method."""

    code = "method_not_allowed"


class InternalError(LedgerError):
    """An unforeseen error; the process's log has it under the request id."""

    code = "internal_error"


def status_of(error: LedgerError) -> int:
    return 400 if isinstance(error, BadRequest) else STATUS[error.code][0]


def count_refusal(error: LedgerError) -> None:
    _counter(error.code).inc()


@cache
def _counter(code: str) -> Counter:
    return _REFUSED.labels(code)


def field_errors(error: LedgerError) -> list[FieldError]:
    """The invalid fields of a refused request; empty for any other refusal."""
    return [FieldError(*pair) for pair in (error.errors if isinstance(error, Invalid) else ())]


def retry_after(error: LedgerError) -> dict[str, str]:
    """The header Retry-After, if the request may be sent again."""
    seconds = str(error.seconds) if isinstance(error, RateLimited) else _SECONDS.get(error.code)
    return {} if seconds is None else {"Retry-After": seconds}


def problem(
    request: Request, error: LedgerError, headers: dict[str, str] | None = None
) -> Response:
    """A refusal as a problem document. The refusal is counted."""
    count_refusal(error)
    code = error.code
    headers = dict(headers or {})
    headers |= retry_after(error)
    if code == Unauthorized.code:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Refused) and error.position:
        headers["Ledger-Position"] = str(error.position)
    status = status_of(error)
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": PHRASES[status],
        "status": status,
        "detail": error.detail,
        "code": code,
        "request_id": request.scope.get("state", {}).get("request_id"),
    }
    if isinstance(error, Invalid):
        document["errors"] = list(map(msgspec.structs.asdict, field_errors(error)))
    return Response(
        json.dumps(document, ensure_ascii=False).encode(),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def as_refusal(error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, UNBUILT):
        # Logged, since a wrong statement of ours raises the same error, and no rebuild mends it.
        _logger.warning("a view lacks a table or column: %s", error)
        return Behind("The view is being built; send the request again in a moment.")
    _logger.warning("database error: %s", error)
    return Unavailable("The database cannot be reached, or is too busy.")


def _methods(request: Request) -> str:
    """All methods of the path (RFC 9110, 15.5.6); the router names only the first route's."""
    path = request.scope["path"]
    found = {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


def install(app: FastAPI) -> None:
    """Answer every error of the application, the framework and the database as a problem."""

    async def refusal(request: Request, error: Exception) -> Response:
        return problem(request, as_refusal(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        by_status: dict[int, LedgerError] = {
            404: NotFound("No resource has this path."),
            405: MethodNotAllowed("The path does not support this method."),
        }
        fallback = BadRequest("The request is not valid.")
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _methods(request)
        return problem(request, by_status.get(error.status_code, fallback), headers)

    app.add_exception_handler(HTTPException, http_error)
    for kind in REFUSALS:
        app.add_exception_handler(kind, refusal)


Responses = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> Responses:
    """A route's responses of these statuses, which are the same in all routes."""
    return {status: {} for status in statuses}


READ_ERRORS = refusals(400, 401, 403, 422, 429, 503)
LIST_ERRORS = refusals(304) | READ_ERRORS
LINE_ERRORS = refusals(304) | refusals(401, 403, 404, 422, 429, 503)
FEED_ERRORS = refusals(401, 403, 404, 422, 429, 503)
STORY_ERRORS = refusals(400, 401, 403, 404, 422, 429, 503)
RUN_LIST_ERRORS = refusals(304) | refusals(400, 401, 403, 404, 422, 429, 503)
WRITE_ERRORS = refusals(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503)
