"""A request's headers, as the server gave them.

Starlette's walk through all of them for each name that is asked for, and decode on the way.
"""

from starlette.types import Scope

_BY_NAME = "ledger.headers"


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name in lower case; None: there is none."""
    by_name: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    if by_name is None:
        by_name = scope[_BY_NAME] = dict(reversed(scope["headers"]))
    return by_name.get(name)
