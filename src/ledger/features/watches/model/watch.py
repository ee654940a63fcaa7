"""Watch: a condition with a clock, over the lines of an organization or workspace.

A watch opens alerts (``alert.py``); its condition is of one of the ``kinds``. The file has, in
this order: settings, events, state, decisions, fold.
"""

import math
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

import msgspec

from ledger.engine.values.errors import ChangedTooOften, InvalidState
from ledger.engine.values.event_table import PASSES, DecisionEffect, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded
from ledger.features.lines.model.execution import Execution
from ledger.features.watches.kinds import KINDS, AnyKind
from ledger.features.watches.model.watch_hours import WatchHours

Severity = Literal["info", "warning", "critical"]

MAX_WATCHES = 50
"""The most watches of an organization: each change of a line is compared with all of them."""

MAX_REVISIONS = 5
REVISIONS_WITHIN = timedelta(minutes=5)
"""A watch begins at most so many revisions in this time: each may resolve ``MAX_UNRESOLVED`` alerts
and open as many, and an event is kept for good."""

MAX_UNRESOLVED = 1_000
"""The most unresolved alerts of a watch; what else is due waits for room."""


class LineChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """The lines that a watch is about: fields and, values or; None: any."""

    execution_model: tuple[str, ...] | None = None
    product_line: tuple[str, ...] | None = None
    project_tag: tuple[str, ...] | None = None
    service_line_id: tuple[str, ...] | None = None

    def has(self, line: Execution) -> bool:
        return (
            (self.execution_model is None or line.execution_model in self.execution_model)
            and (self.product_line is None or line.product_line in self.product_line)
            and (self.service_line_id is None or line.id in self.service_line_id)
            and (
                self.project_tag is None or not set(self.project_tag).isdisjoint(line.project_tags)
            )
        )


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a watch."""

    name: str
    condition: AnyKind
    for_seconds: int
    severity: Severity = "warning"
    hours: WatchHours | None = None
    keep_seconds: int = 0
    """So long an alert stays open after its condition has ended."""
    remind_seconds: int = 0
    """The time between two reminders; 0: there are none."""
    lines: LineChoice = LineChoice()
    enabled: bool = True


STARTERS: tuple[WatchSettings, ...] = tuple(
    msgspec.convert(
        {**kind.starter._asdict(), "condition": kind.suggested(), "for_seconds": kind.seconds},
        WatchSettings,
    )
    for kind in KINDS
    if kind.starter is not None
)
"""The watches that an organization without any is offered, and that the demo has."""


class WatchCreated(Event, frozen=True, kw_only=True):
    """A watch was set up; it looks at what holds now, and at what follows."""

    TOPIC = "watch.created/1"
    settings: WatchSettings


class WatchUpdated(Event, frozen=True, kw_only=True):
    """A watch's settings were changed; the event has all settings as they are now."""

    TOPIC = "watch.updated/1"
    settings: WatchSettings


class WatchDeleted(Event, frozen=True, kw_only=True):
    """A watch was deleted: its alerts are resolved, and it opens none any more."""

    TOPIC = "watch.deleted/1"


# Columns: event, published type, published payload, fact, command, note.
WATCH_TABLE: tuple[EventRow, ...] = (
    EventRow(WatchCreated, None, None, None, "watch.create", DecisionEffect.OWNED),
    EventRow(WatchUpdated, None, None, None, "watch.update", PASSES),
    EventRow(WatchDeleted, None, None, None, "watch.delete", DecisionEffect.DISOWNED),
)

WATCH_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in WATCH_TABLE)

_OF_REVISION = ("condition", "for_seconds", "hours", "lines")
"""The settings that a new revision begins with; so does enabling."""


class Watch(Folded):
    """The state of one watch, folded from its stream."""

    organization_id: str | None = None
    workspace_id: str | None = None
    """The workspace whose lines are watched; None: the whole organization's."""
    settings: WatchSettings | None = None
    revision: int = 0
    """The position of the event that began the present revision."""
    revised_at: datetime | None = None
    """When it was recorded."""
    revisions: tuple[datetime, ...] = ()
    """When the latest revisions were begun by changes, at most ``MAX_REVISIONS``."""
    disabled_at: datetime | None = None
    """When the watch was disabled or deleted; None: it is enabled."""
    deleted: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def config(self) -> WatchSettings:
        assert self.settings is not None, "the first event of a watch has its settings"
        return self.settings

    def covers(self, line: Execution) -> bool:
        """True if the watch is about a line, as the line is now."""
        return (
            line.organization_id == self.organization_id
            and self.workspace_id in (None, line.workspace_id)
            and self.config.lines.has(line)
        )

    # Decisions.

    def update(self, **changes: Any) -> WatchUpdated | None:
        """Change the given settings; None if none has another value."""
        settings = msgspec.structs.replace(self.config, **changes)
        return None if settings == self.settings else WatchUpdated(settings=settings)

    def require_pause(self, body: WatchUpdated, now: datetime) -> None:
        """Refuse a change that would begin one revision too many. Raises ChangedTooOften."""
        if len(self.revisions) < MAX_REVISIONS or not self._is_revised_by(body.settings):
            return
        wait = self.revisions[0] + REVISIONS_WITHIN - now
        if wait > timedelta(0):
            seconds = math.ceil(wait.total_seconds())
            most = f"The watch has begun {MAX_REVISIONS} revisions in 5 minutes, the maximum."
            raise ChangedTooOften(f"{most} The next one may begin in {seconds} s.", seconds)

    def _is_revised_by(self, settings: WatchSettings) -> bool:
        before = self.settings
        return (
            before is None
            or (settings.enabled and not before.enabled)
            or any(getattr(before, name) != getattr(settings, name) for name in _OF_REVISION)
        )

    @staticmethod
    def require_room(watches: int) -> None:
        """Refuse a watch more than an organization may have."""
        if watches >= MAX_WATCHES:
            raise InvalidState(f"The organization already has {MAX_WATCHES} watches, the maximum.")

    # The fold.

    def _created(self, body: WatchCreated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.created_at = recorded.recorded_at
        self._revise(body.settings, recorded)

    def _updated(self, body: WatchUpdated, recorded: Recorded) -> None:
        now = body.settings
        if self._is_revised_by(now):
            self.revisions = (*self.revisions, recorded.recorded_at)[-MAX_REVISIONS:]
            self._revise(now, recorded)
            return
        if not now.enabled and self.config.enabled:
            self.disabled_at = recorded.recorded_at
        self.settings, self.updated_at = now, recorded.recorded_at

    def _revise(self, settings: WatchSettings, recorded: Recorded) -> None:
        self.revision, self.revised_at = recorded.position, recorded.recorded_at
        self.settings, self.updated_at = settings, recorded.recorded_at
        if settings.enabled:
            self.disabled_at = None
        elif self.disabled_at is None:
            self.disabled_at = recorded.recorded_at

    def _deleted(self, body: WatchDeleted, recorded: Recorded) -> None:
        self.deleted = True
        self.disabled_at = recorded.recorded_at

    _APPLY: ClassVar = {
        WatchCreated: _created,
        WatchUpdated: _updated,
        WatchDeleted: _deleted,
    }
