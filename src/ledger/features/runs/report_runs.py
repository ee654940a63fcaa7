"""Facts about runs: the part of reporting that works on two aggregates (contract, Facts and State).

A run starts only on a line that accepts runs, and a closed line has no open run. Both rules span
streams; they hold because line and run are decided together under the append lock.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypedDict

import msgspec

from ledger.engine.log.vault import RunKey
from ledger.engine.values.errors import IdTaken, Invalid, InvalidState, NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Folded, Identity
from ledger.engine.values.values import MAX_OPEN_RUNS, Origin
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import NEXT, sees
from ledger.features.facts import fact_types as types
from ledger.features.facts.envelope import Fact
from ledger.features.facts.recording import Recording
from ledger.features.lines.model.execution import Execution
from ledger.features.runs.model.run import Awaiting, Run, RunName, RunRequested, RunStarted, Trigger
from ledger.features.runs.parents import runs_above

_encode = msgspec.json.Encoder().encode

_Naming = Callable[[int], Identity]
"""Returns the identity of an attempt of a name."""

MAX_AWAITING = 1_000
"""The most runs that await one name: one append gives all of them their parent."""

_OWN_PARENT = "A run is not its own parent."


def names_a_run(fact: Fact) -> bool:
    """True if the fact names its run or a parent by external ids."""
    return fact.external_id is not None or fact.parent_external_id is not None


def identities(fact: Fact, organization_id: str) -> tuple[Identity, ...]:
    """The identities of the runs that the fact names, and of a run that awaits the fact's run.

    A name's second attempt shows whether it has more than one.
    """
    if not names_a_run(fact):
        return ()
    own, parent = _naming(fact, organization_id), _parentage(fact, organization_id)
    names = [name(number) for name in (own, parent) if name is not None for number in (1, 2)]
    if own is not None and fact.kind.subject_optional:
        names.append(own(1).awaiting(1))
    if parent is not None:
        names += [parent(1).awaiting(rank) for rank in (1, 2)]
    if own is not None and fact.attempt is not None and fact.attempt > 1:
        names += [own(fact.attempt - 1), own(fact.attempt)]
    return tuple(dict.fromkeys(names))


def followup_identities(
    fact: Fact, organization_id: str, exists: Callable[[Identity], bool]
) -> Iterator[Identity]:
    """The next attempts of the fact's names, for names that have a second attempt."""
    for name in (_naming(fact, organization_id), _parentage(fact, organization_id)):
        if name is not None and exists(name(2)):
            yield from map(name, NEXT)


def _naming(fact: Fact, organization_id: str) -> _Naming | None:
    """The identity of an attempt of the fact's run; None if the fact has no external id."""
    return _named(fact, fact.external_id, organization_id)


def _parentage(fact: Fact, organization_id: str) -> _Naming | None:
    """Likewise for the parent that the fact names."""
    return _named(fact, fact.parent_external_id, organization_id)


def _named(fact: Fact, name: str | None, organization_id: str) -> _Naming | None:
    if name is None or not organization_id:
        return None
    return partial(Identity.of_run, organization_id, fact.source, name)


def named_run(fact: Fact, organization_id: str, group: Group) -> Run | None:
    """The run that the fact's external id names, even an unseen one; None if it names no run.

    Without an attempt, the name means its latest one, or that of the fact's subject.
    """
    naming = _naming(fact, organization_id)
    if naming is None:
        return None
    if fact.attempt is not None:
        return run_of(naming(fact.attempt), group)
    subject_run = group.memory.find(fact.subject) if fact.subject is not None else None
    if isinstance(subject_run, Run) and subject_run.external_id == fact.external_id:
        found = run_of(naming(subject_run.attempt), group)
        if found is not None and found.id == subject_run.id:
            return found
    latest = group.memory.length(naming)
    return run_of(naming(latest), group) if latest else None


def run_of(name: Identity, group: Group) -> Run | None:
    first = group.memory.first(name)
    found = group.memory.find(first.event.originator_id) if first is not None else None
    return found if isinstance(found, Run) else None


