"""The recording of one fact: its own event, the events that the fact causes, and its outcome."""

from ledger.application.new_events import EventTenant
from ledger.application.unit import Unit
from ledger.domain.directory import DirectoryEntry, id_of
from ledger.domain.execution import Execution
from ledger.domain.identity import Identity
from ledger.domain.recorded import Event, FactIdentity
from ledger.domain.run import Run
from ledger.intake.envelope import Fact
from ledger.intake.request import Receipt, Request
from ledger.log.decisions import First
from ledger.log.vault import content_digest


class Recording:
    """A fact under decision: the fact's handler reads and records through this object."""

    def __init__(self, fact: Fact, request: Request, unit: Unit, identity: Identity) -> None:
        self.fact = fact
        self.principal = request.principal
        self.unit = unit
        self.at = fact.time or unit.now
        self._request = request
        self._actor = fact.actor or request.principal.actor
        self._identity = identity
        self.organization_id = identity.organization_id

    def own(
        self,
        aggregate: Execution | Run | DirectoryEntry,
        body: Event,
        *,
        digest: bytes | None = None,
        caused_by: str | None = None,
        tenant: EventTenant | None = None,
    ) -> None:
        """Record the fact's own event. For facts about runs, the caller gives a keyed digest.

        ``caused_by`` is the EVT id of the event that the fact takes back.
        """
        digest = digest or content_digest(self.fact.content)
        self.unit.events.record(
            aggregate,
            body,
            self.at,
            self._request,
            actor=self._actor,
            fact=FactIdentity(self.fact.source, self.fact.id, digest),
            caused_by=caused_by,
            tenant=tenant,
        )

    def wake(self, execution: Execution, opens_run: bool) -> None:
        """Record that the activity woke the line, if so, just before the activity's own event."""
        events, threshold = self.unit.events, self.unit.idle_after(execution.execution_model)
        woken = execution.wake(self.at, opens_run, self.unit.now, threshold)
        if woken is not None:
            cause = events.event_id(events.next_position + 1)
            events.record(
                execution, woken, self.at, self._request, actor=self._actor, caused_by=cause
            )

    def cancel_open_runs(self, execution: Execution) -> None:
        """Cancel every open run of a line that is about to close.

        In the log the cancellations come before the closing, so that at no position a closed line
        has an open run. The runs' versions come from the decision table, so no run is loaded.
        """
        events, open_runs = self.unit.events, self.unit.append.open_runs(execution.id)
        closed_at = max(self.at, execution.changed_at or self.at)
        closing = events.event_id(events.next_position + len(open_runs))
        for run_id, row in open_runs.items():
            run = Run(
                run_id,
                version=row.version,
                started_at=row.started_at,
                external_id=row.external_id,
            )
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

    def receipt(self) -> Receipt:
        first = self.unit.loader.first(self._identity)
        if first is None:
            raise AssertionError("a handler recorded no event")
        return receipt_of(first, duplicate=False)


def receipt_of(first: First, *, duplicate: bool) -> Receipt:
    event = first.event
    return Receipt(id_of(event.originator_id), first.event_ids, event.position, duplicate)
