"""The errors of the client. ``LedgerError`` is the parent of all.

::

    LedgerError
    ├── NotConfigured       no address or no token was given
    ├── NotReachable        no answer came in time
    ├── UnexpectedAnswer    something else than a ledger answered
    ├── NotVerified         a signature or a proof does not hold
    └── Problem             the service refused; ``status``, ``code``, ``detail``, ``errors``
        ├── BadRequest      400   ├── Conflict       409   ├── RateLimited  429
        ├── Unauthorized    401   ├── TooLarge       413   ├── Fault        500, 502, 504
        ├── Forbidden       403   ├── Invalid        422   └── Unavailable  503
        └── NotFound        404
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class LedgerError(Exception):
    """Anything that goes wrong between the caller and the ledger."""


class NotConfigured(LedgerError, ValueError):
    """No address or no token was given, and the environment has none either."""


class NotReachable(LedgerError):
    """No answer came in time. A write may have been recorded nevertheless: send it again."""


class UnexpectedAnswer(LedgerError):
    """The answer is not that of a ledger: the address is wrong, or a proxy answered."""

    def __init__(self, url: str, status: int, content_type: str | None) -> None:
        super().__init__(url, status, content_type)
        self.url, self.status = url, status
        """``url`` is the address of the ledger."""
        self.content_type = content_type
        """The media type of the answer, such as ``text/html``; None if it names none."""

    def __str__(self) -> str:
        text = f"{self.status}, {self.content_type}" if self.content_type else f"{self.status}"
        return f"{self.url} has not answered as a ledger does ({text}): is the address right?"


class NotVerified(LedgerError, ValueError):
    """A signature, a proof or a statement does not hold."""


class Place(NamedTuple):
    """A part of the request that is wrong."""

    pointer: str
    """A JSON pointer into the request, such as ``/data/hours``; empty for the whole request."""
    detail: str


class Problem(LedgerError):
    """The service refused a request. The subclass stands for the status."""

    def __init__(
        self,
        status: int,
        code: str | None,
        detail: str,
        errors: Sequence[Place] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, code, detail)
        self.status, self.code, self.detail = status, code, detail
        """``status`` is 0 for a fact that the client itself did not take."""
        self.errors, self.request_id = tuple(errors), request_id
        self.retry_after = retry_after
        """Seconds after which the service asks to try again; None if it does not say."""

    def __str__(self) -> str:
        faults = "".join(f" {fault.pointer or '/'}: {fault.detail}." for fault in self.errors)
        request = f" (request {self.request_id})" if self.request_id else ""
        status = f"{self.status} " if self.status else ""
        return f"{status}{self.code or 'problem'}: {self.detail}{faults}{request}"


class BadRequest(Problem):
    """400: the request cannot be read, or a cursor is not one of this list."""


class Unauthorized(Problem):
    """401: there is no token, or the token is unknown, revoked or expired."""


class Forbidden(Problem):
    """403: the credential lacks the permission, or the body names another tenant."""


class NotFound(Problem):
    """404: the thing does not exist, or belongs to another tenant."""


class Conflict(Problem):
    """409: the present state forbids it; ``code`` names the rule."""


class TooLarge(Problem):
    """413: a fact, a batch or a body is above its limit."""


class Invalid(Problem):
    """422: a field or a parameter is missing, unknown or wrong; ``errors`` names it."""


class RateLimited(Problem):
    """429: too many requests of the credential are in progress; nothing was recorded."""


class Fault(Problem):
    """500, 502 or 504: a fault of the service, or of a proxy before it."""


class Unavailable(Problem):
    """503: the service cannot answer now. A write may have been recorded nevertheless."""


BY_STATUS: Mapping[int, type[Problem]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
    429: RateLimited,
    500: Fault,
    502: Fault,
    503: Unavailable,
    504: Fault,
}


def problem_of(status: int, document: Any, retry_after: str | None = None) -> Problem:
    """The error for a problem document, or for the error of an item in a batch."""
    if not isinstance(document, dict):
        document = {}
    items = document.get("errors")
    errors = [
        Place(str(each.get("pointer", "")), str(each.get("detail", "")))
        for each in (items if isinstance(items, list) else ())
        if isinstance(each, dict)
    ]
    seconds = float(retry_after) if retry_after and re.fullmatch("[0-9]+", retry_after) else None
    detail = str(document.get("detail") or "The answer has no problem document of the ledger.")
    return BY_STATUS.get(status, Problem)(
        status, document.get("code"), detail, errors, document.get("request_id"), seconds
    )
