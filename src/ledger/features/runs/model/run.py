"""Run: one discrete invocation or cycle of a line (contract, State).

Input, output and error are already encrypted: the domain never sees their plaintext. The file has,
in this order: events, state, decisions, fold.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import ClassVar, TypedDict

import msgspec

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.event_table import SAME, DecisionEffect, EventRow
from ledger.engine.values.recorded import Event, Folded, Identity, Recorded
from ledger.engine.values.values import ENDED, Origin, RunStatus, TriggerType
from ledger.features.runs.model.token_usage import TokenUsage, Used


class Trigger(msgspec.Struct, frozen=True):
    """The trigger of a run."""

    type: TriggerType
    actor_id: str | None = None


_UNKNOWN = Used()

MAX_ABOVE = 1_000
"""The most runs above a parent, for a run that may have runs below it already."""


class RunName(TypedDict):
    """The name of a run at its source, which each of its events repeats."""

    external_id: str | None
    attempt: int
    retry_of: str | None


class Awaiting(msgspec.Struct, frozen=True, array_like=True):
    """A run's rank among those that await a parent of one name, which is not reported yet."""

    rank: int
    """1, 2, 3 …"""
    workspace_id: str | None = None
    """The workspace that the parent must belong to; None for any of the organization."""


class Awaited(msgspec.Struct, frozen=True, array_like=True):
    """The awaited parent: the identity of its name, and its workspace, if required."""

    name: Identity
    workspace_id: str | None = None


class RunEvent(Event, frozen=True, kw_only=True):
    """An event of a run."""

    attempt: int = 1
    """With ``external_id``, the run's name at its source."""
    retry_of: str | None = None


def _identities(body: "RunRequested | RunStarted", recorded: Recorded) -> Iterator[Identity]:
    """The run's name, if the event gives it, and its rank among those that await a parent."""
    gives_name = body.run_id_origin is not None or body.gives_external_id
    if gives_name and body.external_id is not None:
        yield recorded.name_of_run(body.external_id, body.attempt)
    if body.awaiting is not None and body.parent_external_id is not None:
        yield recorded.name_of_run(body.parent_external_id).awaiting(body.awaiting.rank)


class RunRequested(RunEvent, frozen=True, kw_only=True):
    """A run was requested: it is pending until it starts."""

    TOPIC = "run.requested/1"
    run_id_origin: Origin
    triggered_by: Trigger | None = None
    input: bytes | None = None
    external_id: str | None = None
    parent_run_id: str | None = None
    lease_seconds: int | None = None
    parent_external_id: str | None = None
    """The parent's name at the source of the fact, if the fact named it so."""
    awaiting: Awaiting | None = None
    """Set if no run of that name was reported before."""

    identities = _identities


class RunStarted(RunEvent, frozen=True, kw_only=True):
    """A run began."""

    # ``run_id_origin`` is set if the run was not requested before.
    TOPIC = "run.started/1"
    # A requested run keeps trigger, parent and lease if its start does not give them.
    run_id_origin: Origin | None = None
    triggered_by: Trigger | None = None
    input: bytes | None = None
    external_id: str | None = None
    gives_external_id: bool = False
    parent_run_id: str | None = None
    lease_seconds: int | None = None
    parent_external_id: str | None = None
    awaiting: Awaiting | None = None

    identities = _identities


class RunParentGiven(RunEvent, frozen=True, kw_only=True):
    """A run got its parent, which was reported after the run had named it."""

    # Its cause is the event that gave the parent the name.
    TOPIC = "run.parent_given/1"
    parent_run_id: str
    external_id: str | None = None


class RunCompleted(RunEvent, frozen=True, kw_only=True):
    """A run ended successfully; ``late`` if the run had been cancelled or failed by rule before."""

    TOPIC = "run.completed/1"
    output: bytes | None = None
    tokens_used: int | None = None
    duration_ms: int | None = None
    late: bool = False
    external_id: str | None = None
    token_usage: tuple[TokenUsage, ...] | None = None


class RunFailed(RunEvent, frozen=True, kw_only=True):
    """A run ended in an error; ``late`` if the run had been cancelled or failed by rule before."""

    TOPIC = "run.failed/1"
    error: bytes | None = None
    output: bytes | None = None
    tokens_used: int | None = None
    duration_ms: int | None = None
    late: bool = False
    external_id: str | None = None
    lease_expired: bool = False
    """True if the ledger itself failed the run, because its lease had ended."""
    last_heard_at: datetime | None = None
    """When the last fact or heartbeat of the run arrived before its lease ended."""
    token_usage: tuple[TokenUsage, ...] | None = None


