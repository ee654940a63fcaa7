"""Facts that name a workspace or a project (contract, Facts).

Names are an organization's own. So the stream of a name follows from the fact's subject and the
organization, which an administrator's fact names and any other credential has.
"""

import msgspec

from ledger.application.recording import Recording
from ledger.domain.directory import DirectoryEntry, kind_of, stream_of
from ledger.domain.errors import Forbidden, Invalid
from ledger.intake.envelope import Fact
from ledger.intake.fact_types import DirectoryNamed
from ledger.intake.principal import Principal
from ledger.intake.request import About


def organization_of(fact: Fact, principal: Principal) -> str | None:
    """The organization that gives the name; None: an administrator's fact does not say which."""
    if not principal.is_admin:
        return principal.organization_id
    return fact.data.organization_id if isinstance(fact.data, DirectoryNamed) else None


def streams(fact: Fact, principal: Principal) -> tuple[str, ...]:
    """The stream of the name, if the organization is known."""
    organization_id = organization_of(fact, principal)
    return () if organization_id is None else (stream_of(organization_id, fact.subject or ""),)


def about(fact: Fact, principal: Principal) -> About:
    """The data of the fact for the audit log, under the workspace that the fact names."""
    organization_id = organization_of(fact, principal)
    if organization_id is None:
        return fact.about
    return msgspec.structs.replace(fact.about, tenant=(organization_id, _workspace_of(fact)))


def require_own_workspace(fact: Fact, principal: Principal) -> None:
    """Raise Forbidden if a credential of one workspace names a project or another workspace."""
    bound = None if principal.is_admin else principal.workspace_id
    if bound is not None and bound != fact.subject:
        raise Forbidden("The credential may name its own workspace only.")


def named(recording: Recording, subject: None, data: DirectoryNamed) -> None:
    """Record the name. Raises Invalid if an administrator's fact names no organization."""
    fact = recording.fact
    organization_id = organization_of(fact, recording.principal)
    if organization_id is None:
        raise Invalid.at("/data/organization_id", "is required of an administrator")
    stream = stream_of(organization_id, fact.subject or "")
    found = recording.unit.loader.find(stream)
    entry = found if isinstance(found, DirectoryEntry) else DirectoryEntry(stream)
    tenant = (organization_id, _workspace_of(fact), None)
    recording.own(entry, entry.give(data.name), tenant=tenant)


def _workspace_of(fact: Fact) -> str | None:
    """The workspace that the fact names; None: the fact names a project."""
    subject = fact.subject or ""
    return subject if kind_of(subject) == "workspace" else None
