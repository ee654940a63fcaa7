"""Commands about runs."""

from dataclasses import dataclass, field

from ledger.application.command import SubjectCommand, receipt
from ledger.application.unit import Unit
from ledger.intake.request import Receipt


@dataclass(eq=False, repr=False)
class EraseRun(SubjectCommand):
    """Make an ended run's input, output and error unreadable for good (contract, Proof)."""

    action = "run.erase"
    subject_type = "run"

    reason: str = field(kw_only=True)

    def decide(self, unit: Unit) -> Receipt:
        """Record the erasure, once. Raises NotFound, Invalid or InvalidState."""
        run = unit.loader.run(self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = run.erase(self.reason)
        if body is None:
            return Receipt(run.id, (), 0, duplicate=True)
        recorded = unit.events.record(run, body, unit.now, self)
        # Drop the run's key from this process's memory at once. (The decision tables delete the key
        # from the database and notify the other processes.)
        unit.loader.run_key(run)
        return receipt(recorded)
