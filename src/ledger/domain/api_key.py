"""The API key aggregate. The log never contains the secret itself, only its hash."""

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
"""The permissions that are given one by one; ``admin`` means all of them, for every tenant."""


class ApiKeyCreated(Event, frozen=True, kw_only=True):
    """A key was handed out; the envelope has the key's tenant, and none for an admin key."""

    TOPIC = "api_key.created/1"
    name: str | None = None
    secret_hash: bytes
    """SHA-256 of the whole token: since a token has 256 random bits, no slow hash is needed."""
    permissions: tuple[Permission, ...]


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    """A key was revoked."""

    TOPIC = "api_key.revoked/1"


# Columns: event, published type, published payload, fact, command, note.
API_KEY_TABLE: tuple[EventRow, ...] = (
    EventRow(ApiKeyCreated, None, None, None, "key.create", Note.KEY_CREATED),
    EventRow(ApiKeyRevoked, None, None, None, "key.revoke", Note.KEY_REVOKED),
)

API_KEY_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in API_KEY_TABLE)


class ApiKey(msgspec.Struct):
    """The state of one key, folded from its stream."""

    id: str
    version: int = 0
    organization_id: str | None = None
    workspace_id: str | None = None
    revoked: bool = False

    def revoke(self) -> ApiKeyRevoked:
        """Revoke the key. Refused if the key is already revoked."""
        if self.revoked:
            raise InvalidState("The key is already revoked.")
        return ApiKeyRevoked()

    def evolve(self, recorded: Recorded) -> None:
        """Apply one event of this key's stream. The fold only assigns and never fails."""
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
