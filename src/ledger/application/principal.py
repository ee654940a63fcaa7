"""Who is asking: a credential, what it may do and which tenant it sees (contract 7)."""

import msgspec

from ledger.domain.errors import Forbidden
from ledger.domain.recorded import Actor
from ledger.domain.values import ActorType


class Principal(msgspec.Struct, frozen=True):
    """A credential that was checked. ``admin`` may do all, everywhere."""

    id: str
    type: ActorType
    permissions: frozenset[str]
    organization_id: str | None = None
    workspace_id: str | None = None

    @property
    def is_admin(self) -> bool:
        """All permissions, every tenant."""
        return "admin" in self.permissions

    @property
    def actor(self) -> Actor:
        """The credential as an actor, where a fact names nobody else."""
        return Actor(self.type, self.id)

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
