"""Reporting a fact: a product line's fact becomes events (contract, Facts and State).

``ReportFact.decide`` runs under the append lock and checks in this order. Was the same fact
recorded before (then it is a duplicate, never refused because of its own effect)? May the
credential report the fact (403)? Does its subject exist (404)? Is it well-formed (422)? Does it
contradict an earlier fact or the present state (409)? Only then does the type's handler record
events.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, ClassVar

import msgspec

from ledger.engine.log.decisions import IdentityOwner
from ledger.engine.values import json_gate
from ledger.engine.values.errors import FactConflict, Forbidden, IdTaken, Invalid, InvalidState
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Actor, Folded, Identity
from ledger.engine.values.values import Origin
from ledger.engine.writer.command import Command, RefusedWrite, receipt_of
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import sees
from ledger.engine.writer.request import About, Receipt, TenantOf
from ledger.features.directory.model import DirectoryEntry, stream_of, workspace_of
from ledger.features.facts import fact_types as types
from ledger.features.facts.envelope import Fact, Rejected
from ledger.features.facts.recording import Recording
from ledger.features.lines.model import execution_events as events
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import Resource
from ledger.features.lines.model.health import Signal
from ledger.features.runs import report_runs
from ledger.features.runs.model.run import Run

MAX_AHEAD = timedelta(minutes=5)
"""How far a fact's time may be in the future, since clocks differ a little."""


def command_of(
    parsed: Fact | Rejected, principal: Principal, request_id: str | None = None
) -> Command:
    if isinstance(parsed, Fact):
        command = ReportName if parsed.kind.subject == "directory" else ReportFact
        return command(parsed, principal, request_id)
    return RefusedWrite(parsed.error, parsed.about, principal, request_id)