def subject(fact: Fact, named: Run | None, principal: Principal, group: Group) -> Run | None:
    """The run of the fact; None if the fact begins a new run. Raises NotFound.

    ``named`` is the run that the external id names. ``record`` checks the ids of a new run later,
    since a missing run (404) and wrong data (422) come first.
    """
    if fact.subject is None and fact.named_line is None and principal.is_admin:
        sentence = "is required of an administrator, unless the data name the line"
        raise fact.fault or Invalid.at("/subject", sentence)
    found = named if fact.subject is None else group.memory.find(fact.subject)
    run = found if isinstance(found, Run) and sees(principal, found) else None
    if fact.kind.subject_optional:
        _require_line(fact, run, named, principal, group)
    elif fact.subject is None and fact.external_id is None and fact.fault is not None:
        raise fact.fault
    elif run is None or (fact.external_id is not None and not sees(principal, named)):
        raise NotFound("No such run.")
    if fact.named_parent is not None:
        group.memory.get(Run, fact.named_parent, principal)
    return run


def _require_line(
    fact: Fact, run: Run | None, named: Run | None, principal: Principal, group: Group
) -> None:
    """Refuse (404, 422) a request or start without a line that can have runs.

    If the data name no line, they are at fault (422): the fact is not refused as an unknown run
    (404). A start of a run that the credential does not see passes: its ids are taken (409).
    """
    line_id = fact.named_line or (run.service_line_id if run is not None else None)
    if line_id is not None:
        execution = group.memory.get(Execution, line_id, principal)
        if fact.fault is None:
            execution.require_runs()
    elif fact.fault is None:
        bearer = _bearer(fact.subject, group) if fact.subject is not None else None
        if all(found is None or sees(principal, found) for found in (bearer, named)):
            sentence = "is required for a run that was never requested"
            raise Invalid.at("/data/service_line_id", sentence)


def require_free(run_id: str, principal: Principal, group: Group) -> None:
    """Refuse a RUN id that a run or an execution record already has."""
    bearer = _bearer(run_id, group)
    if bearer is not None:
        raise InvalidState("The RUN id is already taken.") if sees(principal, bearer) else IdTaken


def _bearer(run_id: str, group: Group) -> Folded | None:
    """The run of this id, or the line whose execution record has it."""
    found = group.memory.find(run_id)
    record = group.tables.records.get(run_id)
    return group.memory.find(record.line_id) if found is None and record is not None else found


def record(recording: Recording, run: Run | None, data: Any) -> None:
    """Record a fact about a run, or about a new run. Raises InvalidState and IdTaken."""
    fact, principal, group = recording.fact, recording.principal, recording.group
    named = named_run(fact, recording.organization_id, group)
    if run is None and fact.subject is not None:
        require_free(fact.subject, principal, group)
    if named is not None and not sees(principal, named):
        raise IdTaken
    if fact.external_id is not None and not _fits(run, named):
        raise InvalidState("The external id does not name the run, or names another run already.")
    if fact.attempt is not None and _attempt_of(run, fact) != fact.attempt:
        raise InvalidState("The run is another attempt.")
    _HANDLERS[fact.type](recording, run, data)


def _attempt_of(run: Run | None, fact: Fact) -> int:
    """The attempt of the fact's run; for a run that gets its name now, the fact's own."""
    if fact.external_id is not None and (run is None or run.external_id is None):
        return fact.attempt or 1
    return 1 if run is None else run.attempt


def _fits(run: Run | None, named: Run | None) -> bool:
    """True if a fact about ``run`` may have an external id that names ``named``, or no run."""
    if named is None:
        return run is None or run.external_id is None
    return run is not None and run.id == named.id


def _requested(recording: Recording, run: Run | None, data: types.RunRequested) -> None:
    execution = recording.group.memory.get(Execution, data.service_line_id, recording.principal)
    _require_opening(recording, run, execution)
    _begin(recording, execution, RunRequested, data)


