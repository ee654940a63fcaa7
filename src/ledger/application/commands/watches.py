"""Commands about watches (contract, Watches)."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from ledger.application.command import NewCommand, SubjectCommand, receipt
from ledger.application.commands.webhooks import OTHER_TENANT
from ledger.application.group import Group
from ledger.domain.errors import Forbidden, Invalid
from ledger.domain.watch import KEEPING, Watch, WatchCreated, WatchDeleted, WatchSettings
from ledger.intake.principal import Principal
from ledger.intake.request import IdempotencyKey, Receipt
from ledger.log.tables import WATCH


def require_consistent(settings: WatchSettings) -> None:
    """Raise Invalid where settings do not go together."""
    if settings.keep_seconds and not isinstance(settings.condition, KEEPING):
        raise Invalid.at("/keep_seconds", "must be 0 for this kind of condition")


@dataclass(eq=False, repr=False)
class CreateWatch(NewCommand):
    """Set up a watch for an organization or one of its workspaces."""

    action = "watch.create"
    issues = "WCH"

    principal: Principal
    request_id: str | None
    _: KW_ONLY
    organization_id: str | None
    """None: the credential's own; likewise the workspace."""
    workspace_id: str | None
    settings: WatchSettings | None
    """None: the request has a fault."""
    fault: Invalid | None = None
    idempotency: IdempotencyKey | None = None

    def __post_init__(self) -> None:
        self.organization_id = self.organization_id or self.principal.organization_id
        self.workspace_id = self.workspace_id or self.principal.workspace_id

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden for another tenant, Invalid, or InvalidState for too many watches."""
        organization_id, workspace_id = self.organization_id, self.workspace_id
        if organization_id is not None and not self.principal.sees(organization_id, workspace_id):
            raise Forbidden(OTHER_TENANT)
        if self.fault is not None:
            raise self.fault
        if organization_id is None:
            raise Invalid.at("/organization_id", "is required")
        assert self.settings is not None, "a request without a fault has settings"
        require_consistent(self.settings)
        Watch.require_room(group.owned(WATCH, organization_id))
        watch, body = Watch(group.issue("WCH")), WatchCreated(settings=self.settings)
        tenant = (organization_id, workspace_id, None)
        return receipt(group.record(watch, body, group.now, self, tenant=tenant))


@dataclass(eq=False, repr=False)
class UpdateWatch(SubjectCommand):
    """Change the settings that are given. Nothing is recorded if none has another value."""

    action = "watch.update"
    subject_type = "watch"

    given: dict[str, Any] = field(kw_only=True)

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound or Invalid."""
        watch = group.memory.watch(self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = watch.update(**self.given)
        if body is None:
            return self.unchanged()
        require_consistent(body.settings)
        return receipt(group.record(watch, body, group.now, self))


class DeleteWatch(SubjectCommand):
    """Remove a watch; its alerts are resolved."""

    action = "watch.delete"
    subject_type = "watch"

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound or Invalid."""
        watch = group.memory.watch(self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        return receipt(group.record(watch, WatchDeleted(), group.now, self))
