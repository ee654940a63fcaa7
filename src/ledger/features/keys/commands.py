"""Commands about API keys (contract, Access).

Nobody gives more than they have: to make, change, rotate or revoke a key, a credential needs
permissions and a tenant that include the key's. A key expires no later than its maker.

The receipt has the answer, with the token of a new secret. So a replay receives the same token.
"""

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar

import msgspec

from ledger.engine.values.errors import Forbidden, Invalid
from ledger.engine.values.recorded import Credential, Event
from ledger.engine.values.rendering import render_as
from ledger.engine.writer.command import ManagedCommand, NewCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.features.keys.model import ApiKey, ApiKeyCreated, Permission, ShownKey
from ledger.features.keys.tokens import hash_token, prefix_of

_WIDER = "The key's permissions or tenant are not within the credential's own."

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False, repr=False)
class CreateApiKey(NewCommand):
    """Issue a key. The caller creates the token; the command keeps only its hash."""

    action = "key.create"
    issues = "KEY"

    token: str
    request_id: str | None = field(default=None, kw_only=True)
    _: KW_ONLY
    name: str | None
    permissions: Collection[Permission]
    expires_at: datetime | None = None

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden for more than the credential has, or Invalid."""
        key = group.memory.key_of(self.principal)
        tenant = self.organization_id, self.workspace_id
        is_named = self.organization_id is not None or not self.principal.is_admin
        if is_named and not self.principal.covers(self.permissions, *tenant):
            raise Forbidden(_WIDER)
        if self.fault is not None:
            raise self.fault
        _check_expiry(self.expires_at, key, group.now)
        body = ApiKeyCreated(
            name=self.name,
            secret_hash=hash_token(self.token),
            permissions=tuple(self.permissions),
            expires_at=self.expires_at,
            prefix=prefix_of(self.token),
        )
        key = ApiKey(group.issue("KEY"))
        recorded = group.record(key, body, group.now, self, tenant=(*tenant, None))
        return receipt(recorded, _answer(key, self.token))


class _KeyCommand(ManagedCommand):
    subject_type: ClassVar[str] = "api_key"

    def _require_right(self, key: ApiKey) -> None:
        if not self.principal.covers(key.permissions, key.organization_id, key.workspace_id):
            raise Forbidden(_WIDER)

    def _answer(self, key: ApiKey) -> bytes:
        return _answer(key)


@dataclass(eq=False, repr=False)
class UpdateApiKey(_KeyCommand):
    """Change the given settings; UNSET leaves a setting as it is."""

    action = "key.update"

    name: str | msgspec.UnsetType | None = field(default=msgspec.UNSET, kw_only=True)
    expires_at: datetime | msgspec.UnsetType | None = field(default=msgspec.UNSET, kw_only=True)

    def _event(self, key: ApiKey, group: Group) -> Event:
        name, expires_at = self.name, self.expires_at
        if expires_at is msgspec.UNSET:
            expires_at = key.expires_at
        else:
            _check_expiry(expires_at, group.memory.key_of(self.principal), group.now)
        name = key.name if name is msgspec.UNSET else name
        return key.update(name=name, expires_at=expires_at)


@dataclass(eq=False, repr=False)
class RotateApiKey(_KeyCommand):
    """Replace the key's secret. The replaced secret works for ``grace`` more."""

    action = "key.rotate"

    token: str = field(kw_only=True)
    grace: timedelta = field(kw_only=True)

    def _event(self, key: ApiKey, group: Group) -> Event:
        _require_no_longer_life(key.expires_at, group.memory.key_of(self.principal))
        return key.rotate(hash_token(self.token), prefix_of(self.token), self.grace, group.now)

    def _answer(self, key: ApiKey) -> bytes:
        return _answer(key, self.token)


class RevokeApiKey(_KeyCommand):
    """Revoke a key; within seconds every worker refuses the key."""

    action = "key.revoke"

    def _event(self, key: ApiKey, group: Group) -> Event:
        return key.revoke()


def _check_expiry(expires_at: datetime | None, request: Credential | None, now: datetime) -> None:
    """Raise Forbidden for a longer life than the caller's key, and Invalid for a past instant."""
    _require_no_longer_life(expires_at, request)
    if expires_at is not None and expires_at <= now:
        raise Invalid.at("/expires_at", "lies in the past")


def _require_no_longer_life(expires_at: datetime | None, request: Credential | None) -> None:
    end = request.expires_at if request is not None else None
    if end is not None and (expires_at is None or expires_at > end):
        raise Forbidden("The key would outlive the credential, which expires.")


def _answer(key: ApiKey, token: str | None = None) -> bytes:
    # Only readers see the last use; no decision depends on it.
    document = msgspec.structs.asdict(render_as(ShownKey, key, last_used_at=None))
    if token is not None:
        document["key"] = token
    return _encode({"data": document})
