"""Who is asking: a credential, what it may do and which tenant it sees (contract 7)."""

import msgspec

from ledger.domain.errors import Forbidden
from ledger.domain.recorded import Actor
from ledger.domain.values import ActorType
from ledger.postgres.scope import Tenant


class Grant(msgspec.Struct, frozen=True):
    """What an identity provider's token adds: whom it speaks of, and what it ends with."""

    subject: str
    expires_at: float
    """Seconds since 1970, from when on it passes no more."""
    signed_by: bytes
    """The key's fingerprint: with the key goes the token."""


class Principal(msgspec.Struct, frozen=True):
    """A credential that was checked. ``admin`` may do all, everywhere."""

    id: str
    type: ActorType
    permissions: frozenset[str]
    organization_id: str | None = None
    workspace_id: str | None = None
    grant: Grant | None = None
    """None: the credential is one of ours."""

    @property
    def is_admin(self) -> bool:
        """All permissions, every tenant."""
        return "admin" in self.permissions

    @property
    def tenant(self) -> Tenant:
        """Whose rows it reads."""
        return Tenant(self.organization_id or "", self.workspace_id or "")

    @property
    def actor(self) -> Actor:
        """The credential as an actor, where a fact names nobody else."""
        return Actor(self.type, self.id if self.grant is None else self.grant.subject)

    @property
    def credential(self) -> str:
        """What remembers for it: its idempotency keys, its refusals.

        A key has one tenant; the same person may have tokens for several, and what one of them was
        answered must not be told to another.
        """
        if self.grant is None:
            return self.id
        return f"{self.id} at {self.organization_id or '*'}/{self.workspace_id or '*'}"

    def require(self, permission: str) -> None:
        """Raise Forbidden unless the permission (or admin) is held."""
        if not self.is_admin and permission not in self.permissions:
            raise Forbidden(f"This needs the permission {permission}.")

    def sees(self, organization_id: str | None, workspace_id: str | None) -> bool:
        """Whether something of this tenant exists for this credential."""
        if self.is_admin:
            return True
        return self.organization_id == organization_id and (
            self.workspace_id is None or self.workspace_id == workspace_id
        )


COMMAND_LINE = Principal("cli", "system", frozenset({"admin"}))
"""Whoever holds the database also holds the command line."""

SWEEPER = Principal("idle-sweeper", "system", frozenset({"admin"}))
"""The service itself, when a line goes idle."""

HOUSEKEEPER = Principal("housekeeper", "system", frozenset({"admin"}))
"""The service itself, when it tells how many refusals were only counted."""

DISPATCHER = Principal("webhook-dispatcher", "system", frozenset({"admin"}))
"""The service itself, when a delivery fails for good or an endpoint is disabled by rule."""
