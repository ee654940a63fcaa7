"""Carrying out one command under the append lock: replay or decide it, then keep its outcome.

A refused command leaves one record for the audit log, in the transaction of its group: the subject
of the command and the error code, never the command's content (contract, Feeds). A refusal changes
nothing else.
"""

from ledger.application.command import Command, OwnCommand
from ledger.application.loader import sees
from ledger.application.unit import Unit
from ledger.domain.errors import (
    CredentialEnded,
    Forbidden,
    IdempotencyKeyReused,
    NotFound,
    Refused,
)
from ledger.domain.refusals import STREAM_PREFIX, Refusals, RefusalsOmitted, WriteRefused, stream_of
from ledger.intake.principal import HOUSEKEEPER, Principal
from ledger.intake.request import About, Outcome, Receipt


def carry_out(command: Command, unit: Unit) -> Outcome:
    """Decide one command, record its events or its refusal, and return its outcome."""
    unit.events.begin()
    key, kept = command.idempotency, True
    try:
        if command.needs_key:
            # Also before an earlier outcome is told, which may have a secret.
            _require_key(command.principal, unit)
        if key is not None:
            earlier = unit.outcomes.find(key, unit.now)
            if earlier is not None:
                return earlier
        outcome: Outcome = command.decide(unit)
    except IdempotencyKeyReused as refusal:
        _unbind(refusal)
        _record(command, refusal, unit)
        return refusal
    except Refused as refusal:
        _unbind(refusal)
        # The outcome of a refusal that is only counted is not kept either, so that a flood of
        # refused requests, each under a new idempotency key, does not fill the disk.
        kept = _record(command, refusal, unit)
        outcome = refusal
    if key is not None and kept:
        unit.outcomes.keep(key, outcome, unit.now)
    return outcome


def _require_key(principal: Principal, unit: Unit) -> None:
    """Raise for an API key that ended a moment ago, while a worker still remembers it.

    Otherwise the holder of a leaked secret that its owner has just replaced could rotate the key
    once more, and would have it for himself.
    """
    key = unit.loader.asking_key(principal)
    if key is None:
        return
    if key.revoked or key.has_expired(unit.now):
        raise Forbidden("The credential was revoked, or has expired.")
    if principal.secret is not None and not key.has_secret(principal.secret, unit.now):
        raise CredentialEnded


def _unbind(refusal: Refused) -> None:
    """Drop the traceback of a refusal: its frames refer to the refusal and to the command.

    Such a reference cycle is collected late (``calm_collector``), and thousands of refused facts
    may take much memory.
    """
    refusal.with_traceback(None)


def _record(command: Command, refusal: Refused, unit: Unit) -> bool:
    """Record a refusal; return False if it was only counted, because of the daily limit.

    The limit holds for each credential (``refusals.DAILY``).
    """
    about = command.about()
    if about is None or not refusal.audited:
        return True
    principal = command.principal
    stream = stream_of(principal.credential)
    found = unit.loader.find(stream)
    refusals = found if isinstance(found, Refusals) else Refusals(stream)
    if not refusals.has_room(unit.now):
        unit.omit(principal)
        return False
    resource_type, resource_id = about.resource or (None, None)
    body = WriteRefused(
        action=about.action,
        code=refusal.code,
        resource_type=resource_type,
        resource_id=resource_id,
        source=about.source,
        fact_id=about.fact_id,
    )
    recorded = unit.events.record(
        refusals,
        body,
        about.occurred_at or unit.now,
        command,
        actor=about.actor if about.actor and principal.may_name(about.actor) else None,
        tenant=(*_tenant(about, principal, unit), None),
    )
    refusal.position = recorded.position
    return True


def _tenant(about: About, principal: Principal, unit: Unit) -> tuple[str | None, str | None]:
    """The tenant of a refusal's record: the resource's if the credential sees it, else its own.

    The audit log of a tenant therefore never shows what other tenants tried, and a refused write on
    a workspace's line is found under that workspace.
    """
    for stream in about.streams:
        found = unit.loader.find(stream)
        if found is not None and sees(principal, found):
            return found.organization_id, found.workspace_id
    if about.tenant is not None and principal.sees(*about.tenant):
        return about.tenant
    return principal.organization_id, principal.workspace_id


class TellOmitted(OwnCommand):
    """Record how many refusals of a credential were only counted."""

    def __init__(self, credential: str) -> None:
        super().__init__(HOUSEKEEPER)
        self._credential = credential

    def streams(self) -> tuple[str, ...]:
        return (stream_of(self._credential),)

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound if nothing was counted, or if another process was faster."""
        found = unit.loader.find(stream_of(self._credential))
        omitted = unit.append.aside.take_omitted(self._credential)
        if not isinstance(found, Refusals) or omitted is None:
            raise NotFound("No refusals were omitted.")
        body = RefusalsOmitted(count=omitted.count, since=omitted.since)
        tenant = (omitted.organization_id, omitted.workspace_id, None)
        recorded = unit.events.record(found, body, unit.now, self, tenant=tenant)
        return Receipt(
            found.id.removeprefix(STREAM_PREFIX), (recorded.event_id,), recorded.position
        )