class ReportFact:
    """Record one fact, as one credential reports it."""

    __slots__ = ("_identities", "_run_id", "fact", "principal", "request_id")

    idempotency = None
    """Facts need no idempotency key: they have identities of their own."""
    needs_key: ClassVar[bool] = False
    """A worker forgets an ended key within 2 s. Unlike a new key or endpoint, a fact gives no
    lasting power, so an append of facts reads no keys."""

    def __init__(self, fact: Fact, principal: Principal, request_id: str | None = None) -> None:
        self.fact = fact
        self.principal = principal
        self.request_id = request_id
        self._run_id: str | None = None
        """The run that the fact's external id names, once found."""
        self._identities: tuple[Identity, ...] = ()
        """The fact's identities as last computed, before the lock or under it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fact, self.principal, self.request_id)

    def streams(self) -> tuple[str, ...]:
        """The fact's subject, and the line, record or parent that its data name."""
        return self.fact.streams

    def identities(self, tenant_of: TenantOf) -> tuple[Identity, ...]:
        """The fact's identity, then those that its data name.

        A void names the check-in and the check-in's void, and an external id names a run. The
        tenant of an administrator's fact is its subject's.
        """
        organization_id, found = self.tenant(tenant_of), self._identities
        if organization_id is None:
            return ()
        if not found or found[0].organization_id != organization_id:
            found = self._identities = self._identities_in(organization_id)
        return found

    def _identities_in(self, organization_id: str) -> tuple[Identity, ...]:
        own = Identity(organization_id, self.fact.source, self.fact.id)
        if isinstance(self.fact.data, types.CheckInVoided):
            check_in = own._replace(name=self.fact.data.fact_id)
            return own, check_in, check_in.void
        return own, *report_runs.identities(self.fact, organization_id)

    def followup_identities(
        self, tenant_of: TenantOf, exists: Callable[[Identity], bool]
    ) -> Iterable[Identity]:
        fact = self.fact
        if not report_runs.names_a_run(fact):
            return ()
        return report_runs.followup_identities(fact, self.tenant(tenant_of) or "", exists)

    def tenant(self, tenant_of: TenantOf) -> str | None:
        """The organization of the fact; None if an administrator's subject is unknown so far."""
        if self.principal.is_admin:
            return self._subject_tenant(tenant_of)
        return self.principal.organization_id

    @property
    def issues(self) -> str | None:
        """RUN for a new line without an id for its record, and for a start that names no run."""
        fact = self.fact
        if isinstance(fact.data, types.ServiceLineActivated):
            is_issued = fact.data.execution_id is None
        else:
            is_issued = fact.kind.subject_optional and fact.subject is None
        return "RUN" if is_issued else None

    def about(self) -> About:
        """The data for the audit log if the fact is refused."""
        about = self.fact.about
        if self._run_id is None:
            return about
        return msgspec.structs.replace(about, resource=("run", self._run_id))

    def decide(self, group: Group) -> Receipt:
        fact = self.fact
        group.memory.require(self.streams())
        # An administrator's fact about an unknown subject has no tenant: it is not found below.
        identities = self.identities(group.memory.tenant_of)
        identity = identities[0] if identities else Identity("", fact.source, fact.id)
        earlier = group.memory.first(identity)
        if earlier is not None and self._is_repeated(earlier, group):
            return receipt_of(earlier, duplicate=True)
        self._require_tenant()
        subject = self._subject(group, identity)
        self.require_sound(group)
        if earlier is not None:
            raise FactConflict("A fact with this source and id was recorded with other content.")
        return self._record(group, subject, identity)

    def require_sound(self, group: Group) -> None:
        """Raise for a fact that is wrong by itself, whatever its subject."""
        fact = self.fact
        if fact.time is not None and fact.time > group.now + MAX_AHEAD:
            raise Invalid.at("/time", "lies more than 5 minutes in the future")
        if fact.actor is not None:
            self._require_own_actor(fact.actor)
        if fact.fault is not None:
            raise fact.fault

    def _subject_tenant(self, tenant_of: TenantOf) -> str | None:
        fact = self.fact
        for stream in (fact.subject, fact.named_line, fact.named_record):
            organization_id = tenant_of(stream) if stream is not None else None
            if organization_id is not None:
                return organization_id
        if isinstance(fact.data, types.ServiceLineActivated):
            return fact.data.organization_id
        return None

    def _is_repeated(self, earlier: IdentityOwner, group: Group) -> bool:
        """True if the fact equals the earlier one, and the credential may still see its outcome."""
        digest = earlier.event.fact.digest if earlier.event.fact is not None else b""
        about = group.memory.find(earlier.event.originator_id)
        if not sees(self.principal, about):
            return False  # the credential's tenant may be narrower now
        if not isinstance(about, Run):
            return digest == self.fact.content
        key = group.memory.run_key(about)
        # If the run is erased, the contents can no longer be compared. The fact was recorded, so it
        # is a duplicate.
        return key is None or digest == key.digest(self.fact.content)

    def _require_own_actor(self, actor: Actor) -> None:
        """Raise Invalid if the fact names the system, or an API key other than the credential."""
        if self.principal.may_name(actor):
            return
        if actor.type == "system":
            raise Invalid.at("/actortype", "must not be system: only the ledger itself is")
        raise Invalid.at("/actorid", "must be the credential's own id")

    def _require_tenant(self) -> None:
        """Raise Forbidden if the data name another tenant than the credential's."""
        if self.fact.type == "service_line.activated":
            self._require_own_tenant()

    def _require_own_tenant(self) -> None:
        principal, sent = self.principal, self.fact.sent
        if principal.is_admin:
            return
        for own, field in (
            (principal.organization_id, "organization_id"),
            (principal.workspace_id, "workspace_id"),
        ):
            named = sent.get(field) if isinstance(sent, dict) else None
            if own is not None and isinstance(named, str) and named != own:
                raise Forbidden(f"The credential may not act for this {field}.")

    def _subject(self, group: Group, identity: Identity) -> Execution | Run | None:
        """The aggregate of the fact; None if the fact begins a new aggregate. Raises NotFound.

        An activation may find a line that the credential does not see.
        """
        fact, principal = self.fact, self.principal
        if fact.type == "service_line.activated":
            existing = group.memory.find(fact.subject or "")
            return existing if isinstance(existing, Execution) else None
        if fact.kind.subject == "line":
            return group.memory.get(Execution, fact.subject or "", principal)
        named = report_runs.named_run(fact, identity.organization_id, group)
        if named is not None and sees(principal, named):
            self._run_id = named.id
        return report_runs.subject(fact, named, principal, group)

    def _line(self, group: Group, subject: Execution | Run | None) -> Execution | None:
        if isinstance(subject, Execution):
            found: Folded | None = subject
        else:
            line_id = self.fact.named_line if subject is None else subject.service_line_id
            found = group.memory.find(line_id) if line_id is not None else None
        return found if isinstance(found, Execution) and sees(self.principal, found) else None

    def _record(self, group: Group, subject: Execution | Run | None, identity: Identity) -> Receipt:
        recording = Recording(self.fact, self, group, identity)
        line = self._line(group, subject)
        if line is not None and line.holds:
            recording.lift_due(line)
        data: Any = self.fact.data
        if self.fact.kind.subject == "run":
            assert not isinstance(subject, Execution)
            report_runs.record(recording, subject, data)
        else:
            _HANDLERS[self.fact.type](recording, subject, data)
        return recording.receipt()


