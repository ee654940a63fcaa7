"""Commands about runs."""

from collections.abc import Iterable

from ledger.application.command import OwnCommand, receipt
from ledger.application.unit import Unit
from ledger.domain.errors import Invalid
from ledger.intake.principal import Principal
from ledger.intake.request import About, IdempotencyKey, Receipt


class EraseRun(OwnCommand):
    """Make an ended run's input, output and error unreadable for good (contract 6)."""

    action = "run.erase"

    def __init__(
        self,
        run_id: str,
        principal: Principal,
        request_id: str | None = None,
        *,
        reason: str,
        fault: Invalid | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> None:
        super().__init__(principal, request_id)
        self.run_id = run_id
        self.reason = reason
        self.fault = fault
        """What is wrong with the request: told only to who may know that the run exists."""
        self.idempotency = idempotency

    def streams(self) -> Iterable[str]:
        """The run."""
        return (self.run_id,)

    def about(self) -> About:
        """The run."""
        return About(self.action, ("run", self.run_id))

    def decide(self, unit: Unit) -> Receipt:
        """Recorded once. Raises NotFound, Invalid or InvalidState."""
        run = unit.loader.run(self.run_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = run.erase(self.reason)
        if body is None:
            return Receipt(run.id, (), 0, duplicate=True)
        recorded = unit.events.record(run, body, unit.now, self)
        # Out of this process's memory at once. (The decision tables take it out of the database,
        # and tell the others.)
        unit.loader.run_key(run)
        return receipt(recorded)
