"""The recording of a fact: its own event, and the events that it causes on lines and runs."""

from datetime import datetime

import msgspec

from ledger.engine.values.principal import PARENT_BY_NAME, PAUSE_UNTIL
from ledger.engine.values.recorded import Event, FactIdentity, Folded, Identity, Recorded
from ledger.engine.writer.command import OwnCommand, receipt_of
from ledger.engine.writer.group import EventTenant, Group
from ledger.engine.writer.request import Receipt, Request
from ledger.features.facts.envelope import Fact
from ledger.features.lines.model.execution import Execution
from ledger.features.runs.model.run import Run
from ledger.features.runs.parents import runs_above

_RULE = OwnCommand(PAUSE_UNTIL)
"""The ledger's own request that lifts holds at their ends."""

_AT_ONCE = 100
"""Runs are loaded in batches of this size to get their parent: their events may be large."""

_PARENTAGE = OwnCommand(PARENT_BY_NAME)
"""The ledger's own request that gives runs the parents they named before."""


def lift_due(execution: Execution, group: Group, judged_at: datetime) -> Recorded | None:
    """Lift the operator's hold, if it has reached its end by then (contract, State).

    If the fact or command is refused later, the hold stays lifted: time has lifted it.
    """
    due = execution.lift_due(judged_at)
    return None if due is None else group.record(execution, *due, _RULE)


class Recording:
    """A fact under decision, through which the fact's handler reads and records."""

    def __init__(self, fact: Fact, request: Request, group: Group, identity: Identity) -> None:
        self.fact = fact
        self.principal = request.principal
        self.group = group
        self.at = fact.time or group.now
        self._request = request
        self._actor = fact.actor or request.principal.actor
        self._identity = identity
        self._is_lifted = False
        self._behind = 0
        """The number of caused events after the fact's own."""
        self.organization_id = identity.organization_id

    def own(
        self,
        aggregate: Folded,
        body: Event,
        *,
        digest: bytes | None = None,
        caused_by: str | None = None,
        tenant: EventTenant | None = None,
    ) -> None:
        """Record the fact's own event. For facts about runs, the caller gives a keyed digest.

        ``caused_by`` is the EVT id of the event that the fact undoes.
        """
        fact = self.fact
        if self._is_lifted:
            self._cause_lifting(self.group.next_position)
        self.group.record(
            aggregate,
            body,
            self.at,
            self._request,
            actor=self._actor,
            fact=FactIdentity(fact.source, fact.id, digest or fact.content),
            caused_by=caused_by,
            tenant=tenant,
            traceparent=fact.traceparent,
        )

    def lift_due(self, execution: Execution) -> None:
        """Lift a hold that has reached its end by now and by the fact's time, before its event."""
        judged_at = min(self.at, self.group.now)
        self._is_lifted = lift_due(execution, self.group, judged_at) is not None

    def _cause_lifting(self, position: int) -> None:
        """Name the fact's own event, which will have this position, as the cause of a lifting."""
        self.group.name_cause(self.group.event_id(position))

    def wake(self, execution: Execution, opens_run: bool) -> None:
        """If the activity woke the line, record this just before the activity's own event."""
        if not execution.idle:
            return
        events, threshold = self.group, self.group.idle_after(execution.execution_model)
        woken = execution.wake(self.at, opens_run, self.group.now, threshold)
        if woken is not None:
            cause = events.event_id(events.next_position + 1)
            events.record(
                execution, woken, self.at, self._request, actor=self._actor, caused_by=cause
            )

    def cancel_open_runs(self, execution: Execution) -> None:
        """Cancel every open run of a line that is about to close.

        The cancellations precede the closing in the log, so that at no position a closed line has
        an open run. The decision table has the runs' versions, so no run is loaded.
        """
        events, open_runs = self.group, self.group.open_runs(execution.id)
        closed_at = max(self.at, execution.changed_at or self.at)
        closing_at = events.next_position + len(open_runs)
        if self._is_lifted:
            self._cause_lifting(closing_at)
        closing = events.event_id(closing_at)
        for run_id, row in open_runs.items():
            values = row._asdict()
            del values["line_id"], values["run_id"]
            run = Run(run_id, **values)
            events.record(
                run,
                run.cancel(closed_at, None, by_closing=True),
                closed_at,
                self._request,
                actor=self._actor,
                caused_by=closing,
                tenant=(execution.organization_id, execution.workspace_id, execution.id),
                is_loaded=False,
            )

    def give_parent(self, parent: Run, name: Identity) -> None:
        """Give the parent to the runs that awaited a run of this name, after its own event."""
        group, memory = self.group, self.group.memory
        if memory.first(name.awaiting(1)) is None:
            return
        own = group.next_position - 1
        cause, awaiting = group.event_id(own), memory.streams(name.awaiting)
        above = runs_above(parent, group)
        for at in range(0, len(awaiting), _AT_ONCE):
            some = awaiting[at : at + _AT_ONCE]
            memory.load(some)
            for run_id in some:
                run = memory.find(run_id)
                assert isinstance(run, Run)
                body = run.give_parent(parent, above, name)
                if body is not None:
                    begun = run.requested_at or self.at
                    group.record(run, body, max(self.at, begun), _PARENTAGE, caused_by=cause)
        self._behind = group.next_position - 1 - own

    def receipt(self) -> Receipt:
        first = self.group.memory.first(self._identity)
        if first is None:
            raise AssertionError("a handler recorded no event")
        receipt = receipt_of(first, duplicate=False)
        return msgspec.structs.replace(receipt, behind=self._behind) if self._behind else receipt
