"""Alert: opened by a watch, once for each episode for which the watch was due.

The file has, in this order: events, state, decisions, fold, due alerts. The same functions decide
under the append lock, find what is due by the views, and make the preview.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.event_table import PASSES, SAME, DecisionEffect, EventRow
from ledger.engine.values.recorded import Event, Folded, Identity, Recorded
from ledger.engine.values.values import EARLIEST
from ledger.features.watches.kinds import AnyKind, wording
from ledger.features.watches.kinds.base import AlertSubject, Condition, Episode, LineNow
from ledger.features.watches.model.watch import Severity, Watch, WatchSettings
from ledger.features.watches.model.watch_hours import due_at

ResolvedReason = Literal["recovered", "changed", "disabled", "deleted", "line_closed"]
"""``recovered``: the condition ended; ``changed``: the watch has another revision, or the line left
its ``lines``; ``disabled``, ``deleted``: the watch was."""


class _OfAlert(Event, frozen=True, kw_only=True):
    """The fields that every event of an alert has, so that each event makes sense alone."""

    alert_id: str
    watch_id: str
    watch_name: str
    severity: Severity
    """As of the opening, as are the next two fields."""
    subject: AlertSubject
    text: str
    """An English sentence."""


class AlertOpened(_OfAlert, frozen=True, kw_only=True):
    """A condition has held for as long as its watch says. The event's time is when it was due."""

    TOPIC = "alert.opened/1"
    condition: AnyKind
    for_seconds: int
    since: datetime
    due: datetime
    evidence: tuple[str, ...] = ()
    """The EVT ids of the events that began the condition."""
    revision: int
    """The revision of the watch."""
    began_by: str
    """The begin of the condition, which identifies the alert with revision and subject."""

    def identities(self, recorded: Recorded) -> tuple[Identity, ...]:
        return (identity_of(recorded.organization_id or "", self),)


class AlertReminded(_OfAlert, frozen=True, kw_only=True):
    """An alert is open still, and nobody has acknowledged it."""

    TOPIC = "alert.reminded/1"
    n: int
    """1 for the first reminder."""


class AlertAcknowledged(_OfAlert, frozen=True, kw_only=True):
    """Somebody takes care of an alert; a later acknowledgement replaces an earlier one."""

    TOPIC = "alert.acknowledged/1"
    note: str | None = None
    assignee: str | None = None
    until: datetime | None = None
    """From then on the alert is open again; None: it stays acknowledged."""


class AlertResolved(_OfAlert, frozen=True, kw_only=True):
    """An alert's condition has ended, or the watch no longer looks at it."""

    TOPIC = "alert.resolved/1"
    reason: ResolvedReason


AlertEvent = AlertOpened | AlertReminded | AlertAcknowledged | AlertResolved

_ABOUT = ("alert_id", "watch_id", "watch_name", "severity", "subject")
_OPENED = (*_ABOUT, "condition", "for_seconds", "since", "due", "evidence", "text")

# Columns: event, published type, published payload, fact, command, note.
ALERT_TABLE: tuple[EventRow, ...] = (
    EventRow(AlertOpened, "alert.opened", _OPENED, None, None, DecisionEffect.ISSUED),
    EventRow(AlertReminded, "alert.reminded", SAME, None, None, PASSES),
    EventRow(AlertAcknowledged, "alert.acknowledged", SAME, None, "alert.acknowledge", PASSES),
    EventRow(AlertResolved, "alert.resolved", SAME, None, None, PASSES),
)

ALERT_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in ALERT_TABLE)

_SHARED = tuple(_OfAlert.__struct_fields__)


class Acknowledgement(msgspec.Struct, frozen=True):
    """The latest acknowledgement of an alert."""

    at: datetime
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


