"""Commands: requests that may be refused, decided under the append lock with a group's unit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ledger.application.unit import Unit
from ledger.domain.errors import Invalid, Refused
from ledger.domain.identity import Identity
from ledger.domain.recorded import Recorded
from ledger.intake.principal import Principal
from ledger.intake.request import About, IdempotencyKey, Receipt, Request, TenantOf


class Command(Request, Protocol):
    """A request that may be refused."""

    def decide(self, unit: Unit) -> Receipt:
        """Check the command, then record its events. Raises Refused before anything is recorded."""


class OwnCommand:
    """The base of commands that are not facts: no key and no entry in the audit log by default."""

    action: ClassVar[str]
    """The command's action in the audit log, for commands that a caller asks for."""
    subject_type: ClassVar[str | None] = None
    """The type of the command's subject in the audit log; None: a new aggregate, or no subject."""
    needs_key: ClassVar[bool] = True

    def __init__(self, principal: Principal, request_id: str | None = None) -> None:
        self.principal = principal
        self.request_id = request_id
        self.idempotency: IdempotencyKey | None = None

    def streams(self) -> Iterable[str]:
        return ()

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        """No identity: the command is not a fact."""
        return ()

    def about(self) -> About | None:
        """Return None: no caller asked for the command, so the audit log keeps no refusal."""
        return None


@dataclass(eq=False, repr=False)
class SubjectCommand(OwnCommand):
    """A command about one existing aggregate, its subject.

    Subclasses with more fields are dataclasses too, without ``repr``: a command may hold a secret.
    """

    subject_type: ClassVar[str]

    subject_id: str
    principal: Principal
    request_id: str | None = None
    fault: Invalid | None = field(default=None, kw_only=True)
    """The fault of the request, raised only after the caller is known to see the subject."""
    idempotency: IdempotencyKey | None = field(default=None, kw_only=True)

    def streams(self) -> Iterable[str]:
        return (self.subject_id,)

    def about(self) -> About | None:
        return About(self.action, (self.subject_type, self.subject_id))

    def decide(self, unit: Unit) -> Receipt:
        """Check the command, then record its events. Raises Refused."""
        raise NotImplementedError


class TurnDown(OwnCommand):
    """A write that was refused before any decision: the command only records the refusal."""

    needs_key = False

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
        """The streams that the write names, so that those of a whole group are loaded at once."""
        return self._about.streams if self._about is not None else ()

    def about(self) -> About | None:
        """The subject of the write, as far as it could be read."""
        return self._about

    def decide(self, unit: Unit) -> Receipt:
        raise self._refusal


def receipt(recorded: Recorded, answer: bytes | None = None) -> Receipt:
    """The receipt of a command that recorded one event."""
    return Receipt(recorded.originator_id, (recorded.event_id,), recorded.position, answer=answer)
