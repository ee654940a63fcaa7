"""Facts about runs: the part of reporting that works on two aggregates (contract, Facts and State).

A run starts only on a line that accepts runs, and a closed line has no open run. The two rules span
streams; they hold because line and run are decided together under the append lock.
"""

import os
from collections.abc import Callable
from typing import Any

import msgspec

from ledger.application.recording import Recording
from ledger.application.unit import Unit
from ledger.domain.errors import Invalid, InvalidState, NotFound
from ledger.domain.execution import Execution
from ledger.domain.run import Run, RunRequested, RunStarted, Trigger
from ledger.domain.values import MAX_OPEN_RUNS, Origin
from ledger.intake import fact_types as types
from ledger.intake.envelope import Fact
from ledger.intake.principal import Principal
from ledger.log.snapshots import Aggregate
from ledger.log.vault import RunKey

_encode = msgspec.json.Encoder().encode


def subject(fact: Fact, principal: Principal, unit: Unit) -> Run | None:
    """The run of the fact; None if the fact begins a new run. Raises NotFound.

    A start or request of an unknown run begins a new run, so its line must exist. If the data name
    no line, the data are at fault (422): the fact is not refused as an unknown run (404).
    """
    begins = fact.type in ("run.requested", "run.started")
    known = unit.loader.find(fact.subject) if fact.subject is not None else None
    if known is not None:
        run = unit.loader.run(known.id, principal)
    elif begins:
        run = None
        require_not_anothers(fact.subject, principal, unit)
    else:
        raise NotFound("No such run.")
    if begins:
        _require_line(fact, run, principal, unit)
    return run


def _require_line(fact: Fact, run: Run | None, principal: Principal, unit: Unit) -> None:
    """Refuse (404, 422) a request or start without a line that can have runs."""
    line_id = fact.named_line or (run.service_line_id if run is not None else None)
    if line_id is not None:
        execution = unit.loader.execution(line_id, principal)
        if fact.fault is None:
            execution.require_runs()
    elif fact.fault is None:
        raise Invalid.at("/data/service_line_id", "is required for a run that was never requested")


def require_not_anothers(run_id: str | None, principal: Principal, unit: Unit) -> None:
    """Refuse (404) a supplied RUN id that belongs to something the credential does not see."""
    if run_id is not None:
        _bearer(run_id, principal, unit)


def require_free(run_id: str, principal: Principal, unit: Unit) -> None:
    """Refuse a supplied RUN id that a run or an execution record already bears."""
    if _bearer(run_id, principal, unit) is not None:
        raise InvalidState("The RUN id is already taken.")


def _bearer(run_id: str, principal: Principal, unit: Unit) -> Aggregate | None:
    """The run of this id, or the line whose execution record bears the id. Raises NotFound.

    If the credential does not see the run or line, the id is refused as not found: the refusal
    "already taken" would reveal that the run or line exists.
    """
    found = unit.loader.find(run_id)
    record = unit.append.decisions.records.get(run_id)
    if found is None and record is not None:
        found = unit.loader.find(record.line_id)
    if found is not None and not principal.sees(found.organization_id, found.workspace_id):
        raise NotFound("No such run.")
    return found


def _requested(recording: Recording, run: Run | None, data: types.RunRequested) -> None:
    execution = recording.unit.loader.execution(data.service_line_id, recording.principal)
    _require_opening(recording, run, execution)
    _begin(recording, execution, RunRequested, data)


def _started(recording: Recording, run: Run | None, data: types.RunStarted) -> None:
    unit, principal = recording.unit, recording.principal
    if run is None:
        execution = unit.loader.execution(data.service_line_id or "", principal)
        _require_opening(recording, run, execution)
        execution.require_startable(recording.at)
        _begin(recording, execution, RunStarted, data)
        return
    if data.service_line_id not in (None, run.service_line_id):
        raise InvalidState("The run was requested on another line.")
    execution = unit.loader.execution(run.service_line_id, principal)
    body = run.start(_trigger(data.triggered_by), None)
    execution.require_startable(recording.at)
    key = unit.loader.run_key(run)
    sealed = _seal(key, "input", run.version + 1, data.input)
    _own(recording, run, msgspec.structs.replace(body, input=sealed), key)


def _require_opening(recording: Recording, run: Run | None, execution: Execution) -> None:
    """Refuse a new run if the line is closed or has too many open runs, or if the id is taken."""
    if run is not None:
        raise InvalidState("The run already exists.")
    execution.require_open()
    subject_id = recording.fact.subject
    if subject_id is not None:
        require_free(subject_id, recording.principal, recording.unit)
    if recording.unit.loader.activity(execution.id).open_runs >= MAX_OPEN_RUNS:
        raise InvalidState(f"The line already has {MAX_OPEN_RUNS:,} open runs, the maximum.")


def _begin(
    recording: Recording,
    execution: Execution,
    body: type[RunRequested] | type[RunStarted],
    data: types.RunRequested | types.RunStarted,
) -> None:
    """Record the first event of a run."""
    unit, supplied = recording.unit, recording.fact.subject
    origin: Origin = "issued" if supplied is None else "supplied"
    run_id = supplied or unit.issue("RUN")
    key = unit.events.create_run_key(execution.organization_id, run_id)
    recording.wake(execution, opens_run=True)
    event = body(
        run_id_origin=origin,
        triggered_by=_trigger(data.triggered_by),
        input=_seal(key, "input", 1, data.input),
    )
    tenant = (execution.organization_id, execution.workspace_id, execution.id)
    _own(recording, Run(run_id), event, key, tenant)


def _completed(recording: Recording, run: Run, data: types.RunCompleted) -> None:
    run.complete(recording.at, None, None, None)
    key = recording.unit.loader.run_key(run)
    output = _seal(key, "output", run.version + 1, data.output)
    body = run.complete(recording.at, output, data.tokens_used, data.duration_ms)
    _own(recording, run, body, key)


def _failed(recording: Recording, run: Run, data: types.RunFailed) -> None:
    run.fail(recording.at, None, None, None, None)
    key = recording.unit.loader.run_key(run)
    version = run.version + 1
    error = _seal(key, "error", version, data.error and data.error.model_dump())
    output = _seal(key, "output", version, data.output)
    body = run.fail(recording.at, error, output, data.tokens_used, data.duration_ms)
    _own(recording, run, body, key)


def _cancelled(recording: Recording, run: Run, data: types.Reasoned) -> None:
    body = run.cancel(recording.at, data.reason)
    _own(recording, run, body, recording.unit.loader.run_key(run))


def _own(
    recording: Recording,
    run: Run,
    body: Any,
    key: RunKey | None,
    tenant: tuple[str | None, str | None, str | None] | None = None,
) -> None:
    """Record a run's own event; nobody can guess the content from its keyed digest."""
    content = recording.fact.content
    # An erased run has no key, so the digest of its late ending is random: no trace of the content
    # is kept.
    digest = key.digest(content) if key is not None else os.urandom(32)
    recording.own(run, body, digest=digest, tenant=tenant)


def _seal(key: RunKey | None, field: str, version: int, value: Any) -> bytes | None:
    if value is None or key is None:
        return None
    return key.seal(field, version, _encode(value))


def _trigger(data: types.TriggeredBy | None) -> Trigger | None:
    return None if data is None else Trigger(data.type, data.actor_id)


HANDLERS: dict[str, Callable[[Recording, Any, Any], None]] = {
    "run.requested": _requested,
    "run.started": _started,
    "run.completed": _completed,
    "run.failed": _failed,
    "run.cancelled": _cancelled,
}