class Alert(Folded):
    """The state of one alert, folded from its stream."""

    organization_id: str | None = None
    workspace_id: str | None = None
    service_line_id: str | None = None
    opened: AlertOpened | None = None
    acknowledged: Acknowledgement | None = None
    reminders: int = 0
    reminded_at: datetime = EARLIEST
    resolved: ResolvedReason | None = None

    @property
    def body(self) -> AlertOpened:
        assert self.opened is not None, "the first event of an alert opens it"
        return self.opened

    # Decisions.

    def acknowledge(
        self, note: str | None, assignee: str | None, until: datetime | None
    ) -> AlertAcknowledged:
        """Refused once the alert is resolved."""
        self.require_unresolved()
        return AlertAcknowledged(note=note, assignee=assignee, until=until, **self._shared())

    def remind(self, every_seconds: int, now: datetime) -> tuple[AlertReminded, datetime] | None:
        """(event, its time) if a reminder is due, else None."""
        at = self.next_reminder(every_seconds, now)
        if self.resolved is not None or at is None or at > now:
            return None
        # The latest multiple, where several have passed since.
        every = timedelta(seconds=every_seconds)
        at += (now - at) // every * every
        return AlertReminded(n=self.reminders + 1, **self._shared()), at

    def next_reminder(self, every_seconds: int, now: datetime) -> datetime | None:
        """When the next reminder is due, by the acknowledgement as it is; None: there is none."""
        if not every_seconds:
            return None
        begin, every = self.body.due, timedelta(seconds=every_seconds)
        if self.acknowledged is not None:
            if self.acknowledged.until is None:
                return None
            begin = max(begin, self.acknowledged.until)
        after = max(begin, self.reminded_at)
        return begin + ((after - begin) // every + 1) * every

    def resolve(self, reason: ResolvedReason, at: datetime) -> tuple[AlertResolved, datetime]:
        """(event, its time) for an end at an instant. Refused if the alert is resolved already."""
        self.require_unresolved()
        return AlertResolved(reason=reason, **self._shared()), max(at, self.body.due)

    def require_unresolved(self) -> None:
        if self.resolved is not None:
            raise InvalidState("The alert is resolved.")

    def _shared(self) -> dict[str, Any]:
        return {name: getattr(self.body, name) for name in _SHARED}

    # The fold.

    def _opened(self, body: AlertOpened, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.service_line_id = recorded.service_line_id
        self.opened = body

    def _reminded(self, body: AlertReminded, recorded: Recorded) -> None:
        self.reminders, self.reminded_at = body.n, recorded.occurred_at

    def _acknowledged(self, body: AlertAcknowledged, recorded: Recorded) -> None:
        self.acknowledged = Acknowledgement(recorded.recorded_at, body.until)

    def _resolved(self, body: AlertResolved, recorded: Recorded) -> None:
        self.resolved = body.reason

    _APPLY: ClassVar = {
        AlertOpened: _opened,
        AlertReminded: _reminded,
        AlertAcknowledged: _acknowledged,
        AlertResolved: _resolved,
    }


def identity_of(organization_id: str, body: AlertOpened) -> Identity:
    return Identity.of_alert(
        organization_id,
        body.watch_id,
        body.revision,
        f"{body.subject.type}/{body.subject.id}",
        body.began_by,
    )


def left_by(watch: Watch) -> tuple[ResolvedReason, datetime]:
    """Why and when a watch left the alerts of an earlier revision, or all of its alerts."""
    if watch.disabled_at is not None:
        return "deleted" if watch.deleted else "disabled", watch.disabled_at
    assert watch.revised_at is not None, "a watch has a revision from its creation on"
    return "changed", watch.revised_at


# Due alerts.


class Due(NamedTuple):
    """An episode for which a watch is due, or will be."""

    watch: Watch
    episode: Episode
    at: datetime

    def opening(self, line: LineNow, evidence: tuple[str, ...] = ()) -> AlertOpened:
        """The opening of the alert, without the id, which is issued under the append lock."""
        settings = self.watch.config
        return AlertOpened(
            alert_id="",
            watch_id=self.watch.id,
            watch_name=settings.name,
            severity=settings.severity,
            subject=self.episode.subject,
            text=sentence(settings, self.episode, line),
            condition=settings.condition,
            for_seconds=settings.for_seconds,
            since=self.episode.since,
            due=self.at,
            evidence=evidence,
            revision=self.watch.revision,
            began_by=self.episode.began_by,
        )


def due_for(watches: Sequence[Watch], line: LineNow) -> Iterator[Due]:
    """The episodes of a line for all watches that are enabled and about it."""
    present = dict[Condition, Sequence[Episode]]()  # many watches have few conditions
    for watch in watches:
        settings = watch.config
        if not settings.enabled or watch.deleted:
            continue
        found = present.get(settings.condition)
        if found is None:
            found = present[settings.condition] = episodes_of(settings.condition, line)
        if found and watch.covers(line.execution):
            for episode in found:
                yield Due(watch, episode, due_of(settings, episode.since))


def due_of(settings: WatchSettings, since: datetime) -> datetime:
    return due_at(since, settings.for_seconds, settings.hours)


def episodes_of(condition: Condition, line: LineNow) -> Sequence[Episode]:
    """The present episodes of a condition. On a closed line nothing holds."""
    return () if line.execution.state == "closed" else condition.episodes(line)


def sentence(settings: WatchSettings, episode: Episode, line: LineNow) -> str:
    """The text of an alert: what holds, and who should act by when if a blocker says so."""
    return wording.plain(f"{settings.condition.text(settings.for_seconds, episode, line)}.")
