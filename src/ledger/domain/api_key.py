"""API key: a credential's life. The secret itself is never in the log, only its hash."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec

from ledger.domain.errors import InvalidState
from ledger.domain.event_table import EventRow, Note
from ledger.domain.recorded import Event, Recorded

Permission = Literal[
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase", "admin"
]

SINGLE_PERMISSIONS: tuple[Permission, ...] = tuple(p for p in get_args(Permission) if p != "admin")
"""Those that are given one by one; ``admin`` is all of them, everywhere."""


class ApiKeyCreated(Event, frozen=True, kw_only=True):
    """A key was handed out; tenant in the envelope, none for an admin key."""

    TOPIC = "api_key.created/1"
    name: str | None = None
    secret_hash: bytes
    """SHA-256 of the whole token: it holds 256 random bits, so no slow hash is needed."""
    permissions: tuple[Permission, ...]


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    """A key was taken back."""

    TOPIC = "api_key.revoked/1"


# Event, type and payload outside, fact and command of the audit log, note of decisions.
API_KEY_TABLE: tuple[EventRow, ...] = (
    EventRow(ApiKeyCreated, None, None, None, "key.create", Note.KEY_CREATED),
    EventRow(ApiKeyRevoked, None, None, None, "key.revoke", Note.KEY_REVOKED),
)

API_KEY_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in API_KEY_TABLE)


class ApiKey(msgspec.Struct):
    """One key as its stream tells it."""

    id: str
    version: int = 0
    organization_id: str | None = None
    workspace_id: str | None = None
    revoked: bool = False

    def revoke(self) -> ApiKeyRevoked:
        """Take the key back, once."""
        if self.revoked:
            raise InvalidState("The key is already revoked.")
        return ApiKeyRevoked()

    def evolve(self, recorded: Recorded) -> None:
        """Take in one event of this key's stream. Only assigns, never fails."""
        self.version = recorded.originator_version
        _APPLY[type(recorded.body)](self, recorded.body, recorded)

    def _created(self, body: ApiKeyCreated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id

    def _revoked(self, body: ApiKeyRevoked, recorded: Recorded) -> None:
        self.revoked = True


_APPLY: dict[type[Event], Callable[[ApiKey, Any, Recorded], None]] = {
    ApiKeyCreated: ApiKey._created,
    ApiKeyRevoked: ApiKey._revoked,
}
