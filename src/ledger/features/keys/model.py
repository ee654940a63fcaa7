"""The API key aggregate. The log never contains a secret itself, only its hash.

The file has, in this order: events, state, decisions, fold, the API's form.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from ledger.engine.values.errors import CredentialEnded, Forbidden, InvalidState
from ledger.engine.values.event_table import DecisionEffect, EventRow
from ledger.engine.values.recorded import Actor, Credential, Event, Recorded
from ledger.engine.values.rendering import ViewInstant, doc
from ledger.engine.values.values import KEY_ID

Permission = Literal[
    "read",
    "write",
    "service_lines:manage",
    "webhooks:manage",
    "audit:read",
    "runs:erase",
    "keys:manage",
    "statements:issue",
    "watches:manage",
    "admin",
]

SINGLE_PERMISSIONS: tuple[Permission, ...] = tuple(p for p in get_args(Permission) if p != "admin")
"""The permissions that can be given one by one; ``admin`` means all, in every tenant."""

GRACE = timedelta(hours=24)
"""How long a replaced secret still works by default (contract, Access)."""

LONGEST_GRACE = timedelta(days=7)


class ApiKeyCreated(Event, frozen=True, kw_only=True):
    """A key was handed out; the envelope has the key's tenant, and none for an admin key."""

    TOPIC = "api_key.created/1"
    name: str | None = None
    secret_hash: bytes
    """SHA-256 of the whole token: a token has 256 random bits, so it needs no slow hash."""
    permissions: tuple[Permission, ...]
    expires_at: datetime | None = None
    prefix: str = ""
    """The first characters of the token, by which people tell keys apart."""


class ApiKeyUpdated(Event, frozen=True, kw_only=True):
    """A key's settings were changed; the event has all settings as they are now."""

    TOPIC = "api_key.updated/1"
    name: str | None = None
    expires_at: datetime | None = None


class ApiKeyRotated(Event, frozen=True, kw_only=True):
    """A key got a new secret; the replaced secrets work for some seconds more."""

    TOPIC = "api_key.rotated/1"
    secret_hash: bytes
    prefix: str
    grace_seconds: int


class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    """A key was revoked."""

    TOPIC = "api_key.revoked/1"


# Columns: event, published type, published payload, fact, command, note.
API_KEY_TABLE: tuple[EventRow, ...] = (
    EventRow(ApiKeyCreated, None, None, None, "key.create", DecisionEffect.KEY_CREATED),
    EventRow(ApiKeyUpdated, None, None, None, "key.update", DecisionEffect.KEY_CHANGED),
    EventRow(ApiKeyRotated, None, None, None, "key.rotate", DecisionEffect.KEY_CHANGED),
    EventRow(ApiKeyRevoked, None, None, None, "key.revoke", DecisionEffect.KEY_CHANGED),
)


class ApiKey(Credential):
    """The state of one key, folded from its stream."""

    name: str | None = None
    organization_id: str | None = None
    workspace_id: str | None = None
    permissions: tuple[Permission, ...] = ()
    prefix: str = ""
    created_at: datetime | None = None
    created_by: Actor | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    secret_hash: bytes = b""
    former: tuple[tuple[bytes, datetime], ...] = ()

    @property
    def revoked(self) -> bool:
        return self.revoked_at is not None

    def has_expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at

    def has_secret(self, secret_hash: bytes, at: datetime) -> bool:
        """True if the secret is the key's present one, or a replaced one in its grace."""
        return secret_hash == self.secret_hash or any(
            secret_hash == former and at < ends_at for former, ends_at in self.former
        )

    # Decisions.

    def require_working(self, secret_hash: bytes | None, at: datetime) -> None:
        """Raise Forbidden for an ended key, CredentialEnded for an ended secret."""
        if self.revoked or self.has_expired(at):
            raise Forbidden("The credential was revoked, or has expired.")
        if secret_hash is not None and not self.has_secret(secret_hash, at):
            raise CredentialEnded

    def update(self, *, name: str | None, expires_at: datetime | None) -> ApiKeyUpdated:
        """Replace all settings. Refused if the key is revoked."""
        self._require_not_revoked()
        return ApiKeyUpdated(name=name, expires_at=expires_at)

    def rotate(
        self, secret_hash: bytes, prefix: str, grace: timedelta, now: datetime
    ) -> ApiKeyRotated:
        """Replace the secret. Refused if the key is revoked or has expired."""
        self._require_not_revoked()
        if self.has_expired(now):
            raise InvalidState("The key has expired: give it a later expires_at first.")
        seconds = int(grace.total_seconds())
        return ApiKeyRotated(secret_hash=secret_hash, prefix=prefix, grace_seconds=seconds)

    def revoke(self) -> ApiKeyRevoked:
        """Revoke the key. Refused if the key is already revoked."""
        self._require_not_revoked()
        return ApiKeyRevoked()

    def _require_not_revoked(self) -> None:
        if self.revoked:
            raise InvalidState("The key is already revoked.")

    # The fold.

    def _created(self, body: ApiKeyCreated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.permissions, self.prefix = body.permissions, body.prefix
        self.secret_hash = body.secret_hash
        self.created_at, self.created_by = recorded.recorded_at, recorded.actor
        self._updated(body, recorded)

    def _updated(self, body: ApiKeyCreated | ApiKeyUpdated, recorded: Recorded) -> None:
        self.name, self.expires_at = body.name, body.expires_at

    def _rotated(self, body: ApiKeyRotated, recorded: Recorded) -> None:
        until = recorded.recorded_at + timedelta(seconds=body.grace_seconds)
        # Older secrets end no later than the replaced one (contract, Access).
        older = ((former, min(ends_at, until)) for former, ends_at in self.former)
        working = (each for each in older if each[1] > recorded.recorded_at)
        self.former = (*working, (self.secret_hash, until))
        self.prefix, self.secret_hash = body.prefix, body.secret_hash

    def _revoked(self, body: ApiKeyRevoked, recorded: Recorded) -> None:
        self.revoked_at = recorded.recorded_at

    _APPLY: ClassVar = {
        ApiKeyCreated: _created,
        ApiKeyUpdated: _updated,
        ApiKeyRotated: _rotated,
        ApiKeyRevoked: _revoked,
    }


class ShownKey(msgspec.Struct):
    """An API key as those who manage keys see it, without any secret."""

    id: Annotated[str, Meta(pattern=KEY_ID)]
    name: str | None
    organization_id: Annotated[str | None, doc("Null for a key that belongs to none.")]
    workspace_id: Annotated[str | None, doc("Null: the key sees the whole organization.")]
    permissions: Sequence[Permission]
    created_at: ViewInstant
    created_by: Actor
    expires_at: ViewInstant | None
    last_used_at: Annotated[ViewInstant | None, doc("Within a minute. Null: never used.")]
    revoked_at: ViewInstant | None
    prefix: Annotated[str, doc("The first characters of the secret.")]


class KeyWithSecret(ShownKey):
    """A key with its secret, which is not shown again."""

    key: Annotated[
        str, Meta(pattern="^elk_", description="The secret, to be sent as a bearer token.")
    ]