def _started(recording: Recording, run: Run | None, data: types.RunStarted) -> None:
    group, principal = recording.group, recording.principal
    if run is None:
        execution = group.memory.get(Execution, data.service_line_id or "", principal)
        _require_opening(recording, run, execution)
        execution.require_startable(recording.at)
        _begin(recording, execution, RunStarted, data)
        return
    if data.service_line_id not in (None, run.service_line_id):
        raise InvalidState("The run was requested on another line.")
    execution = group.memory.get(Execution, run.service_line_id, principal)
    name = run.name if run.external_id is not None else _name(recording)
    naming = _naming(recording.fact, recording.organization_id)
    if naming is not None and run.awaits(naming(1)):
        raise InvalidState(_OWN_PARENT)
    body = run.start(_trigger(data.triggered_by), None, name=name, lease_seconds=data.lease_seconds)
    execution.require_startable(recording.at)
    key = group.memory.run_key(run)
    sealed = _seal(key, "input", run.version + 1, data.input)
    parent = _parent(recording, run)
    _own(recording, run, msgspec.structs.replace(body, input=sealed, **parent), key)
    if body.gives_external_id:
        _give_parent(recording, run)


def _require_opening(recording: Recording, run: Run | None, execution: Execution) -> None:
    if run is not None:
        raise InvalidState("The run already exists.")
    execution.require_open()
    if recording.group.memory.activity(execution.id).open_runs >= MAX_OPEN_RUNS:
        raise InvalidState(f"The line already has {MAX_OPEN_RUNS:,} open runs, the maximum.")


def _begin(
    recording: Recording,
    execution: Execution,
    body: type[RunRequested] | type[RunStarted],
    data: types.RunRequested | types.RunStarted,
) -> None:
    group, supplied = recording.group, recording.fact.subject
    # Both may refuse the fact, and a refused fact uses up no id.
    name, parent = _name(recording), _parent(recording, Run(""))
    origin: Origin = "issued" if supplied is None else "supplied"
    run_id = supplied or group.issue("RUN")
    run = Run(run_id)
    key = group.create_run_key(execution.organization_id, run_id)
    recording.wake(execution, opens_run=True)
    event = body(
        run_id_origin=origin,
        triggered_by=_trigger(data.triggered_by),
        input=_seal(key, "input", 1, data.input),
        lease_seconds=data.lease_seconds,
        **name,
        **parent,
    )
    tenant = (execution.organization_id, execution.workspace_id, execution.id)
    _own(recording, run, event, key, tenant)
    _give_parent(recording, run)


def _name(recording: Recording) -> RunName:
    """The name that the fact gives its run. Raises InvalidState for a retry out of order."""
    fact, group = recording.fact, recording.group
    attempt = fact.attempt or 1
    name = RunName(external_id=fact.external_id, attempt=attempt, retry_of=None)
    if attempt == 1:
        return name
    naming = _naming(fact, recording.organization_id)
    before = run_of(naming(attempt - 1), group) if naming is not None else None
    if before is None:
        raise InvalidState("There is no attempt before.")
    if not sees(recording.principal, before):
        raise IdTaken
    before.require_retryable()
    name["retry_of"] = before.id
    return name


class _Parent(TypedDict):
    parent_run_id: str | None
    parent_external_id: str | None
    awaiting: Awaiting | None


def _parent(recording: Recording, run: Run) -> _Parent:
    """The parent that the fact gives its run: by its id, or by the latest run of its name.

    A name without a run is awaited, unless the run has a parent or ``MAX_AWAITING`` ranks were
    given. A parent below the run is ignored, and a run that the credential does not see is never
    revealed. Raises InvalidState for the run itself, by its name or id.
    """
    fact, principal, group = recording.fact, recording.principal, recording.group
    parent = _Parent(parent_run_id=None, parent_external_id=fact.parent_external_id, awaiting=None)
    if fact.named_parent is not None:
        if fact.named_parent == run.id:
            raise InvalidState(_OWN_PARENT)
        parent["parent_run_id"] = _fitting(group.memory.find(fact.named_parent), run, group)
    naming = _parentage(fact, recording.organization_id)
    if naming is None:
        return parent
    latest = group.memory.length(naming)
    found = run_of(naming(latest), group) if latest else None
    if fact.parent_external_id == fact.external_id or (found is not None and found.id == run.id):
        raise InvalidState(_OWN_PARENT)
    if run.awaits(naming(1)):
        return _Parent(parent_run_id=None, parent_external_id=None, awaiting=None)
    if found is not None:
        parent["parent_run_id"] = _fitting(found, run, group) if sees(principal, found) else None
    elif run.parent_run_id is None:
        rank = group.memory.length(naming(1).awaiting) + 1
        within = None if principal.is_admin else principal.workspace_id
        if rank <= MAX_AWAITING:
            parent["awaiting"] = Awaiting(rank, within)
    return parent


