"""A model of watches by the contract (Watches, State): what opens, is repeated and ends, and when.

The model takes the stored events in log order, but none that the loop of watches records, and is
told when a round takes place. The model shares no code with the service.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

NEVER = datetime.max.replace(tzinfo=ZoneInfo("UTC"))
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PENALTIES = {"green": 0, "amber": 6, "red": 31}
LIMITS = {"amber": 70, "red": 50}


def due_at(since: datetime, seconds: int, hours: dict[str, Any] | None, step: int = 60) -> datetime:
    """When so many seconds have passed since an instant: of the hours, if there are any.

    The clock of the zone is looked at each minute, or at other steps that divide a minute: its
    offset from UTC is a multiple of them.
    """
    left = timedelta(seconds=seconds)
    if hours is None:
        return since + left
    zone = ZoneInfo(hours["time_zone"])
    at = since
    while True:
        begun = at.replace(second=at.second // step * step, microsecond=0)
        following = begun + timedelta(seconds=step)
        local = at.astimezone(zone)
        is_within = DAYS[local.weekday()] in hours["days"]
        if is_within and hours["from"] <= f"{local:%H:%M}" < hours["to"]:
            if left < following - at:
                return at + left
            left -= following - at
        at = following


class Stretch(NamedTuple):
    """A condition that holds, or held, for a subject."""

    subject: tuple[str, str]
    since: datetime
    key: Any
    """The position, or the instant, that began the stretch."""
    end: datetime | None = None


@dataclass
class _Blocker:
    since: datetime
    position: int
    cause: str
    due_at: datetime | None
    end: datetime | None = None


@dataclass
class _Run:
    phases: list[list[Any]] = field(default_factory=list)
    """(status, since, position, end) of pending and of running."""
    has_expired: bool = False

    @property
    def is_open(self) -> bool:
        return self.phases[-1][3] is None

    def end(self, at: datetime) -> None:
        if self.is_open:
            self.phases[-1][3] = at


@dataclass
class _Line:
    id: str
    organization: str
    workspace: str
    product_line: str
    execution_model: str
    changed_at: datetime
    last_change: datetime
    last_activity: datetime
    turns: list[tuple[datetime, str, int]] = field(default_factory=list)
    """(effective time, state, position) of each change of the state."""
    holds: set[str] = field(default_factory=set)
    open_blockers: dict[str, _Blocker] = field(default_factory=dict)
    blockers: dict[str, list[_Blocker]] = field(default_factory=dict)
    idle: bool = False
    closed_at: datetime | None = None
    runs: dict[str, _Run] = field(default_factory=dict)
    outcomes: list[tuple[str, datetime, int]] = field(default_factory=list)
    """The failed and completed runs that count, in order of recording."""
    signals: dict[str, str] = field(default_factory=dict)
    scores: list[tuple[int, datetime, int]] = field(default_factory=list)
    quiet: list[tuple[datetime | None, datetime, int]] = field(default_factory=list)
    """(since when it is quiet, or None; recorded at, position) after each event before its end."""
    tags: list[tuple[list[str], datetime, int]] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.closed_at is not None:
            return "closed"
        if self.holds:
            return "paused"
        return "blocked" if self.open_blockers else "idle" if self.idle else "running"

    def change(self, at: datetime, position: int, is_rest: bool = False) -> datetime:
        """A change with this time takes effect; return when."""
        self.changed_at = max(self.changed_at, at)
        if not is_rest:
            self.last_change = self.changed_at
        if not self.turns or self.turns[-1][1] != self.state:
            self.turns.append((self.changed_at, self.state, position))
        return self.changed_at

    def quiet_since(self) -> datetime | None:
        is_busy = any(run.is_open for run in self.runs.values())
        if is_busy or self.state in ("paused", "closed"):
            return None
        return max(self.last_activity, self.last_change)

    # The stretches of each condition, in order of recording.

    def stretches(self, condition: dict[str, Any]) -> list[Stretch]:
        return list(getattr(self, f"_{condition['kind']}")(condition))

    def _in_state(self, condition: dict[str, Any]) -> list[Stretch]:
        found: list[Stretch] = []
        own, began = ("service_line", self.id), None
        turns = [turn for turn in self.turns if turn[1] != "closed"]
        following = [*self.turns[1:], (NEVER, "", 0)]
        for (at, state, position), (until, _, _) in zip(turns, following, strict=False):
            if state in condition["states"]:
                began = began or (at, position)
            elif began is not None and until > at:
                found.append(Stretch(own, *began, end=at))
                began = None
        return found if began is None else [*found, Stretch(own, *began)]

    def _blocker_open(self, condition: dict[str, Any]) -> list[Stretch]:
        causes = condition.get("causes")
        return [
            Stretch(("blocker", name), each.since, each.position, each.end)
            for name, several in self.blockers.items()
            for each in several
            if causes is None or each.cause in causes
        ]

    def _past_due(self, condition: dict[str, Any]) -> list[Stretch]:
        return [
            Stretch(("blocker", name), max(each.since, each.due_at), each.position, each.end)
            for name, several in self.blockers.items()
            for each in several
            if each.due_at is not None
        ]

    def _no_activity(self, condition: dict[str, Any]) -> list[Stretch]:
        since = self.quiet[-1][0]
        return [] if since is None else [Stretch(("service_line", self.id), since, since)]

    def _run_open(self, condition: dict[str, Any]) -> list[Stretch]:
        return [
            Stretch(("run", name), since, position, end)
            for name, run in self.runs.items()
            for status, since, position, end in run.phases
            if status in condition["statuses"]
        ]

    def _runs_failing(self, condition: dict[str, Any]) -> list[Stretch]:
        own, counter, count = ("service_line", self.id), 0, condition["count"]
        found: list[Stretch] = []
        for outcome, at, position in self.outcomes:
            if outcome == "failed":
                counter += 1
                if counter == count:
                    found.append(Stretch(own, at, position))
            else:
                if counter >= count:
                    found[-1] = found[-1]._replace(end=at)
                counter = 0
        return found

    def _health(self, condition: dict[str, Any]) -> list[Stretch]:
        own, limit = ("service_line", self.id), LIMITS[condition["status"]]
        found: list[Stretch] = []
        crossed: datetime | None = None
        is_below = False
        for score, at, position in self.scores:
            if (score < limit) == is_below:
                continue
            is_below = not is_below
            crossed = at if crossed is None else max(at, crossed)
            if is_below:
                found.append(Stretch(own, crossed, position))
            else:
                found[-1] = found[-1]._replace(end=crossed)
        return found


@dataclass
class Watch:
    id: str
    organization: str
    workspace: str | None
    settings: dict[str, Any]
    revision: int
    revised_at: datetime
    off: tuple[str, datetime] | None = None
    """("disabled" or "deleted", since when)."""

    @property
    def lines(self) -> dict[str, list[str]]:
        lines: dict[str, list[str]] = self.settings.get("lines", {})
        return lines


@dataclass
class Alert:
    watch: Watch
    revision: int
    line: _Line
    condition: dict[str, Any]
    stretch: Stretch
    due: datetime
    opened_after: int
    """The position of the last event that was known when it opened."""
    told: dict[str, Any]
    resolved: tuple[str, datetime] | None = None
    reminders: list[datetime] = field(default_factory=list)
    acknowledged_until: datetime | str | None = ""
    """Empty: nobody has; None: for ever."""

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.watch.id, self.revision, self.line.id, self.stretch.subject, self.stretch.key)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class WatchModel:
    """The watches, lines and alerts after the events taken and the rounds so far."""

    def __init__(self) -> None:
        self.lines: dict[str, _Line] = {}
        self.watches: dict[str, Watch] = {}
        self.alerts: list[Alert] = []
        self.position = 0
        self._ids: dict[int, str] = {}

    # Events.

    def take(self, event: dict[str, Any]) -> None:
        """Fold a stored event: a row of the log, its state by ``stored_object``."""
        state, stream = event["state"], event["originator_id"]
        topic = event["topic"].split("/")[0]
        at, recorded_at = _time(state["occurred_at"]), _time(state["recorded_at"])
        self.position = event["notification_id"]
        self._ids[self.position] = f"EVT-{recorded_at.year % 100:02d}-{self.position:06d}"
        if topic.startswith("watch."):
            self._watch(stream, topic, state, recorded_at)
            return
        if topic == "execution.activated":
            self._activate(stream, state, at)
        line = self.lines.get(stream if stream.startswith("LIN") else state.get("service_line_id"))
        if line is None:
            return
        if topic.startswith("run."):
            self._run(line, stream, topic.removeprefix("run."), state["body"], at)
        else:
            self._change(line, topic, state["body"], at, recorded_at)
        if line.closed_at is None:
            line.quiet.append((line.quiet_since(), recorded_at, self.position))

    def _watch(self, watch_id: str, topic: str, state: dict[str, Any], at: datetime) -> None:
        settings = state["body"].get("settings", {})
        watch = self.watches.get(watch_id)
        if topic == "watch.deleted":
            assert watch is not None
            watch.off = "deleted", at
            return
        is_enabled = settings.get("enabled", True)
        if watch is None:
            tenant = state["organization_id"], state.get("workspace_id")
            watch = Watch(watch_id, *tenant, settings, self.position, at)
            self.watches[watch_id] = watch
            watch.off = None if is_enabled else ("disabled", at)
            return
        begins = ("condition", "for_seconds", "hours", "lines")
        is_other = any(watch.settings.get(n) != settings.get(n) for n in begins)
        if is_other or (is_enabled and watch.off is not None):
            watch.revision, watch.revised_at = self.position, at
        if is_enabled:
            watch.off = None
        elif watch.off is None:
            watch.off = "disabled", at
        watch.settings = settings

    def _activate(self, stream: str, state: dict[str, Any], at: datetime) -> None:
        body = state["body"]
        started_at = _time_of(body["started_at"])
        line = self.lines[stream] = _Line(
            stream,
            state["organization_id"],
            state["workspace_id"],
            body["product_line"],
            body["execution_model"],
            changed_at=at,
            last_change=at,
            last_activity=started_at,
        )
        line.tags.append((body.get("project_tags", []), at, self.position))
        line.change(at, self.position)

    def _run(
        self, line: _Line, run_id: str, change: str, body: dict[str, Any], at: datetime
    ) -> None:
        if change not in ("requested", "started", "completed", "failed", "cancelled"):
            return
        line.last_activity = max(line.last_activity, at)
        run = line.runs.setdefault(run_id, _Run())
        if change == "requested":
            run.phases.append(["pending", at, self.position, None])
            return
        if run.phases:
            run.end(at)
        if change == "started":
            run.phases.append(["running", at, self.position, None])
        elif change == "completed" or (change == "failed" and not run.has_expired):
            line.outcomes.append((change, at, self.position))
        run.has_expired = run.has_expired or body.get("lease_expired", False)

    def _change(
        self,
        line: _Line,
        topic: str,
        body: dict[str, Any],
        at: datetime,
        recorded_at: datetime,
    ) -> None:
        match topic:
            case "execution.paused":
                line.holds.add(body["hold"])
                line.idle = False
                line.change(at, self.position)
            case "execution.resumed":
                line.holds.discard(body["hold"])
                line.change(at, self.position)
            case "execution.blocked":
                due = body.get("due_at")
                blocker = _Blocker(at, self.position, body["cause"], due and _time_of(due))
                line.open_blockers[body["blocker_id"]] = blocker
                line.blockers.setdefault(body["blocker_id"], []).append(blocker)
                line.idle = False
                blocker.since = line.change(at, self.position)
            case "execution.unblocked":
                blocker = line.open_blockers.pop(body["blocker_id"])
                blocker.end = line.change(at, self.position)
            case "execution.idle" | "execution.active":
                line.idle = topic == "execution.idle"
                line.change(at, self.position, is_rest=True)
            case "execution.closed":
                line.closed_at = max(line.changed_at, at)
                line.change(at, self.position)
            case "execution.checked_in":
                line.last_activity = max(line.last_activity, at)
            case "execution.updated":
                line.tags.append((body["project_tags"], recorded_at, self.position))
            case "health.signal_reported":
                line.signals[body["signal"]] = body["status"]
                score = max(0, 100 - sum(PENALTIES[each] for each in line.signals.values()))
                line.scores.append((score, at, self.position))

    def acknowledge(self, identity: tuple[Any, ...], until: datetime | None) -> None:
        (alert,) = [a for a in self.alerts if a.identity == identity]
        alert.acknowledged_until = until

    # Rounds.

    def round(self, now: datetime) -> None:
        """Do as a round at an instant that knows all events that were taken."""
        for alert in self.alerts:
            if alert.resolved is None and (end := self._end(alert, now)) is not None:
                alert.resolved = end[0], max(end[1], alert.due)
        for watch in self.watches.values():
            if watch.off is None:
                for line in self.lines.values():
                    if _covers(watch, line) and line.closed_at is None:
                        self._open(watch, line, now)
        for alert in self.alerts:
            if alert.resolved is None:
                _remind(alert, now)

    def _open(self, watch: Watch, line: _Line, now: datetime) -> None:
        condition = watch.settings["condition"]
        for stretch in line.stretches(condition):
            due = due_at(stretch.since, watch.settings["for_seconds"], watch.settings.get("hours"))
            alert = Alert(watch, watch.revision, line, condition, stretch, due, self.position, {})
            mine = [a for a in self.alerts if a.watch is watch and a.line is line]
            if (
                stretch.end is None
                and due <= now
                and all(a.identity != alert.identity for a in mine)
                and all(a.resolved or a.stretch.subject != stretch.subject for a in mine)
            ):
                evidence = [self._ids[stretch.key]] if isinstance(stretch.key, int) else []
                alert.told = {
                    "watch_id": watch.id,
                    "watch_name": watch.settings["name"],
                    "severity": watch.settings.get("severity", "warning"),
                    "subject": stretch.subject,
                    "condition": condition,
                    "for_seconds": watch.settings["for_seconds"],
                    "since": stretch.since,
                    "due": due,
                    "occurred_at": due,
                    "evidence": evidence,
                    "tenant": (line.organization, line.workspace, line.id),
                }
                self.alerts.append(alert)

    def _end(self, alert: Alert, now: datetime) -> tuple[str, datetime] | None:
        watch, line = alert.watch, alert.line
        if watch.off is not None:
            return watch.off
        if watch.revision != alert.revision:
            return "changed", watch.revised_at
        over = self._over(alert)
        if line.closed_at is not None:
            if over is None or over >= line.closed_at:
                return "line_closed", line.closed_at
        elif not _covers(watch, line):
            left = next(
                at
                for tags, at, position in line.tags
                if position > alert.opened_after and not _has_tag(watch, tags)
            )
            if over is None or over >= left:
                return "changed", left
        return None if over is None or over > now else ("recovered", over)

    @staticmethod
    def _over(alert: Alert) -> datetime | None:
        """When the condition has not held for as long as the watch keeps the alert."""
        line, own = alert.line, alert.stretch
        if alert.condition["kind"] == "no_activity":
            if line.quiet[-1][0] == own.since:
                return None
            return next(
                at
                for since, at, position in line.quiet
                if position > alert.opened_after and since != own.since
            )
        keep = timedelta(seconds=alert.watch.settings.get("keep_seconds", 0))
        known = [s for s in line.stretches(alert.condition) if s.subject == own.subject]
        (place,) = [n for n, s in enumerate(known) if s.key == own.key]
        end = known[place].end
        for following in known[place + 1 :]:
            if end is None or not keep or following.since >= end + keep:
                break
            end = following.end
        return None if end is None else end + keep


def _remind(alert: Alert, now: datetime) -> None:
    """A reminder at the latest multiple of the time, unless it was given, or is not wanted."""
    every = timedelta(seconds=alert.watch.settings.get("remind_seconds", 0))
    begin = alert.due
    if not every or alert.acknowledged_until is None:
        return
    if isinstance(alert.acknowledged_until, datetime):
        begin = max(begin, alert.acknowledged_until)
    if begin + every > now:
        return
    latest = begin + (now - begin) // every * every
    if not alert.reminders or latest > alert.reminders[-1]:
        alert.reminders.append(latest)


def _covers(watch: Watch, line: _Line) -> bool:
    asked = watch.lines
    return (
        line.organization == watch.organization
        and watch.workspace in (None, line.workspace)
        and line.execution_model in asked.get("execution_model", [line.execution_model])
        and line.product_line in asked.get("product_line", [line.product_line])
        and line.id in asked.get("service_line_id", [line.id])
        and _has_tag(watch, line.tags[-1][0])
    )


def _has_tag(watch: Watch, tags: list[str]) -> bool:
    asked = watch.lines.get("project_tag")
    return asked is None or not set(asked).isdisjoint(tags)


def _time_of(value: Any) -> datetime:
    """An instant of a body, which stores texts."""
    return _time(value)
