"""A request to write, and what becomes of it: the words below commands and the writer."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

import msgspec

from ledger.domain.errors import Refused, Unavailable
from ledger.domain.recorded import Actor
from ledger.intake.principal import Principal

TenantOf = Callable[[str], str | None]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command that was not refused."""

    subject: str
    event_ids: tuple[str, ...]
    position: int
    duplicate: bool = False
    replayed: bool = False
    """Whether it is that of an earlier request under the same idempotency key."""
    answer: bytes | None = None
    """JSON for the caller, where what was decided is all that the answer needs."""


Outcome = Receipt | Refused | Unavailable
"""What a request ends in."""


class IdempotencyKey(msgspec.Struct, frozen=True):
    """What names a request that may be sent again: per credential and path (contract 7)."""

    credential: str
    path: str
    key: str
    fingerprint: bytes
    """SHA-256 of the request: another one under the same key is a mistake."""


class About(msgspec.Struct, frozen=True):
    """What a write is about: all that the audit log keeps of one that is turned down."""

    action: str
    resource: tuple[str, str] | None = None
    """(type, id), where what was sent names one."""
    actor: Actor | None = None
    """As reported; None: the credential itself."""
    occurred_at: datetime | None = None
    source: str | None = None
    fact_id: str | None = None
    tenant: tuple[str, str | None] | None = None
    """(organization, workspace) that it names for something new."""
    line_id: str | None = None
    """The line that it names for something new."""

    @property
    def streams(self) -> tuple[str, ...]:
        """What may tell whose it is, in this order."""
        named = (self.resource and self.resource[1], self.line_id)
        return tuple(stream for stream in named if stream is not None)


class Request(Protocol):
    """Who asks, under which key, and what must be known before it is decided."""

    principal: Principal
    request_id: str | None

    @property
    def idempotency(self) -> IdempotencyKey | None:
        """Under which key it was sent, if any."""

    def streams(self) -> Iterable[str]:
        """Ids of the aggregates it decides on, as far as known beforehand."""

    def identity(self, tenant_of: TenantOf) -> tuple[str, str, str] | None:
        """(organization, source, fact id), where it is a fact and its organization is known.

        ``tenant_of`` tells the organization of a stream, as far as known beforehand.
        """

    def about(self) -> About | None:
        """What the audit log says of it should it be refused; None: the service's own doing."""
