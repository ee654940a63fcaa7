"""Reporting spans: a run becomes two facts, and gets its parent (contract, Traces)."""

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import msgspec

from ledger.engine.log.decisions import IdentityOwner
from ledger.engine.values.errors import FactConflict, Refused
from ledger.engine.values.principal import PARENT_BY_TRACE, Principal
from ledger.engine.values.recorded import Identity
from ledger.engine.writer.command import OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.memory import sees
from ledger.engine.writer.request import About, Receipt, TenantOf
from ledger.features.facts.envelope import Fact
from ledger.features.facts.report import ReportFact
from ledger.features.runs.parents import runs_above
from ledger.features.runs.report_runs import run_of

_PARENTAGE = OwnCommand(PARENT_BY_TRACE)
"""The ledger's own request by which runs get the parents that their traces show."""


class RunOfSpan(NamedTuple):
    """A span's run, by its name."""

    source: str
    name: str
    workspace_id: str | None = None
    """The workspace that bounds the credential that sent the span; None: it sees all."""

    def identity(self, organization_id: str) -> Identity:
        return Identity.of_run(organization_id, self.source, self.name)


class _SpanFact(ReportFact):
    """A fact of a span, identified by its id alone: sent again, it may have other content."""

    __slots__ = ()

    def _is_repeated(self, earlier: IdentityOwner, group: Group) -> bool:
        return sees(self.principal, group.memory.find(earlier.event.originator_id))


class ReportSpan:
    """The command to record a span's run: its start and its end are both recorded, or neither."""

    idempotency = None
    needs_key: ClassVar[bool] = False
    """As facts: see ``ReportFact``."""

    def __init__(
        self,
        start: Fact,
        end: Fact,
        parent: RunOfSpan | None,
        principal: Principal,
        request_id: str | None,
    ) -> None:
        """``parent`` is the nearest run above, which may be refused or not recorded yet."""
        self.facts = (start, end)
        self._parent = parent
        self._refused = self._start = _SpanFact(start, principal, request_id)
        self.principal, self.request_id = principal, request_id
        self.has_parent = False
        """True if the run has got its parent with its start."""

    @property
    def issues(self) -> str | None:
        return self._start.issues

    def streams(self) -> Iterable[str]:
        return self._start.streams()

    def identities(self, tenant_of: TenantOf) -> tuple[Identity, ...]:
        organization_id = self._start.tenant(tenant_of)
        if organization_id is None:
            return ()
        end = self.facts[1]
        parent = () if self._parent is None else (self._parent.identity(organization_id),)
        ended = Identity(organization_id, end.source, end.id)
        return (*self._start.identities(tenant_of), ended, *parent)

    def followup_identities(
        self, tenant_of: TenantOf, exists: Callable[[Identity], bool]
    ) -> Iterable[Identity]:
        return self._start.followup_identities(tenant_of, exists)

    def about(self) -> About:
        """The data of the fact that is refused."""
        return self._refused.about()

    def decide(self, group: Group) -> Receipt:
        """Record both facts. Raises Refused before either is recorded."""
        group.memory.load(self.streams())
        start, end = self._with_parent(group), self.facts[1]
        if self._is_recorded(start.fact, group):
            began = start.decide(group)
            return self._joined(began, self._ending(began).decide(group))
        ending = self._refused = _SpanFact(end, self.principal, self.request_id)
        if self._is_recorded(end, group):
            raise FactConflict("The end of this run was recorded as a fact of another run.")
        ending.require_sound(group)
        self._refused = start
        began = start.decide(group)
        self.has_parent = start.fact.named_parent is not None
        try:
            return self._joined(began, self._ending(began).decide(group))
        except Refused as error:
            raise AssertionError("the end of a run was refused, whose start was not") from error

    def _is_recorded(self, fact: Fact, group: Group) -> bool:
        organization_id = self._start.tenant(group.memory.tenant_of)
        if organization_id is None:
            return False
        return group.memory.first(Identity(organization_id, fact.source, fact.id)) is not None

    def _ending(self, began: Receipt) -> _SpanFact:
        """The end of the run of this start: an administrator's fact must name the run by its id."""
        end, run_id = self.facts[1], began.subject
        named = msgspec.structs.replace(end, subject=run_id, streams=(run_id,))
        self._refused = _SpanFact(named, self.principal, self.request_id)
        return self._refused

    def _with_parent(self, group: Group) -> _SpanFact:
        """The start, with the parent if the credential sees it."""
        parent = None
        organization_id = self._start.tenant(group.memory.tenant_of)
        if self._parent is not None and organization_id is not None:
            parent = run_of(self._parent.identity(organization_id), group)
        if parent is None or not sees(self.principal, parent):
            return self._start
        fact = msgspec.structs.replace(self.facts[0], named_parent=parent.id)
        return _SpanFact(fact, self.principal, self.request_id)

    def _joined(self, began: Receipt, ended: Receipt) -> Receipt:
        return Receipt(
            began.subject,
            began.event_ids + ended.event_ids,
            ended.position,
            duplicate=began.duplicate and ended.duplicate,
        )


class GiveParent(OwnCommand):
    """The command to give a run the parent that its trace shows, if it has none."""

    needs_key = False

    def __init__(
        self,
        organization_id: str,
        child: RunOfSpan,
        parent: RunOfSpan,
        principal: Principal,
        request_id: str | None,
    ) -> None:
        super().__init__(principal, request_id)
        self._organization_id, self._child, self._parent = organization_id, child, parent

    def identities(self, tenant_of: TenantOf) -> tuple[Identity, ...]:
        return tuple(each.identity(self._organization_id) for each in (self._child, self._parent))

    def decide(self, group: Group) -> Receipt:
        """The child's sender must see the parent. Nothing is done if a run is not recorded."""
        begun_by = self._parent.identity(self._organization_id)
        child = run_of(self._child.identity(self._organization_id), group)
        parent = run_of(begun_by, group)
        nothing = Receipt("" if child is None else child.id, (), 0, duplicate=True)
        if child is None or parent is None:
            return nothing
        above = () if child.parent_run_id else runs_above(parent, group)
        body = child.give_parent(parent, above, None)
        if body is None or self._child.workspace_id not in (None, parent.workspace_id):
            return nothing
        first = group.memory.first(begun_by)
        assert first is not None
        times = [run.requested_at or group.now for run in (child, parent)]
        cause = first.event.event_id
        recorded = group.record(child, body, max(times), _PARENTAGE, caused_by=cause)
        return Receipt(child.id, (recorded.event_id,), recorded.position)
