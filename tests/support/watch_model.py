"""A model of watches by the contract (Watches, State): what opens, is repeated and ends, and when.

The model takes the stored events in log order, except those that the loop of watches records. The
test also gives it the time of each round. The model shares no code with the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.support.watch_model_lines import Episode, WatchedBlocker, WatchedLine, WatchedRun

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PENALTIES = {"green": 0, "amber": 6, "red": 31}


def due_at(since: datetime, seconds: int, hours: dict[str, Any] | None, step: int = 60) -> datetime:
    """The instant after that many seconds; with hours, only seconds within the hours count.

    The zone's clock is read each minute, or at other steps that divide a minute: its offset from
    UTC is a multiple of them.
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
    dues: dict[tuple[int, datetime], datetime] = field(default_factory=dict)
    """By revision and begin of an episode, when it is due. So hours are searched only once."""

    @property
    def lines(self) -> dict[str, list[str]]:
        lines: dict[str, list[str]] = self.settings.get("lines", {})
        return lines

    @property
    def sources(self) -> list[str] | None:
        """The sources that the watch is about; None: the watch is about lines."""
        sources: list[str] | None = self.settings["condition"].get("sources")
        return sources

    def due_at(self, since: datetime) -> datetime:
        key, settings = (self.revision, since), self.settings
        if key not in self.dues:
            self.dues[key] = due_at(since, settings["for_seconds"], settings.get("hours"))
        return self.dues[key]


class SourceFact(NamedTuple):
    """The recording of a fact of some source."""

    source: str
    organization: str | None
    workspace: str | None
    recorded_at: datetime
    position: int


@dataclass
class Alert:
    watch: Watch
    revision: int
    line: WatchedLine | None
    """None: the alert is about a source."""
    condition: dict[str, Any]
    episode: Episode
    due: datetime
    opened_after: int
    """The position of the last event that was known when it opened."""
    opening: dict[str, Any]
    resolved: tuple[str, datetime] | None = None
    reminders: list[datetime] = field(default_factory=list)
    acknowledged_until: datetime | str | None = ""
    """Empty: nobody has; None: for ever."""

    @property
    def identity(self) -> tuple[Any, ...]:
        line = self.line and self.line.id
        return (self.watch.id, self.revision, line, self.episode.subject, self.episode.key)

    @property
    def tenant(self) -> tuple[str | None, ...]:
        line = self.line
        if line is None:
            return self.watch.organization, self.watch.workspace, None
        return line.organization, line.workspace, line.id


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