class RunCancelled(RunEvent, frozen=True, kw_only=True):
    """A run was cancelled, by its reporter or because its line closed."""

    TOPIC = "run.cancelled/1"
    reason: str | None = None
    by_closing: bool = False
    duration_ms: int | None = None
    external_id: str | None = None
    tokens_used: int | None = None
    token_usage: tuple[TokenUsage, ...] | None = None


class RunUsageCorrected(RunEvent, frozen=True, kw_only=True):
    """The tokens of an ended run were corrected: these replace the former ones."""

    TOPIC = "run.usage_corrected/1"
    tokens_used: int
    token_usage: tuple[TokenUsage, ...] | None = None
    previous: int | None = None
    reason: str | None = None
    external_id: str | None = None


class RunErased(RunEvent, frozen=True, kw_only=True):
    """A run's input, output and error became unreadable for good."""

    # The run's key is destroyed in the same transaction. Only an ended run can be erased.

    TOPIC = "run.erased/1"
    reason: str
    external_id: str | None = None


_NAMED = ("external_id", "attempt", "retry_of")
_BEGUN = ("triggered_by", *_NAMED, "parent_run_id", "parent_external_id", "lease_seconds")
_ENDED = ("tokens_used", "token_usage", "duration_ms", "late", *_NAMED)
_CORRECTED = "run.usage_corrected"
_FAILED = (*_ENDED, "lease_expired", "last_heard_at")

LEASE_EXPIRED = {
    "code": "lease_expired",
    "message": "Nothing arrived from the run for as long as its lease.",
}

# Columns: event, published type, published payload, fact, command, note.
RUN_TABLE: tuple[EventRow, ...] = (
    EventRow(
        RunRequested, "run.requested", _BEGUN, "run.requested", None, DecisionEffect.RUN_REQUESTED
    ),
    EventRow(RunStarted, "run.started", _BEGUN, "run.started", None, DecisionEffect.RUN_STARTED),
    EventRow(RunParentGiven, "run.parent_given", SAME, None, None, DecisionEffect.RUN_MOVED),
    EventRow(
        RunCompleted, "run.completed", _ENDED, "run.completed", None, DecisionEffect.RUN_ENDED
    ),
    EventRow(RunFailed, "run.failed", _FAILED, "run.failed", None, DecisionEffect.RUN_ENDED),
    EventRow(
        RunCancelled, "run.cancelled", SAME, "run.cancelled", None, DecisionEffect.RUN_CANCELLED
    ),
    EventRow(RunUsageCorrected, _CORRECTED, SAME, _CORRECTED, None, DecisionEffect.PASSES),
    EventRow(RunErased, "run.erased", SAME, None, "run.erase", DecisionEffect.RUN_ERASED),
)

RUN_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in RUN_TABLE)


