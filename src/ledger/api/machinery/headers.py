"""A request's headers, as the server gave them.

Starlette's walk through all of them for each name that is asked for, and decode on the way.
"""

from starlette.types import Scope

_BY_NAME = "ledger.headers"


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name in lower case; None: there is none."""
    return _by_name(scope).get(name)


def count(scope: Scope, name: bytes) -> int:
    """How many headers of a name in lower case there are."""
    by_name = _by_name(scope)
    if name not in by_name:
        return 0
    headers = scope["headers"]
    if len(by_name) == len(headers):
        return 1
    return sum(one == name for one, _ in headers)


def joined(scope: Scope, name: bytes) -> bytes | None:
    """All headers of a name in lower case as one list, as they may be sent (RFC 9110, 5.3)."""
    if count(scope, name) < 2:
        return header(scope, name)
    return b",".join(value for one, value in scope["headers"] if one == name)


def _by_name(scope: Scope) -> dict[bytes, bytes]:
    by_name: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    if by_name is None:
        by_name = scope[_BY_NAME] = dict(reversed(scope["headers"]))
    return by_name