def _fitting(parent: Folded | None, run: Run, group: Group) -> str | None:
    """The id of a run's parent; None if it is below the run. Nothing is below a new run."""
    assert isinstance(parent, Run)
    fits = not run.version or run.fits_below(runs_above(parent, group))
    return parent.id if fits else None


def _give_parent(recording: Recording, run: Run) -> None:
    """Give a run that has just got its name, as parent, to the runs that awaited the name."""
    naming = _naming(recording.fact, recording.organization_id)
    if naming is not None and run.attempt == 1:
        recording.give_parent(run, naming(1))


def _completed(recording: Recording, run: Run, data: types.RunCompleted) -> None:
    run.complete(recording.at, None, data.used, None)
    _undo_expiry(recording, run)
    key = recording.group.memory.run_key(run)
    output = _seal(key, "output", run.version + 1, data.output)
    body = run.complete(recording.at, output, data.used, data.duration_ms)
    _own(recording, run, body, key)


def _failed(recording: Recording, run: Run, data: types.RunFailed) -> None:
    run.fail(recording.at, None, None, data.used, None)
    _undo_expiry(recording, run)
    key = recording.group.memory.run_key(run)
    version = run.version + 1
    error = _seal(key, "error", version, data.error and data.error.model_dump())
    output = _seal(key, "output", version, data.output)
    body = run.fail(recording.at, error, output, data.used, data.duration_ms)
    _own(recording, run, body, key)


def _undo_expiry(recording: Recording, run: Run) -> None:
    """Check and wake the line, if a late ending replaces the failure by a lease.

    The line may be closed since, or idle: the run was no longer open.
    """
    if run.lease_expired:
        execution = recording.group.memory.get(Execution, run.service_line_id, recording.principal)
        execution.require_open_at(recording.at)
        recording.wake(execution, opens_run=False)


def _cancelled(recording: Recording, run: Run, data: types.RunCancelled) -> None:
    body = run.cancel(recording.at, data.reason, data.used)
    _own(recording, run, body, recording.group.memory.run_key(run))


def _corrected(recording: Recording, run: Run, data: types.RunUsageCorrected) -> None:
    body = run.correct(data.used, data.reason)
    _own(recording, run, body, recording.group.memory.run_key(run))


def _own(
    recording: Recording,
    run: Run,
    body: Any,
    key: RunKey | None,
    tenant: tuple[str | None, str | None, str | None] | None = None,
) -> None:
    """Record a run's own event; nobody can guess the content from its keyed digest."""
    content = recording.fact.content
    # An erased run has no key, so its late ending's digest is random: no trace of the content
    # remains.
    digest = key.digest(content) if key is not None else os.urandom(32)
    recording.own(run, body, digest=digest, tenant=tenant)


def _seal(key: RunKey | None, field: str, version: int, value: Any) -> bytes | None:
    if value is None or key is None:
        return None
    return key.seal(field, version, _encode(value))


def _trigger(data: types.TriggeredBy | None) -> Trigger | None:
    return None if data is None else Trigger(data.type, data.actor_id)


_HANDLERS: dict[str, Callable[[Recording, Any, Any], None]] = {
    "run.requested": _requested,
    "run.started": _started,
    "run.completed": _completed,
    "run.failed": _failed,
    "run.cancelled": _cancelled,
    "run.usage_corrected": _corrected,
}
