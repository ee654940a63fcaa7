"""Commands about watches (contract, Watches).

The receipt carries the answer: the watch as the command left it, with counters that the views had
before. So a repeated request gets the same answer.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import msgspec

from ledger.engine.log.tables import WATCH
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import json_text, render_as
from ledger.engine.writer.command import ManagedCommand, NewCommand, SubjectCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import (
    LineChoice,
    Watch,
    WatchCreated,
    WatchDeleted,
    WatchSettings,
)


class WatchCounters(NamedTuple):
    """The fields of a watch in the API that do not follow from its own events."""

    looking: bool = False
    open_alerts: int = 0
    overflow: int = 0
    endpoints: int = 0


def require_consistent(settings: WatchSettings) -> None:
    condition, least = settings.condition, settings.condition.least_seconds
    if settings.keep_seconds and not condition.keeps:
        raise Invalid.at("/keep_seconds", "must be 0 for this kind of condition")
    if settings.for_seconds < least:
        raise Invalid.at("/for_seconds", f"must be at least {least} for this kind")
    if condition.about == "source" and settings.lines != LineChoice():
        raise Invalid.at("/lines", "must be empty: sources are of no line")


@dataclass(eq=False, repr=False)
class CreateWatch(NewCommand):
    """Set up a watch for an organization or one of its workspaces."""

    action = "watch.create"
    issues = "WCH"

    _: KW_ONLY
    settings: WatchSettings | None
    """None: the request has a fault."""
    endpoints: int = 0
    """The endpoints that the watch will tell."""

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden for another tenant, Invalid, or InvalidState for too many watches."""
        self.require_visible()
        organization_id = self.require_tenant()
        assert self.settings is not None, "a request without a fault has settings"
        require_consistent(self.settings)
        Watch.require_room(group.owned(WATCH, organization_id))
        watch, body = Watch(group.issue("WCH")), WatchCreated(settings=self.settings)
        tenant = (organization_id, self.workspace_id, None)
        recorded = group.record(watch, body, group.now, self, tenant=tenant)
        counters = WatchCounters(looking=self.settings.enabled, endpoints=self.endpoints)
        return receipt(recorded, _answer(watch, counters))


@dataclass(eq=False, repr=False)
class UpdateWatch(SubjectCommand):
    """Change the settings that are given. Nothing is recorded if none has another value."""

    action = "watch.update"
    subject_type = "watch"

    changes: dict[str, Any] = field(kw_only=True)
    counters: WatchCounters = field(kw_only=True, default=WatchCounters())
    """As the views showed it before."""

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound, Invalid, or ChangedTooOften for one revision too many."""
        watch = group.memory.get(Watch, self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body, revision = watch.update(**self.changes), watch.revision
        if body is None:
            unchanged = msgspec.structs.replace(self.unchanged(), position=group.next_position - 1)
            return msgspec.structs.replace(unchanged, answer=_answer(watch, self.counters))
        require_consistent(body.settings)
        watch.require_pause(body, group.now)
        recorded = group.record(watch, body, group.now, self)
        looking = self.counters.looking or watch.revision != revision
        counters = self.counters._replace(looking=looking and body.settings.enabled)
        return receipt(recorded, _answer(watch, counters))


class DeleteWatch(ManagedCommand):
    """Remove a watch; its alerts are resolved."""

    action = "watch.delete"
    subject_type = "watch"

    def _event(self, watch: Watch, group: Group) -> WatchDeleted:
        return WatchDeleted()


def _answer(watch: Watch, counters: WatchCounters) -> bytes:
    changes = msgspec.structs.asdict(watch.config)
    return json_text(
        {"data": render_as(ShownWatch, watch, **changes, **counters._asdict())}
    ).encode()
