"""The gate of a read node: what it refuses before any route is asked (contract, Several nodes)."""

from starlette.types import Scope

from ledger.domain.errors import Behind, LedgerError, ReadOnly

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_OURS = ("/v1", "/ui")
"""The API and the pages. Health and metrics are asked on every node."""

_FIXED = "/ui/static/"
"""Files that are a part of the code."""


def refusal_of(scope: Scope, *, is_late: bool) -> LedgerError | None:
    """Why a read node refuses a request; None: it takes the request.

    ``is_late`` says whether its standby is too far behind to answer any read.
    """
    path: str = scope["path"]
    if not any(path == place or path.startswith(f"{place}/") for place in _OURS):
        return None
    if scope["method"] not in _READING:
        return ReadOnly()
    if is_late and not path.startswith(_FIXED):
        return Behind("The standby of this node is more than five seconds behind.")
    return None
