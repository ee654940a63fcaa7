"""Requests to write and their outcomes: the types that commands and the writer build on."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import ClassVar, Protocol

import msgspec

from ledger.engine.values.errors import Refused, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Actor, Identity

TenantOf = Callable[[str], str | None]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a command that was not refused."""

    subject: str
    event_ids: tuple[str, ...]
    position: int
    """The position of the request's own event, or of the last one."""
    duplicate: bool = False
    replayed: bool = False
    """True if the receipt is of an earlier request under the same idempotency key."""
    answer: bytes | None = None
    """The JSON response, if the decision alone determines it."""
    behind: int = 0
    """How many events that the request caused come after its own."""

    @property
    def last_position(self) -> int:
        """The last position that the request recorded."""
        return self.position + self.behind


Outcome = Receipt | Refused | Unavailable


class IdempotencyKey(msgspec.Struct, frozen=True):
    """The idempotency key of a request, per credential and path (contract, Access)."""

    credential: str
    path: str
    key: str
    fingerprint: bytes
    """SHA-256 of the request: a different request under the same key is refused."""


DIRECTORY_KINDS = frozenset({"workspace", "project"})
"""The types of resources whose id alone names no stream (``features/directory/model.py``)."""


class About(msgspec.Struct, frozen=True):
    """The action and subject of a write: all that the audit log stores of a refused write."""

    action: str
    resource: tuple[str, str] | None = None
    """(type, id) of the resource in the request; None if there is none."""
    actor: Actor | None = None
    """The actor as reported; None for the credential itself."""
    occurred_at: datetime | None = None
    source: str | None = None
    fact_id: str | None = None
    tenant: tuple[str, str | None] | None = None
    """(organization, workspace) in the request for a new resource."""
    line_id: str | None = None
    """The line in the request for a new run."""

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that may determine the tenant of the write, in this order."""
        named = [self.line_id] if self.line_id is not None else []
        if self.resource is not None and self.resource[0] not in DIRECTORY_KINDS:
            named.insert(0, self.resource[1])
        return tuple(named)


class Request(Protocol):
    """A request to write: its credential, its idempotency key, and the data to load for it."""

    principal: Principal
    request_id: str | None
    needs_key: ClassVar[bool]
    """True if the caller's API key must still be valid under the append lock."""

    @property
    def idempotency(self) -> IdempotencyKey | None:
        """The idempotency key of the request, if any."""

    @property
    def issues(self) -> str | None:
        """The prefix of the id that the ledger issues for the request, unless it is refused."""

    def streams(self) -> Iterable[str]:
        """Ids of the aggregates that the decision needs, as far as known beforehand."""

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        """The identities that the decision looks up; none if the organization is not known yet.

        ``tenant_of`` gives the organization of a stream, as far as known beforehand.
        """

    def followup_identities(
        self, tenant_of: TenantOf, exists: Callable[[Identity], bool]
    ) -> Iterable[Identity]:
        """The identities that the decision looks up because of others that exist."""

    def about(self) -> About | None:
        """The data for the audit log if the request is refused; None for the service itself."""
