"""What is asked for and what comes of it: the words between the edge, the writer and decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from ledger.application.principal import Principal
from ledger.domain.errors import Refused, Unavailable
from ledger.domain.recorded import Actor

if TYPE_CHECKING:
    from ledger.application.unit import Unit

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


class Command(Protocol):
    """A request that may be refused."""

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

    def decide(self, unit: Unit) -> Receipt:
        """Check, then record. Raises Refused before it records anything."""


class OwnCommand:
    """What most commands have in common: no fact, no key, nothing for the audit log."""

    def __init__(self, principal: Principal, request_id: str | None = None) -> None:
        self.principal = principal
        self.request_id = request_id
        self.idempotency: IdempotencyKey | None = None

    def streams(self) -> Iterable[str]:
        """None that is known."""
        return ()

    def identity(self, tenant_of: TenantOf) -> tuple[str, str, str] | None:
        """No fact."""
        return None

    def about(self) -> About | None:
        """Nobody's request."""
        return None


class TurnDown(OwnCommand):
    """A write that was refused before any decision: only the record of it is made."""

    def __init__(
        self,
        refusal: Refused,
        about: About | None,
        principal: Principal,
        request_id: str | None,
    ) -> None:
        super().__init__(principal, request_id)
        self._refusal, self._about = refusal, about

    def streams(self) -> Iterable[str]:
        """What it names: a thousand of them are looked up at once."""
        return self._about.streams if self._about is not None else ()

    def about(self) -> About | None:
        """What it was about, as far as that could be read."""
        return self._about

    def decide(self, unit: Unit) -> Receipt:
        """Raises the refusal."""
        raise self._refusal


Outcome = Receipt | Refused | Unavailable
"""What a command ends in."""