class ReportName(ReportFact):
    """Record the name of a workspace or a project (contract, Facts).

    A name belongs to an organization, which an administrator's fact names and any other credential
    has. So its stream follows from the fact's subject and the organization.
    """

    __slots__ = ()

    def streams(self) -> tuple[str, ...]:
        organization_id = self._organization_id
        return () if organization_id is None else (stream_of(organization_id, self._id),)

    def about(self) -> About:
        """The data for the audit log, under the workspace that the fact names."""
        organization_id, about = self._organization_id, self.fact.about
        if organization_id is None:
            return about
        return msgspec.structs.replace(about, tenant=(organization_id, workspace_of(self._id)))

    def decide(self, group: Group) -> Receipt:
        """The receipt has the name's own id instead of its stream's."""
        return msgspec.structs.replace(super().decide(group), subject=self._id)

    @property
    def _id(self) -> str:
        return self.fact.subject or ""

    @property
    def _organization_id(self) -> str | None:
        """The organization that gives the name; None if an administrator's fact names none."""
        if not self.principal.is_admin:
            return self.principal.organization_id
        data = self.fact.data
        return data.organization_id if isinstance(data, types.DirectoryNamed) else None

    def _subject_tenant(self, tenant_of: TenantOf) -> str | None:
        return self._organization_id

    def _require_tenant(self) -> None:
        """Also raises Forbidden if a credential of one workspace names anything else."""
        self._require_own_tenant()
        bound = None if self.principal.is_admin else self.principal.workspace_id
        if bound is not None and bound != self._id:
            raise Forbidden("The credential may name its own workspace only.")

    def _subject(self, group: Group, identity: Identity) -> None:
        return None


def _named(recording: Recording, subject: None, data: types.DirectoryNamed) -> None:
    """Raises Invalid if an administrator's fact names no organization."""
    organization_id, identifier = recording.organization_id, recording.fact.subject or ""
    if not organization_id:
        raise Invalid.at("/data/organization_id", "is required of an administrator")
    stream = stream_of(organization_id, identifier)
    found = recording.group.memory.find(stream)
    entry = found if isinstance(found, DirectoryEntry) else DirectoryEntry(stream)
    tenant = (organization_id, workspace_of(identifier), None)
    recording.own(entry, entry.give(data.name), tenant=tenant)


def _activated(
    recording: Recording, existing: Execution | None, data: types.ServiceLineActivated
) -> None:
    group, fact = recording.group, recording.fact
    principal = recording.principal
    if existing is not None and not sees(principal, existing):
        raise IdTaken
    if data.execution_id is not None:
        report_runs.require_free(data.execution_id, principal, group)
    if existing is not None:
        raise InvalidState("The service line is already activated.")
    origin: Origin = "issued" if data.execution_id is None else "supplied"
    body = events.Activated(
        execution_id=data.execution_id or group.issue("RUN"),
        execution_id_origin=origin,
        product_line=data.product_line,
        execution_model=data.execution_model,
        project_tags=tuple(data.project_tags),
        resources=tuple(_resource(resource) for resource in data.resources),
        started_at=data.started_at or recording.at,
        name=data.name,
    )
    line_id = fact.subject or ""
    tenant = (data.organization_id, data.workspace_id, line_id)
    recording.own(Execution(line_id), body, tenant=tenant)


