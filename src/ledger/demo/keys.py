"""The keys of the story: those of programs, with their permissions and their ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ledger.demo.cast import PRIMARY_ORGANIZATION, WORKSPACES
from ledger.domain.api_key import Permission


@dataclass(frozen=True)
class StoryKey:
    """A key of the primary organization, or of one of its workspaces."""

    name: str
    permissions: tuple[Permission, ...]
    lives: timedelta | None = None
    """How long the key works from the end of the story on; None: it never expires."""
    workspace_id: str | None = None
    ending: str | None = None
    """``rotated`` or ``revoked`` since, or None."""


KEYS = (
    StoryKey("talent reporter", ("write",), timedelta(days=300)),
    StoryKey("agent gateway", ("read", "write"), timedelta(days=90), ending="rotated"),
    StoryKey("month-end billing", ("read", "audit:read"), timedelta(days=9)),
    StoryKey(
        "Halden Bank dashboard", ("read",), None, WORKSPACES[PRIMARY_ORGANIZATION][0]
    ),
    StoryKey("former pager", ("read", "webhooks:manage"), None, ending="revoked"),
)  # fmt: skip
