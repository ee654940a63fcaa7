"""A request's headers, straight from where the server put them."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of a name in lower case; None: there is none."""
    for found, value in scope["headers"]:
        if found == name:
            return bytes(value)
    return None
