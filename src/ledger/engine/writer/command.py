"""Commands: requests that may be refused, and how one is carried out under the append lock.

A refused command leaves one record for the audit log, in its group's transaction: its subject and
the error code, never its content (contract, Feeds). A refusal changes nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Protocol

from ledger.engine.log.decisions import IdentityOwner
from ledger.engine.values import errors
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Event, Identity, Recorded
from ledger.engine.values.refusals import Refusals, WriteRefused, stream_of
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import sees
from ledger.engine.writer.request import About, IdempotencyKey, Outcome, Receipt, Request, TenantOf
from ledger.records import STREAMS

_KINDS = {row.subject_type: row.aggregate for row in STREAMS if row.subject_type}

OTHER_TENANT = "The credential may not act for this organization or workspace."


class Command(Request, Protocol):
    """A request that may be refused."""

    def decide(self, group: Group) -> Receipt:
        """Check the command, then record its events. Raises Refused before anything is recorded."""


class OwnCommand:
    """The base of commands that are not facts: no key and no entry in the audit log by default."""

    action: ClassVar[str] = ""
    """The command's action in the audit log; empty if no caller requests the command."""
    subject_type: ClassVar[str | None] = None
    """The subject's type in the audit log; None for a new aggregate or no subject."""
    needs_key: ClassVar[bool] = True
    issues: ClassVar[str | None] = None

    def __init__(self, principal: Principal, request_id: str | None = None) -> None:
        self.principal = principal
        self.request_id = request_id
        self.idempotency: IdempotencyKey | None = None

    def streams(self) -> Iterable[str]:
        return ()

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        return ()

    def followup_identities(
        self, tenant_of: TenantOf, exists: Callable[[Identity], bool]
    ) -> Iterable[Identity]:
        return ()

    def about(self) -> About | None:
        """Return None: no caller requested the command, so the audit log has no refusal of it."""
        return None

    def decide(self, group: Group) -> Receipt:
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class SubjectCommand(OwnCommand):
    """A command about one existing aggregate, its subject.

    Subclasses with more fields are dataclasses too, without ``repr``: a command may hold a secret.
    """

    subject_type: ClassVar[str]

    subject_id: str
    principal: Principal
    request_id: str | None = None
    fault: errors.Invalid | None = field(default=None, kw_only=True)
    """The fault of the request, raised only after the caller is known to see the subject."""
    idempotency: IdempotencyKey | None = field(default=None, kw_only=True)

    def streams(self) -> Iterable[str]:
        return (self.subject_id,)

    def about(self) -> About | None:
        return About(self.action, (self.subject_type, self.subject_id)) if self.action else None

    def unchanged(self) -> Receipt:
        """The receipt of a command that had nothing to do."""
        return Receipt(self.subject_id, (), 0, duplicate=True)


class ManagedCommand(SubjectCommand):
    """A command that records its subject's event ``_event``, and responds with ``_answer``.

    The refusals come in the order of the contract: 404, 403, 422, and the errors of ``_event``.
    """

    def decide(self, group: Group) -> Receipt:
        subject = group.memory.get(_KINDS[self.subject_type], self.subject_id, self.principal)
        self._require_right(subject)
        if self.fault is not None:
            raise self.fault
        body = self._event(subject, group)
        if body is None:
            return self.unchanged()
        return receipt(group.record(subject, body, group.now, self), self._answer(subject))

    def _require_right(self, subject: Any) -> None:
        """Raise Forbidden if the caller may not do this to the subject."""

    def _event(self, subject: Any, group: Group) -> Event | None:
        """The event to record; None if there is nothing to do. Raises Invalid or InvalidState."""
        raise NotImplementedError

    def _answer(self, subject: Any) -> bytes | None:
        """The response, if the subject, as the command left it, determines it."""
        return None


@dataclass(eq=False, repr=False)
class NewCommand(OwnCommand):
    """A command that makes something for a tenant. Subclasses are dataclasses too."""

    principal: Principal
    request_id: str | None = None
    _: KW_ONLY
    organization_id: str | None
    """None for the credential's own; likewise the workspace."""
    workspace_id: str | None
    fault: errors.Invalid | None = None
    idempotency: IdempotencyKey | None = None

    def about(self) -> About:
        """The action, and the tenant in the request: the subject does not exist yet."""
        organization_id = self.organization_id
        tenant = None if organization_id is None else (organization_id, self.workspace_id)
        return About(self.action, tenant=tenant)

    def require_visible(self) -> None:
        """Raise Forbidden for another tenant."""
        organization_id = self.organization_id
        if organization_id and not self.principal.sees(organization_id, self.workspace_id):
            raise errors.Forbidden(OTHER_TENANT)

    def require_tenant(self) -> str:
        """The organization of a request without a fault. Raises Invalid."""
        if self.fault is not None:
            raise self.fault
        if self.organization_id is None:
            raise errors.Invalid.at("/organization_id", "is required")
        return self.organization_id


