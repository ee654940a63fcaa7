"""Commands about alerts: of people who acknowledge them, and of the loop of watches.

The loop finds by the views what seems due, or over. Its commands decide anew under the append lock,
by the line and the run as they are then. Where only a view has the keys of a condition, the command
waits for a later round if the log has more events of the line than the view.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime

import msgspec

from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import WATCHER, Principal
from ledger.engine.values.recorded import Identity
from ledger.engine.values.values import EARLIEST, ENDED
from ledger.engine.writer.command import ManagedCommand, OwnCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import About, IdempotencyKey, Receipt, TenantOf
from ledger.features.lines.model.execution import Execution
from ledger.features.runs.model.run import Run
from ledger.features.watches.kinds.base import Condition, Episode, LineNow, OpenRun
from ledger.features.watches.model.alert import (
    Alert,
    AlertAcknowledged,
    AlertOpened,
    ResolvedReason,
    episodes_of,
    identity_of,
)
from ledger.features.watches.model.watch import Watch

_UNCHANGED = Receipt("", (), 0, duplicate=True)

_encode = msgspec.json.Encoder().encode


@dataclass(eq=False, repr=False)
class Acknowledge(ManagedCommand):
    """Take care of an alert; a later acknowledgement replaces an earlier one."""

    action = "alert.acknowledge"
    subject_type = "alert"

    note: str | None = field(kw_only=True)
    assignee: str | None = field(kw_only=True)
    until: datetime | None = field(kw_only=True)

    def _event(self, alert: Alert, group: Group) -> AlertAcknowledged:
        _require_future(self.until, group)
        return alert.acknowledge(self.note, self.assignee, self.until)


@dataclass(eq=False, repr=False)
class AcknowledgeMany(OwnCommand):
    """Check a request to acknowledge many alerts; each alert has a command of its own."""

    action = "alert.acknowledge"

    principal: Principal
    request_id: str | None
    _: KW_ONLY
    until: datetime | None
    fault: Invalid | None
    idempotency: IdempotencyKey | None

    def about(self) -> About:
        return About(self.action)

    def decide(self, group: Group) -> Receipt:
        """Raises Invalid. The answer is the instant of the decision."""
        if self.fault is not None:
            raise self.fault
        _require_future(self.until, group)
        return Receipt("", (), 0, answer=_encode(group.now))


def _require_future(until: datetime | None, group: Group) -> None:
    if until is not None and until <= group.now:
        raise Invalid.at("/until", "must lie in the future")


class _OfLine(OwnCommand):
    """A command of the loop, about a line as the views had it at a position."""

    def __init__(self, line_id: str | None, line: LineNow | None, position: int) -> None:
        super().__init__(WATCHER)
        self.line_id, self._line, self._position = line_id, line, position
        self.is_undecided = False
        """True if a later round must decide: the views do not have all events of the line yet."""

    def _present(
        self, group: Group, condition: Condition, subject: str
    ) -> Sequence[Episode] | None:
        """The present episodes of a subject; None: the views lack events that the log has."""
        line_id = self.line_id or ""
        execution = group.memory.find(line_id)
        if not isinstance(execution, Execution) or self._line is None:
            return None
        activity = group.memory.activity(line_id)
        now = LineNow(execution, activity.last_activity_at, activity.open_runs)
        if condition.about == "open_runs":
            now = now._replace(runs=self._runs(group, subject))
        if condition.about in ("failures", "sums"):
            if group.changed_since(line_id, self._position):
                self.is_undecided = True
                return None
            now = now._replace(failures=self._line.failures, over=self._line.over)
        return [each for each in episodes_of(condition, now) if each.subject.id == subject]

    def _runs(self, group: Group, run_id: str) -> Sequence[OpenRun]:
        """The run as it is now, with the position that the views have for its present status."""
        run = group.memory.find(run_id)
        if not isinstance(run, Run) or run.status in ENDED:
            return ()
        since = run.started_at if run.status == "running" else run.requested_at
        assert since is not None, "an open run was requested, and started once it is running"
        earlier = [each for each in self._line.runs if each.run_id == run_id] if self._line else []
        position = earlier[0].position if earlier and earlier[0].status == run.status else 0
        return [OpenRun(run_id, run.external_id, run.status, since, position)]


class OpenAlert(_OfLine):
    """Open an alert for a due episode that holds and has none; the body has no id yet."""

    issues = "ALR"

    def __init__(
        self, watch: Watch, line: LineNow, position: int, episode: Episode, body: AlertOpened
    ) -> None:
        super().__init__(line.execution.id, line, position)
        self._organization_id = watch.organization_id or ""
        self._episode, self.body = episode, body

    def streams(self) -> Sequence[str]:
        assert self.line_id is not None
        run = [self._episode.subject.id] if self._episode.subject.type == "run" else []
        return (self.body.watch_id, self.line_id, *run)

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        return (identity_of(self._organization_id, self.body),)

    def decide(self, group: Group) -> Receipt:
        """Change nothing for an episode that is over, was alerted, or that the watch has left."""
        body, watch = self.body, _watch_to_open(group, self._organization_id, self.body)
        if watch is None:
            return _UNCHANGED
        present = self._present(group, watch.config.condition, self._episode.subject.id)
        line = group.memory.find(self.line_id or "")
        if not isinstance(line, Execution) or not watch.covers(line):
            return _UNCHANGED
        if self._episode not in (present or ()):
            return _UNCHANGED
        if body.due > group.now:
            # The clock was set back, or is another node's.
            self.is_undecided = True
            return _UNCHANGED
        return _open(group, self, body, (line.organization_id, line.workspace_id, line.id))


class ResolveAlert(_OfLine):
    """Resolve an alert whose condition ended, or that its watch has left.

    ``at`` is the effective end, with the time for which the watch keeps an alert; ``joined_before``
    is the instant before which an episode must begin to join the alert's, or None.
    """

    def __init__(
        self,
        alert: Alert,
        reason: ResolvedReason,
        ended_at: datetime,
        line: LineNow | None,
        position: int,
        joined_before: datetime | None = None,
    ) -> None:
        super().__init__(alert.service_line_id, line, position)
        self.alert_id, self._reason, self.at = alert.id, reason, ended_at
        self._joined_before, self._subject = joined_before, alert.body.subject

    def streams(self) -> Sequence[str]:
        line = () if self.line_id is None else (self.line_id,)
        run = (self._subject.id,) if self._subject.type == "run" else ()
        return (self.alert_id, *line, *run)

    def decide(self, group: Group) -> Receipt:
        """Change nothing if the alert is resolved, or if its condition holds again."""
        alert = group.memory.find(self.alert_id)
        if not isinstance(alert, Alert) or alert.resolved is not None:
            return _UNCHANGED
        is_silence = self._subject.type == "source"  # a new fact ends it for good
        if self._reason == "recovered" and not is_silence and self._holds(alert, group):
            return _UNCHANGED
        body, at = alert.resolve(self._reason, self.at)
        return receipt(group.record(alert, body, at, self))

    def _holds(self, alert: Alert, group: Group) -> bool:
        """True if the episode lasts, another has joined it, or this cannot be decided yet."""
        present = self._present(group, alert.body.condition, self._subject.id)
        if present is None:
            return True
        before = self._joined_before
        return any(
            each.began_by == alert.body.began_by or (before is not None and each.since < before)
            for each in present
        )


class RemindOfAlert(OwnCommand):
    """Record that an alert is open still, if a reminder is due."""

    def __init__(self, alert_id: str, every_seconds: int) -> None:
        super().__init__(WATCHER)
        self.alert_id, self._every = alert_id, every_seconds
        self.at, self.is_undecided = EARLIEST, False

    def streams(self) -> Sequence[str]:
        return (self.alert_id,)

    def decide(self, group: Group) -> Receipt:
        alert = group.memory.find(self.alert_id)
        reminder = alert.remind(self._every, group.now) if isinstance(alert, Alert) else None
        if not isinstance(alert, Alert) or reminder is None:
            return _UNCHANGED
        body, at = reminder
        return receipt(group.record(alert, body, at, self))


class OpenSourceAlert(OwnCommand):
    """Open an alert for a source that is silent, if the log has no later fact of the source.

    The body has no ``alert_id`` yet; ``position`` is that of the view of sources.
    """

    issues = "ALR"
    is_undecided = False

    def __init__(self, watch: Watch, position: int, body: AlertOpened) -> None:
        super().__init__(WATCHER)
        self._tenant = watch.organization_id, watch.workspace_id
        self._position, self.body = position, body

    def streams(self) -> Sequence[str]:
        return (self.body.watch_id,)

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        return (identity_of(self._tenant[0] or "", self.body),)

    def decide(self, group: Group) -> Receipt:
        """Change nothing for a source that has reported, or was alerted."""
        body = self.body
        if (
            _watch_to_open(group, self._tenant[0] or "", body) is None
            or body.due > group.now
            or group.changed_since(body.subject.id, self._position)
        ):
            return _UNCHANGED
        return _open(group, self, body, (*self._tenant, None))


def _watch_to_open(group: Group, organization_id: str, body: AlertOpened) -> Watch | None:
    """The watch, if it still has the alert's revision, and no alert of the episode."""
    watch = group.memory.find(body.watch_id)
    if (
        not isinstance(watch, Watch)
        or watch.disabled_at is not None
        or watch.revision != body.revision
        or group.memory.first(identity_of(organization_id, body)) is not None
    ):
        return None
    return watch


def _open(
    group: Group,
    command: OwnCommand,
    body: AlertOpened,
    tenant: tuple[str | None, str | None, str | None],
) -> Receipt:
    alert = Alert(group.issue("ALR"))
    body = msgspec.structs.replace(body, alert_id=alert.id)
    return receipt(group.record(alert, body, body.due, command, tenant=tenant))