class Run(Folded, array_like=True):
    """The state of one run, folded from its stream, without its encrypted payloads."""

    organization_id: str = ""
    workspace_id: str = ""
    service_line_id: str = ""
    status: RunStatus = "pending"
    triggered_by: Trigger | None = None
    requested_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    """The ``time`` of the fact that ended the run: completed, failed or cancelled."""
    duration_ms: int | None = None
    tokens_used: int | None = None
    token_usage: tuple[TokenUsage, ...] | None = None
    """The tokens by model, if known: ``tokens_used`` is their sum."""
    usage_corrected_at: datetime | None = None
    """The ``time`` of the latest recorded correction."""
    cancelled_by_closing: bool = False
    erased_at: datetime | None = None
    """Since when input, output and error are unreadable; later events store none of them."""
    external_id: str | None = None
    """The run's name at the source of its request or start. Each event repeats it."""
    parent_run_id: str | None = None
    lease_seconds: int | None = None
    lease_expired: bool = False
    """True while the run shows the failure by its lease, which a late ending may replace."""
    attempt: int = 1
    retry_of: str | None = None
    awaited: Awaited | None = None

    @property
    def name(self) -> RunName:
        return RunName(external_id=self.external_id, attempt=self.attempt, retry_of=self.retry_of)

    # Decisions.

    def start(
        self,
        trigger: Trigger | None,
        sealed_input: bytes | None,
        *,
        name: RunName,
        lease_seconds: int | None = None,
    ) -> RunStarted:
        """Start a pending run. (A run that was never requested begins with its ``RunStarted``.)

        The start may give an external id to a run without one. The event repeats an unchanged
        lease, since the lease begins anew.
        """
        if self.status != "pending":
            raise InvalidState("The run has already started or ended.")
        gives_name = self.external_id is None and name["external_id"] is not None
        return RunStarted(
            triggered_by=trigger,
            input=sealed_input,
            gives_external_id=gives_name,
            lease_seconds=lease_seconds or self.lease_seconds,
            **(name if gives_name else self.name),
        )

    def require_retryable(self) -> None:
        """Refuse another attempt, unless this one has failed or was cancelled."""
        if self.status not in ("failed", "cancelled"):
            raise InvalidState("The attempt before has neither failed nor been cancelled.")

    def awaits(self, name: Identity) -> bool:
        return self.awaited is not None and self.awaited.name == name

    def fits_below(self, above: Collection[str]) -> bool:
        """True if the run may get a parent; ``above`` are this parent and the runs above it."""
        return self.id not in above and len(above) <= MAX_ABOVE + 1

    def give_parent(
        self, parent: "Run", above: Collection[str], awaited: Identity | None
    ) -> RunParentGiven | None:
        """Give the run a parent: by the ``awaited`` name, or (None) one that it did not name.

        Returns None if the run has a parent, awaits another name or does not fit below the runs
        ``above``, or if its reporter did not see the parent's workspace.
        """
        named = awaited and (Awaited(awaited), Awaited(awaited, parent.workspace_id))
        if self.awaited not in (named or (None,)) or self.parent_run_id:
            return None
        if not self.fits_below(above):
            return None
        return RunParentGiven(parent_run_id=parent.id, **self.name)

    def complete(
        self, at: datetime, output: bytes | None, used: Used, duration_ms: int | None
    ) -> RunCompleted:
        """Complete a started run, or once a run that a rule ended (``_require_endable``)."""
        late = self._require_endable(at)
        if self.started_at is None:
            raise InvalidState("The run has not started.")
        return RunCompleted(
            output=output,
            tokens_used=used.tokens,
            token_usage=used.by_model,
            duration_ms=self._duration(at, duration_ms),
            late=late,
            **self.name,
        )

    def fail(
        self,
        at: datetime,
        error: bytes | None,
        output: bytes | None,
        used: Used,
        duration_ms: int | None,
    ) -> RunFailed:
        """Fail an open run, or once a run that a rule ended (``_require_endable``)."""
        late = self._require_endable(at)
        return RunFailed(
            error=error,
            output=output,
            tokens_used=used.tokens,
            token_usage=used.by_model,
            duration_ms=self._duration(at, duration_ms),
            late=late,
            **self.name,
        )

    def require_lease(self) -> None:
        if self.status in ENDED:
            raise InvalidState("The run has already ended.")
        if self.lease_seconds is None:
            raise InvalidState("The run has no lease.")

    def expire(self, at: datetime, reported_at: datetime, error: bytes | None) -> RunFailed | None:
        """Fail an open run, because its lease ended at ``at``; None if the run has ended."""
        if self.status in ENDED:
            return None
        return RunFailed(
            error=error,
            duration_ms=self._duration(at, None),
            lease_expired=True,
            last_heard_at=reported_at,
            **self.name,
        )

    def cancel(
        self, at: datetime, reason: str | None, used: Used = _UNKNOWN, by_closing: bool = False
    ) -> RunCancelled:
        if self.status in ENDED:
            raise InvalidState("The run has already ended.")
        return RunCancelled(
            reason=reason,
            by_closing=by_closing,
            duration_ms=self._duration(at, None),
            tokens_used=used.tokens,
            token_usage=used.by_model,
            **self.name,
        )

    def correct(self, used: Used, reason: str | None) -> RunUsageCorrected:
        """Replace the tokens of a run whose ending stays."""
        if self.status not in ENDED:
            raise InvalidState("The run has not ended.")
        if self.lease_expired or self.cancelled_by_closing:
            raise InvalidState("The run may still take a late ending: report that with its tokens.")
        assert used.tokens is not None
        return RunUsageCorrected(
            tokens_used=used.tokens,
            token_usage=used.by_model,
            previous=self.tokens_used,
            reason=reason,
            **self.name,
        )

    def erase(self, reason: str) -> RunErased | None:
        """Erase an ended run's input, output and error; None if they are already erased."""
        if self.status not in ENDED:
            raise InvalidState("The run has not ended.")
        if self.erased_at is not None:
            return None
        return RunErased(reason=reason, **self.name)

    def _require_endable(self, at: datetime) -> bool:
        """True if an ending is late: it replaces an ending by a rule.

        The rule is the line's closing, or the end of the run's lease. Refused if the run ended in
        another way, or if the ending is after the closing that cancelled the run. (After a lease, a
        late ending may have any time that the line allows.)
        """
        if self.status not in ENDED:
            return False
        if self.lease_expired:
            return True
        if not self.cancelled_by_closing:
            raise InvalidState("The run has already ended.")
        if self.completed_at is not None and at > self.completed_at:
            raise InvalidState("The run's line was already closed at that time.")
        return True

    def _duration(self, at: datetime, reported: int | None) -> int | None:
        """The reported duration, or else the time from start to end; None if the run never started.

        Milliseconds, never below 0.
        """
        if self.started_at is None:
            return None
        if reported is not None:
            return reported
        return max(0, (at - self.started_at) // timedelta(milliseconds=1))

    # The fold.

    def _opened(self, body: RunRequested | RunStarted, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id or ""
        self.workspace_id = recorded.workspace_id or ""
        self.service_line_id = recorded.service_line_id or ""
        self.requested_at = recorded.occurred_at
        self._described(body, recorded)

    def _described(self, body: RunRequested | RunStarted, recorded: Recorded) -> None:
        self.triggered_by = body.triggered_by or self.triggered_by
        if body.external_id is not None:
            self.external_id = body.external_id
            self.attempt, self.retry_of = body.attempt, body.retry_of
        self.parent_run_id = body.parent_run_id or self.parent_run_id
        self.lease_seconds = body.lease_seconds or self.lease_seconds
        if body.parent_external_id is not None:
            name, awaiting = recorded.name_of_run(body.parent_external_id), body.awaiting
            self.awaited = None if awaiting is None else Awaited(name, awaiting.workspace_id)

    def _requested(self, body: RunRequested, recorded: Recorded) -> None:
        self._opened(body, recorded)

    def _started(self, body: RunStarted, recorded: Recorded) -> None:
        if body.run_id_origin is not None:
            self._opened(body, recorded)
        else:
            self._described(body, recorded)
        self.status = "running"
        self.started_at = recorded.occurred_at

    def _got_parent(self, body: RunParentGiven, recorded: Recorded) -> None:
        self.parent_run_id, self.awaited = body.parent_run_id, None

    def _completed(self, body: RunCompleted, recorded: Recorded) -> None:
        self._ended("completed", body, recorded)

    def _failed(self, body: RunFailed, recorded: Recorded) -> None:
        self._ended("failed", body, recorded)
        self.lease_expired = body.lease_expired

    def _cancelled(self, body: RunCancelled, recorded: Recorded) -> None:
        self._ended("cancelled", body, recorded)
        self.cancelled_by_closing = body.by_closing

    def _corrected(self, body: RunUsageCorrected, recorded: Recorded) -> None:
        self._use(body)
        self.usage_corrected_at = recorded.occurred_at

    def _use(self, body: RunCompleted | RunFailed | RunCancelled | RunUsageCorrected) -> None:
        self.tokens_used, self.token_usage = body.tokens_used, body.token_usage

    def _erased(self, body: RunErased, recorded: Recorded) -> None:
        self.erased_at = recorded.occurred_at

    def _ended(
        self, status: RunStatus, body: RunCompleted | RunFailed | RunCancelled, recorded: Recorded
    ) -> None:
        self.status = status
        self.completed_at = recorded.occurred_at
        self.duration_ms = body.duration_ms
        self._use(body)
        self.cancelled_by_closing = self.lease_expired = False

    _APPLY: ClassVar = {
        RunRequested: _requested,
        RunStarted: _started,
        RunParentGiven: _got_parent,
        RunCompleted: _completed,
        RunFailed: _failed,
        RunCancelled: _cancelled,
        RunUsageCorrected: _corrected,
        RunErased: _erased,
    }
