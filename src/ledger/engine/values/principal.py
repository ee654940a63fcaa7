"""Credentials: the permissions of a credential and the tenant it sees (contract, Access)."""

import os
import pwd
from collections.abc import Collection
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import msgspec

from ledger.engine.values.errors import Forbidden
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import ActorType

ANY = "*"
"""In a tenant: any organization, or any workspace. No id has this form."""


class Tenant(NamedTuple):
    """The tenant whose stored events a statement sees: ids, or ``ANY``; with "" it sees none."""

    organization: str
    workspace: str


EVERYONE = Tenant(ANY, ANY)
"""All tenants: for administrators, and for statements of the service itself."""

USER = "user:"
"""The prefix of a person's credential id; the provider's name of the person follows."""


class Grant(msgspec.Struct, frozen=True):
    """The conditions that end a token of an identity provider."""

    expires_at: float
    """Seconds since 1970; the token is refused from then on."""
    signed_by: str
    """The signing key's thumbprint: when the provider drops the key, the token is refused."""


class Principal(msgspec.Struct, frozen=True, dict=True):
    """An authenticated credential. ``admin`` has all permissions, for every tenant."""

    id: str
    type: ActorType
    permissions: frozenset[str]
    organization_id: str | None = None
    workspace_id: str | None = None
    grant: Grant | None = None
    """Set if an identity provider signed the credential, a token; otherwise None."""
    secret: bytes | None = None
    """The hash of the API key's secret that was sent: a replaced secret ends before its key."""
    session: bytes | None = None
    """The hash of the page session's secret; the credential ends with the session."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self._packed,)

    @cached_property
    def _packed(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @cached_property
    def is_admin(self) -> bool:
        return "admin" in self.permissions

    @cached_property
    def tenant(self) -> Tenant:
        if self.is_admin:
            return EVERYONE
        return Tenant(self.organization_id or "", self.workspace_id or ANY)

    @cached_property
    def tenant_key(self) -> str:
        """The credential's key in fair queues: its organization.

        An administrator may act for any organization, so all administrators share one key.
        """
        return "*" if self.is_admin else self.organization_id or ""

    @cached_property
    def actor(self) -> Actor:
        """The credential as an actor, for writes that name no other actor."""
        return Actor(self.type, self.id.removeprefix(USER) if self.type == "user" else self.id)

    @cached_property
    def credential(self) -> str:
        """The name under which idempotency keys and refusals of the credential are stored.

        It includes the tenant. A person may have tokens for several tenants, and one tenant's
        outcome must not reach another tenant's token.
        """
        if self.type != "user":
            return self.id
        return f"{self.id} at {self.organization_id or '*'}/{self.workspace_id or '*'}"

    def may_name(self, actor: Actor) -> bool:
        """True if a fact that this credential reports may name the actor (contract, Facts).

        Only the ledger acts as ``system``, and an API key acts for itself only.
        """
        if actor.type == "api_key":
            return (self.type, self.id) == (actor.type, actor.id)
        return actor.type != "system"

    def may(self, permission: str) -> bool:
        return self.is_admin or permission in self.permissions

    def require(self, permission: str) -> None:
        """Raise Forbidden unless the credential has the permission, or admin."""
        if permission not in self.permissions and not self.is_admin:
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
        """True if a key of these permissions and this tenant is within the credential's own."""
        if self.is_admin:
            return True
        return self.permissions.issuperset(permissions) and self.sees(organization_id, workspace_id)


_decode = msgspec.msgpack.Decoder(Principal).decode


@lru_cache(1000)
def _unpacked(packed: bytes) -> Principal:
    """An equal principal, in the process that was handed it: the same one each time."""
    return _decode(packed)


def person(
    sub: str,
    permissions: Collection[str],
    organization_id: str | None = None,
    workspace_id: str | None = None,
    *,
    grant: Grant | None = None,
    session: bytes | None = None,
) -> Principal:
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

    Only root's environment is trusted: any other user could set the variable to any name.
    """
    user_id = os.getuid()
    if user_id == 0 and (caller := os.environ.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


COMMAND_LINE = Principal(f"cli:{_user()}", "system", frozenset({"admin"}))
"""The command line. It has all permissions, since its operator has access to the database anyway.
"""

SWEEPER = Principal("idle-sweeper", "system", frozenset({"admin"}))
"""Marks lines as idle."""

PAUSE_UNTIL = Principal("pause-until", "system", frozenset({"admin"}))
"""Lifts a hold whose end has come."""

LEASE_WATCH = Principal("lease-watch", "system", frozenset({"admin"}))
"""Fails a run whose lease has ended."""

PARENT_BY_NAME = Principal("parent-by-name", "system", frozenset({"admin"}))
"""Gives a run the parent that it named before the parent existed."""

PARENT_BY_TRACE = Principal("parent-by-trace", "system", frozenset({"admin"}))
"""Gives a run the parent that its trace shows (contract, Traces)."""

WATCHER = Principal("watches", "system", frozenset({"admin"}))
"""Opens, repeats and resolves alerts."""

HOUSEKEEPER = Principal("housekeeper", "system", frozenset({"admin"}))
"""Records how many refusals were only counted."""

SIGN_IN = Principal("sign-in", "system", frozenset({"admin"}))
"""Ends a session because of its provider or its grants."""

DISPATCHER = Principal("webhook-dispatcher", "system", frozenset({"admin"}))
"""Records that a delivery failed for good, or that a rule disabled an endpoint."""