class RefusedWrite(OwnCommand):
    """A write that was refused before any decision: the command only records the refusal."""

    needs_key = False

    def __init__(
        self,
        refusal: errors.Refused,
        about: About | None,
        principal: Principal,
        request_id: str | None,
    ) -> None:
        super().__init__(principal, request_id)
        self._refusal, self._about = refusal, about

    def streams(self) -> Iterable[str]:
        return self._about.streams if self._about is not None else ()

    def about(self) -> About | None:
        return self._about

    def decide(self, group: Group) -> Receipt:
        raise self._refusal


def carry_out(command: Command, group: Group) -> Outcome:
    """Decide one command, record its events or its refusal, and return its outcome."""
    group.begin()
    key, is_stored = command.idempotency, True
    try:
        if command.needs_key:
            # Also before an earlier outcome is returned, which may contain a secret.
            _require_key(command.principal, group)
        if key is not None:
            earlier = group.earlier_outcome(key)
            if earlier is not None:
                return earlier
        outcome: Outcome = command.decide(group)
    except errors.ChangedTooOften as limited:
        # Nothing is recorded or stored: the same request may succeed in a moment.
        return limited.with_traceback(None)
    except errors.Refused as refusal:
        # The frames of a traceback refer to the refusal and to the command. Such a reference cycle
        # is collected late (``calm_collector``), and thousands of refused facts take much memory.
        refusal.with_traceback(None)
        # The outcome of a refusal that is only counted is not stored either. So a flood of refused
        # requests, each under a new idempotency key, does not fill the disk.
        is_recorded = _record(command, refusal, group)
        is_stored = is_recorded and not isinstance(refusal, errors.IdempotencyKeyReused)
        outcome = refusal
    if key is not None and is_stored:
        group.keep_outcome(key, outcome)
    return outcome


def _require_key(principal: Principal, group: Group) -> None:
    """Raise for an API key that ended a moment ago, while a worker still has it in its cache.

    Otherwise the holder of a leaked secret that its owner has just replaced could rotate the key
    once more, and keep it.
    """
    key = group.memory.key_of(principal)
    if key is not None:
        key.require_working(principal.secret, group.now)


def _record(command: Command, refusal: errors.Refused, group: Group) -> bool:
    """Record a refusal; return False if it was only counted, beyond ``refusals.DAILY``."""
    about = command.about()
    if about is None or not refusal.audited:
        return True
    principal = command.principal
    stream = stream_of(principal.credential)
    found = group.memory.find(stream)
    refusals = found if isinstance(found, Refusals) else Refusals(stream)
    if not refusals.has_room(group.now):
        group.omit(principal)
        return False
    resource_type, resource_id = about.resource or (None, None)
    body = WriteRefused(
        action=about.action,
        code=refusal.code,
        resource_type=resource_type,
        resource_id=resource_id,
        source=about.source,
        fact_id=about.fact_id,
        pointers=tuple(pointer for pointer, _ in refusal.errors)
        if isinstance(refusal, errors.Invalid)
        else (),
    )
    recorded = group.record(
        refusals,
        body,
        about.occurred_at or group.now,
        command,
        actor=about.actor if about.actor and principal.may_name(about.actor) else None,
        tenant=(*_tenant(about, principal, group), None),
    )
    refusal.position = recorded.position
    return True


def _tenant(about: About, principal: Principal, group: Group) -> tuple[str | None, str | None]:
    """The tenant of a refusal's record: the resource's if the credential sees it, else its own.

    So the audit log of a tenant never shows what other tenants tried, and a refused write on a
    workspace's line is found under that workspace.
    """
    for stream in about.streams:
        found = group.memory.find(stream)
        if found is not None and sees(principal, found):
            return found.organization_id, found.workspace_id
    if about.tenant is not None and principal.sees(*about.tenant):
        return about.tenant
    return principal.organization_id, principal.workspace_id


def receipt_of(first: IdentityOwner, *, duplicate: bool) -> Receipt:
    event = first.event
    return Receipt(event.originator_id, first.event_ids, event.position, duplicate)


def receipt(recorded: Recorded, answer: bytes | None = None) -> Receipt:
    return Receipt(recorded.originator_id, (recorded.event_id,), recorded.position, answer=answer)
