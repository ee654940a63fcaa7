"""Commands: requests that are decided under the append lock, with the unit of their group."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ledger.application.unit import Unit
from ledger.domain.errors import Invalid, Refused
from ledger.domain.recorded import Recorded
from ledger.intake.principal import Principal
from ledger.intake.request import About, IdempotencyKey, Receipt, Request, TenantOf


class Command(Request, Protocol):
    """A request that may be refused."""

    def decide(self, unit: Unit) -> Receipt:
        """Check, then record. Raises Refused before it records anything."""


class OwnCommand:
    """What most commands have in common: no fact, no key, nothing for the audit log."""

    action: ClassVar[str]
    """What the audit log calls it, where somebody asks for it."""
    subject_type: ClassVar[str | None] = None
    """What it is about, as the audit log calls that; None: something new, or nothing."""

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


@dataclass(eq=False, repr=False)
class SubjectCommand(OwnCommand):
    """A command about one aggregate that exists: its subject.

    Subclasses that take more are dataclasses too, without a ``repr``: a command may hold a secret.
    """

    subject_type: ClassVar[str]

    subject_id: str
    principal: Principal
    request_id: str | None = None
    fault: Invalid | None = field(default=None, kw_only=True)
    """What is wrong with the request: told only to who may know that the subject exists."""
    idempotency: IdempotencyKey | None = field(default=None, kw_only=True)

    def streams(self) -> Iterable[str]:
        """The subject."""
        return (self.subject_id,)

    def about(self) -> About | None:
        """The subject."""
        return About(self.action, (self.subject_type, self.subject_id))

    def decide(self, unit: Unit) -> Receipt:
        """Check, then record. Raises Refused."""
        raise NotImplementedError


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


def receipt(recorded: Recorded, answer: bytes | None = None) -> Receipt:
    """What became of a command that recorded one event."""
    return Receipt(recorded.originator_id, (recorded.event_id,), recorded.position, answer=answer)