def _resource(data: types.ResourceData) -> Resource:
    return msgspec.convert(json_gate.by_value(data.model_dump()), Resource)


def _updated(recording: Recording, execution: Execution, data: types.ServiceLineUpdated) -> None:
    names = data.model_fields_set
    tags = tuple(data.project_tags) if "project_tags" in names else execution.project_tags
    name = data.name if "name" in names else execution.name
    recording.own(execution, execution.update(tags, name))


def _paused(recording: Recording, execution: Execution, data: types.Reasoned) -> None:
    recording.own(execution, execution.pause("service_line", data.reason))


def _resumed(recording: Recording, execution: Execution, data: types.Reasoned) -> None:
    recording.own(execution, execution.resume("service_line", data.reason))


def _closed(recording: Recording, execution: Execution, data: types.Reasoned) -> None:
    body = execution.close(data.reason)
    recording.cancel_open_runs(execution)
    recording.own(execution, body)


def _checked_in(recording: Recording, execution: Execution, data: types.CheckedIn) -> None:
    execution.require_open_at(recording.at)
    recording.wake(execution, opens_run=False)
    body = events.CheckedIn(hours=data.hours, note=data.note, resource_id=data.resource_id)
    recording.own(execution, body)


def _voided(recording: Recording, execution: Execution, data: types.CheckInVoided) -> None:
    execution.require_open_at(recording.at)
    memory = recording.group.memory
    identity = Identity(execution.organization_id, recording.fact.source, data.fact_id)
    first = memory.first(identity)
    check_in = first.event if first is not None else None
    if (
        check_in is None
        or check_in.originator_id != execution.id
        or not isinstance(check_in.body, events.CheckedIn)
        or memory.first(identity.void) is not None
    ):
        raise InvalidState("The source has no check-in with this fact_id that counts on the line.")
    body = events.CheckInVoided(
        fact_id=data.fact_id,
        reason=data.reason,
        hours=check_in.body.hours,
        checked_in_at=check_in.occurred_at,
        resource_id=check_in.body.resource_id,
    )
    recording.own(execution, body, caused_by=check_in.event_id)


def _blocked(recording: Recording, execution: Execution, data: types.Blocked) -> None:
    body = execution.block(data.blocker_id, data.cause, data.reason, data.assignee, data.due_at)
    recording.own(execution, body)


def _unblocked(recording: Recording, execution: Execution, data: types.Unblocked) -> None:
    recording.own(execution, execution.unblock(data.blocker_id, data.reason))


def _allocated(recording: Recording, execution: Execution, data: types.ResourceData) -> None:
    recording.own(execution, execution.allocate(_resource(data)))


def _released(recording: Recording, execution: Execution, data: types.ResourceReleased) -> None:
    recording.own(execution, execution.release(data.id))


def _signalled(
    recording: Recording, execution: Execution, data: types.HealthSignalReported
) -> None:
    signal = Signal(data.signal, data.status, data.value, data.evidence)
    recording.own(execution, execution.report_signal(signal))


_HANDLERS: dict[str, Callable[[Recording, Any, Any], None]] = {
    "service_line.activated": _activated,
    "service_line.updated": _updated,
    "service_line.paused": _paused,
    "service_line.resumed": _resumed,
    "service_line.closed": _closed,
    "execution.checked_in": _checked_in,
    "execution.check_in_voided": _voided,
    "execution.blocked": _blocked,
    "execution.unblocked": _unblocked,
    "resource.allocated": _allocated,
    "resource.released": _released,
    "health.signal_reported": _signalled,
    "directory.named": _named,
}
