"""The gate of a read node: what it refuses before any route is asked (contract, Several nodes)."""

from starlette.types import Scope

from ledger.domain.errors import Behind, LedgerError, ReadOnly

_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_OURS = ("/v1", "/ui")
"""The API and the pages. Health and metrics are asked on every node."""

_FIXED = "/ui/static/"
"""Files that are a part of the code."""


def refusal_of(scope: Scope, *, why_late: str | None) -> LedgerError | None:
    """Why a read node refuses a request; None: it takes the request.

    ``why_late`` says why its standby is too far behind to answer any read; None: it is not.
    """
    path: str = scope["path"]
    if not any(path == place or path.startswith(f"{place}/") for place in _OURS):
        return None
    if scope["method"] not in _READING:
        return ReadOnly()
    if why_late is not None and not path.startswith(_FIXED):
        return Behind(f"The standby of this node is more than five seconds behind: {why_late}.")
    return None
