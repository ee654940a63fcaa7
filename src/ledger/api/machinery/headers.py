"""A request's headers, as the server gave them.

Starlette's headers walk through all headers for each requested name, and decode them on the way.
"""

from starlette.types import Scope

_BY_NAME = "ledger.headers"


def is_of_the_api(scope: Scope) -> bool:
    """Whether the request's path is below ``/v1``."""
    path: str = scope["path"]
    return path.startswith("/v1/") or path == "/v1"


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a lower-case name; None: the request has no such header."""
    return _by_name(scope).get(name)


def count(scope: Scope, name: bytes) -> int:
    """The number of headers of a lower-case name."""
    by_name = _by_name(scope)
    if name not in by_name:
        return 0
    headers = scope["headers"]
    if len(by_name) == len(headers):
        return 1
    return sum(other == name for other, _ in headers)


def joined(scope: Scope, name: bytes) -> bytes | None:
    """All headers of a lower-case name, joined to one list (RFC 9110, 5.3)."""
    if count(scope, name) < 2:
        return header(scope, name)
    return b",".join(value for other, value in scope["headers"] if other == name)


def _by_name(scope: Scope) -> dict[bytes, bytes]:
    by_name: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    if by_name is None:
        by_name = scope[_BY_NAME] = dict(reversed(scope["headers"]))
    return by_name