class WatchModel:
    """The watches, lines and alerts after the events taken and the rounds so far."""

    def __init__(self) -> None:
        self.lines: dict[str, WatchedLine] = {}
        self.watches: dict[str, Watch] = {}
        self.alerts: list[Alert] = []
        self.facts: list[SourceFact] = []
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
        if "fact" in state:
            tenant = state.get("organization_id"), state.get("workspace_id")
            self.facts.append(
                SourceFact(state["fact"]["source"], *tenant, recorded_at, self.position)
            )
        if topic.startswith("watch."):
            self._watch(stream, topic, state, recorded_at)
            return
        if topic == "execution.activated":
            self._activate(stream, state, at)
        line = self.lines.get(stream if stream.startswith("LIN") else state.get("service_line_id"))
        if line is None:
            return
        if line.closed_at is None:
            line.sums.take(event, topic, self.position)
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
        line = self.lines[stream] = WatchedLine(
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
        self, line: WatchedLine, run_id: str, change: str, body: dict[str, Any], at: datetime
    ) -> None:
        if change not in ("requested", "started", "completed", "failed", "cancelled"):
            return
        line.last_activity = max(line.last_activity, at)
        run = line.runs.setdefault(run_id, WatchedRun())
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
        line: WatchedLine,
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
                blocker = WatchedBlocker(at, self.position, body["cause"], due and _time_of(due))
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
                line.closing_recorded_at = recorded_at
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
                for episode, line in self._present(watch):
                    self._open(watch, line, episode, now)
        for alert in self.alerts:
            if alert.resolved is None:
                _remind(alert, now)

    def _present(self, watch: Watch) -> list[tuple[Episode, WatchedLine | None]]:
        """The episodes of all sources or lines that the watch is about."""
        if watch.sources is not None:
            return [(each, None) for each in self._silences(watch, watch.sources)]
        condition = watch.settings["condition"]
        return [
            (episode, line)
            for line in self.lines.values()
            if _covers(watch, line) and line.closed_at is None
            for episode in line.episodes(condition)
        ]

    def _silences(self, watch: Watch, sources: Sequence[str]) -> list[Episode]:
        """The silences of some sources, for the present revision of the watch."""
        found: list[Episode] = []
        for source in sources:
            reports = [
                each
                for each in self.facts
                if (each.source, each.organization) == (source, watch.organization)
                and watch.workspace in (None, each.workspace)
            ]
            subject, at = ("source", source), watch.revised_at
            if not reports or reports[0].position > watch.revision:
                found.append(Episode(subject, at, at))
            for each in reports:
                since = each.recorded_at.replace(second=0, microsecond=0) + timedelta(minutes=1)
                if found and found[-1].subject == subject:
                    if found[-1].since == since:
                        continue
                    found[-1] = found[-1]._replace(end=each.recorded_at)
                found.append(Episode(subject, since, since))
        return found

    def _open(
        self, watch: Watch, line: WatchedLine | None, episode: Episode, now: datetime
    ) -> None:
        due, settings = watch.due_at(episode.since), watch.settings
        condition = settings["condition"]
        alert = Alert(watch, watch.revision, line, condition, episode, due, self.position, {})
        mine = [a for a in self.alerts if a.watch is watch and a.line is line]
        if (
            episode.end is None
            and (episode.until is None or episode.until > now)
            and due <= now
            and all(a.identity != alert.identity for a in mine)
            and all(a.resolved or a.episode.subject != episode.subject for a in mine)
        ):
            position = episode.position
            alert.opening = {
                "watch_id": watch.id,
                "watch_name": settings["name"],
                "severity": settings.get("severity", "warning"),
                "subject": episode.subject,
                "condition": condition,
                "for_seconds": settings["for_seconds"],
                "since": episode.since,
                "due": due,
                "occurred_at": due,
                "evidence": [] if position is None else [self._ids[position]],
                "tenant": alert.tenant,
            }
            self.alerts.append(alert)

    def _end(self, alert: Alert, now: datetime) -> tuple[str, datetime] | None:
        watch, line = alert.watch, alert.line
        if watch.off is not None:
            return watch.off
        if watch.revision != alert.revision:
            return "changed", watch.revised_at
        over = self._over(alert)
        if line is not None and line.closed_at is not None:
            if over is None or over >= line.closed_at:
                return "line_closed", line.closed_at
        elif line is not None and not _covers(watch, line):
            left = next(
                at
                for tags, at, position in line.tags
                if position > alert.opened_after and not _has_tag(watch, tags)
            )
            if over is None or over >= left:
                return "changed", left
        return None if over is None or over > now else ("recovered", over)

    def _over(self, alert: Alert) -> datetime | None:
        """When the condition has not held for as long as the watch keeps the alert."""
        line, own = alert.line, alert.episode
        if line is None:
            every = self._silences(alert.watch, [own.subject[1]])
        elif alert.condition["kind"] == "no_activity":
            if line.quiet[-1][0] == own.since:
                return None
            return next(
                at
                for since, at, position in line.quiet
                if position > alert.opened_after and since != own.since
            )
        else:
            every = line.episodes(alert.condition)
        keep = timedelta(seconds=alert.watch.settings.get("keep_seconds", 0))
        own_episodes = [s for s in every if s.subject == own.subject]
        (index,) = [n for n, s in enumerate(own_episodes) if s.key == own.key]
        end = own_episodes[index].end or own_episodes[index].until
        for following in own_episodes[index + 1 :]:
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


def _covers(watch: Watch, line: WatchedLine) -> bool:
    filters = watch.lines
    return (
        line.organization == watch.organization
        and watch.workspace in (None, line.workspace)
        and line.execution_model in filters.get("execution_model", [line.execution_model])
        and line.product_line in filters.get("product_line", [line.product_line])
        and line.id in filters.get("service_line_id", [line.id])
        and _has_tag(watch, line.tags[-1][0])
    )


def _has_tag(watch: Watch, tags: list[str]) -> bool:
    wanted = watch.lines.get("project_tag")
    return wanted is None or not set(wanted).isdisjoint(tags)


def _time_of(value: Any) -> datetime:
    """An instant of a body, which stores texts."""
    return _time(value)
