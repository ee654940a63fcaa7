"""Credentials: the permissions of a credential and the tenant it sees (contract, Access)."""

import os
import pwd
from collections.abc import Collection
from functools import cached_property
from typing import NamedTuple

import msgspec

from ledger.engine.values.errors import Forbidden
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import ActorType

ANY = "*"
"""In a tenant: any organization, or any workspace. No id has this form."""


class Tenant(NamedTuple):
    """The tenant whose stored events a statement sees: ids, or ``ANY``. With "" it sees none."""

    organization: str
    workspace: str


EVERYONE = Tenant(ANY, ANY)
"""All tenants: for administrators, and for statements of the service itself."""

USER = "user:"
"""Begins the id of a credential of a person; the provider's name of the person follows."""


class Grant(msgspec.Struct, frozen=True):
    """The conditions that end a token of an identity provider."""

    expires_at: float
    """Seconds since 1970: from this instant on, the token is refused."""
    signed_by: str
    """The thumbprint of the signing key: when the provider drops the key, the token is refused."""


class Principal(msgspec.Struct, frozen=True, dict=True):
    """A credential that was checked. ``admin`` has all permissions, for every tenant."""

    id: str
    type: ActorType
    permissions: frozenset[str]
    organization_id: str | None = None
    workspace_id: str | None = None
    grant: Grant | None = None
    """Set if the credential is a token that an identity provider signed, else None."""
    secret: bytes | None = None
    """The hash of the API key's secret that was sent: a replaced secret ends before its key."""
    session: bytes | None = None
    """The hash of the secret of the session at the pages, with which the credential ends."""

    @cached_property
    def is_admin(self) -> bool:
        return "admin" in self.permissions

    @cached_property
    def tenant(self) -> Tenant:
        """The tenant whose stored events the credential reads."""
        if self.is_admin:
            return EVERYONE
        return Tenant(self.organization_id or "", self.workspace_id or ANY)

    @cached_property
    def tenant_key(self) -> str:
        """The name under which the credential takes turns: its organization.

        An administrator may act for any organization, so all administrators together take turns as
        one organization, as they do with streams.
        """
        return "*" if self.is_admin else self.organization_id or ""

    @cached_property
    def actor(self) -> Actor:
        """The credential as an actor, for writes that name no other actor."""
        return Actor(self.type, self.id.removeprefix(USER) if self.type == "user" else self.id)

    @cached_property
    def credential(self) -> str:
        """The name under which idempotency keys and refusals of the credential are kept.

        An API key has one tenant. A person may have tokens for several tenants, and the outcome of
        a request under one token must not be told under another. So the name includes the tenant.
        """
        if self.type != "user":
            return self.id
        return f"{self.id} at {self.organization_id or '*'}/{self.workspace_id or '*'}"

    def may_name(self, actor: Actor) -> bool:
        """Whether a fact that this credential reports may name the actor (contract, Facts).

        The ledger alone acts as ``system``, and an API key acts for itself only.
        """
        if actor.type == "api_key":
            return (self.type, self.id) == (actor.type, actor.id)
        return actor.type != "system"

    def may(self, permission: str) -> bool:
        """Whether the permission (or admin) is held."""
        return self.is_admin or permission in self.permissions

    def require(self, permission: str) -> None:
        """Raise Forbidden unless the permission (or admin) is held."""
        if not self.may(permission):
            raise Forbidden(f"The credential lacks the permission {permission}.")

    def sees(self, organization_id: str | None, workspace_id: str | None) -> bool:
        if self.is_admin:
            return True
        return self.organization_id == organization_id and (
            self.workspace_id is None or self.workspace_id == workspace_id
        )

    def covers(
        self, permissions: Collection[str], organization_id: str | None, workspace_id: str | None
    ) -> bool:
        """Whether a key of these permissions and this tenant is within the credential's own."""
        if self.is_admin:
            return True
        return self.permissions.issuperset(permissions) and self.sees(organization_id, workspace_id)


def person(
    sub: str,
    permissions: Collection[str],
    organization_id: str | None = None,
    workspace_id: str | None = None,
    *,
    grant: Grant | None = None,
    session: bytes | None = None,
) -> Principal:
    """A person whom an identity provider knows by ``sub``, in a tenant."""
    return Principal(
        USER + sub,
        "user",
        frozenset(permissions),
        organization_id,
        workspace_id,
        grant=grant,
        session=session,
    )


def _user() -> str:
    """The operating system's user who runs this process; under sudo, the user who called sudo.

    Only root's environment is believed: any other user could set the variable to any name.
    """
    user_id = os.getuid()
    if user_id == 0 and (caller := os.environ.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


COMMAND_LINE = Principal(f"cli:{_user()}", "system", frozenset({"admin"}))
"""The command line, with all permissions: its operator has access to the database anyway."""

SWEEPER = Principal("idle-sweeper", "system", frozenset({"admin"}))
"""The service itself, when a line goes idle."""

PAUSE_UNTIL = Principal("pause-until", "system", frozenset({"admin"}))
"""The service itself, when it lifts a hold whose end has come."""

LEASE_WATCH = Principal("lease-watch", "system", frozenset({"admin"}))
"""The service itself, when a run fails because its lease has ended."""

PARENT_BY_NAME = Principal("parent-by-name", "system", frozenset({"admin"}))
"""The service itself, when a run gets the parent that it had named before there was one."""

PARENT_BY_TRACE = Principal("parent-by-trace", "system", frozenset({"admin"}))
"""The service itself, when a run gets the parent that its trace shows (contract, Traces)."""

WATCHER = Principal("watches", "system", frozenset({"admin"}))
"""The service itself, when a watch opens, repeats or resolves an alert."""

HOUSEKEEPER = Principal("housekeeper", "system", frozenset({"admin"}))
"""The service itself, when it records how many refusals were only counted."""

SIGN_IN = Principal("sign-in", "system", frozenset({"admin"}))
"""The service itself, when a session ends because of its provider, or of its grants."""

DISPATCHER = Principal("webhook-dispatcher", "system", frozenset({"admin"}))
"""The service itself, when a delivery fails for good or an endpoint is disabled by rule."""
