"""Commands about runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from ledger.engine.log.leases import EndedLease
from ledger.engine.values.principal import LEASE_WATCH
from ledger.engine.writer.command import SubjectCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.features.runs.model.run import LEASE_EXPIRED, Run

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False, repr=False)
class EraseRun(SubjectCommand):
    """Make an ended run's input, output and error unreadable for good (contract, Proof)."""

    action = "run.erase"
    subject_type = "run"

    reason: str = field(kw_only=True)

    def decide(self, group: Group) -> Receipt:
        """Record the erasure, once. Raises NotFound, Invalid or InvalidState."""
        run = group.memory.get(Run, self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = run.erase(self.reason)
        if body is None:
            return self.unchanged()
        recorded = group.record(run, body, group.now, self)
        # Drop the run's key from this process's memory at once. (The decision tables delete the key
        # from the database and notify the other processes.)
        group.memory.run_key(run)
        return receipt(recorded)


class Heartbeat(SubjectCommand):
    """Begin a run's lease anew, without an event (contract, Facts)."""

    needs_key = False
    """Like facts: see ``ReportFact``."""

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound, or InvalidState for a run that has ended or has no lease."""
        run = group.memory.get(Run, self.subject_id, self.principal)
        run.require_lease()
        group.tables.hear(run.id, group.now)
        return self.unchanged()


class ExpireLease(SubjectCommand):
    """Fail a run, if its lease has ended by now (contract, Facts)."""

    def __init__(self, run_id: str, together: Sequence[str] = ()) -> None:
        """``together`` are the runs of the group, whose leases are then read at once."""
        super().__init__(run_id, LEASE_WATCH)
        self._together = together

    def decide(self, group: Group) -> Receipt:
        """Record the failure as of the lease's end; leave a run alone that has reported since."""
        run = group.memory.find(self.subject_id)
        lease = self._ended(group)
        if lease is None or not isinstance(run, Run):
            return self.unchanged()
        key = group.memory.run_key(run)
        error = key.seal("error", run.version + 1, _encode(LEASE_EXPIRED)) if key else None
        body = run.expire(lease.ends_at, lease.reported_at, error)
        if body is None:
            return self.unchanged()
        return receipt(group.record(run, body, lease.ends_at, self))

    def _ended(self, group: Group) -> EndedLease | None:
        """The lease, if it has ended; a story itself says when its leases end."""
        return group.ended_lease(self.subject_id, self._together)
