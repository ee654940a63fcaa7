"""Parts that begin anew in the child of a fork: threads do not follow, and locks may be held."""

import os
import weakref
from typing import Protocol


class Forking(Protocol):
    """A part of the client with threads, locks or connections."""

    def after_fork(self) -> None:
        """Begin anew, in the child, without touching the parent's connections."""


_PARTS: "weakref.WeakSet[Forking]" = weakref.WeakSet()


def renewed_in_children(part: Forking) -> None:
    """Call ``after_fork`` of this part in each child."""
    _PARTS.add(part)


def _renew() -> None:
    for part in list(_PARTS):
        part.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
