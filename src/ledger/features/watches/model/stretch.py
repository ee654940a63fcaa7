"""Stretches: since when a watch's condition holds for a line, its blockers or its runs.

The same function decides under the append lock, finds what is due by the views, and makes the
preview.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from ledger.engine.values.values import RunStatus, format_instant
from ledger.features.lines.model.execution import STUCK, Began, Execution
from ledger.features.watches.model.alert import AlertOpened, AlertSubject
from ledger.features.watches.model.watch import (
    BlockerOpen,
    Condition,
    HealthBelow,
    InState,
    NoActivity,
    PastDue,
    RunOpen,
    RunsFailing,
    SourceSilent,
    UsageOver,
    Watch,
    WatchSettings,
    first_instant,
)
from ledger.features.watches.model.watch_hours import due_at


class OpenRun(NamedTuple):
    """A pending or running run."""

    run_id: str
    external_id: str | None
    status: RunStatus
    since: datetime
    """When it was requested, or started once it is running."""
    position: int
    """The position of that event."""


class LineNow(NamedTuple):
    """A line as it is known at an instant, as far as watches depend on it."""

    execution: Execution
    last_activity_at: datetime
    open_runs: int
    runs: Sequence[OpenRun] = ()
    """The open runs, where a condition is about them."""
    failures: Sequence[Began] = ()
    """The first failures since the last completed run, in order of recording."""
    over: Mapping[UsageOver, "Stretch"] = MappingProxyType({})
    """The conditions by which the line has used too much in the present period."""


class Stretch(NamedTuple):
    """A condition that holds for a subject."""

    subject: AlertSubject
    since: datetime
    began_by: str
    """The begin of the stretch: no other stretch of the subject has the same."""
    position: int | None
    """The position of the event that began it; None: no single event did."""


class Due(NamedTuple):
    """A stretch for which a watch is due, or will be."""

    watch: Watch
    stretch: Stretch
    at: datetime

    def opening(self, text: str, evidence: tuple[str, ...] = ()) -> AlertOpened:
        """The opening of the alert, without the id, which is issued under the append lock."""
        settings = self.watch.given
        return AlertOpened(
            alert_id="",
            watch_id=self.watch.id,
            watch_name=settings.name,
            severity=settings.severity,
            subject=self.stretch.subject,
            text=text,
            condition=settings.condition,
            for_seconds=settings.for_seconds,
            since=self.stretch.since,
            due=self.at,
            evidence=evidence,
            revision=self.watch.revision,
            began_by=self.stretch.began_by,
        )


def due_for(watches: Sequence[Watch], known: LineNow) -> Iterator[Due]:
    """The stretches of a line for all watches that are enabled and about it."""
    present = dict[Condition, Sequence[Stretch]]()  # many watches have few conditions
    for watch in watches:
        settings = watch.given
        if not settings.enabled or watch.deleted:
            continue
        found = present.get(settings.condition)
        if found is None:
            found = present[settings.condition] = stretches(settings.condition, known)
        if found and watch.covers(known.execution):
            for stretch in found:
                yield Due(watch, stretch, due_of(settings, stretch.since))


def due_of(settings: WatchSettings, since: datetime) -> datetime:
    """When a condition that has held since an instant is due."""
    return due_at(since, settings.for_seconds, settings.hours)


def stretches(condition: Condition, known: LineNow) -> Sequence[Stretch]:
    """The present stretches of a condition. On a closed line nothing holds."""
    line = known.execution
    if line.state == "closed":
        return ()
    own = AlertSubject("service_line", line.id)
    match condition:
        case InState(states):
            key = STUCK if len(states) > 1 else states[0]
            return _begun(own, line.stretches.get(key))
        case BlockerOpen(causes):
            return [
                _stretch(AlertSubject("blocker", blocker.id), blocker.since, blocker.position)
                for blocker in line.blockers.values()
                if causes is None or blocker.cause in causes
            ]
        case PastDue():
            return [
                _stretch(
                    AlertSubject("blocker", blocker.id),
                    max(blocker.due_at, blocker.since),
                    blocker.position,
                )
                for blocker in line.blockers.values()
                if blocker.due_at is not None
            ]
        case NoActivity():
            since = quiet_since(known)
            return [] if since is None else [Stretch(own, since, format_instant(since), None)]
        case RunOpen(statuses):
            return [
                _stretch(AlertSubject("run", run.run_id), run.since, run.position)
                for run in known.runs
                if run.status in statuses
            ]
        case RunsFailing(count):
            failures = known.failures
            return _begun(own, failures[count - 1] if len(failures) >= count else None)
        case HealthBelow(status):
            return _begun(own, line.crossed.get(status) if line.is_below(status) else None)
        case UsageOver():
            return [known.over[condition]] if condition in known.over else ()
        case SourceSilent():
            return ()  # of no line


def quiet_since(known: LineNow) -> datetime | None:
    """Since when a line has had neither activity nor change nor an open run; None: it has not."""
    changed = known.execution.last_change
    if known.open_runs or known.execution.state in ("closed", "paused") or changed is None:
        return None
    return max(known.last_activity_at, changed)


def silent_since(source: str, last_seen: datetime | None, since: datetime) -> Stretch:
    """The silence of a source since the full minute after it was heard.

    ``since``: when the watch's revision was recorded, for a source that was never heard.
    """
    if last_seen is not None:
        since = last_seen + timedelta(minutes=1)
    return Stretch(AlertSubject("source", source), since, format_instant(since), None)


def over_since(line_id: str, period: date, position: int, recorded_at: datetime) -> Stretch:
    """The stretch of a line above a limit, since an event of the period that begins on a day."""
    subject = AlertSubject("service_line", line_id)
    since = max(first_instant(period), recorded_at)
    return Stretch(subject, since, f"{period}@{position}", position)


def _begun(subject: AlertSubject, began: Began | None) -> Sequence[Stretch]:
    return [] if began is None else [_stretch(subject, began.since, began.position)]


def _stretch(subject: AlertSubject, since: datetime, position: int) -> Stretch:
    return Stretch(subject, since, str(position), position)


# The sentence of an alert.

_CAUSES = {
    "approval_gap": "an approval gap",
    "capacity_issue": "a capacity issue",
    "policy_violation": "a policy violation",
    "delivery_blocker": "a delivery blocker",
}

_MOST = 500
"""The most characters of a sentence."""

_CUT = 120
"""The characters of a reason or an assignee that a sentence has."""


def sentence(settings: WatchSettings, stretch: Stretch, known: LineNow) -> str:
    """The text of an alert: an English sentence, and who should act by when if a blocker says so.

    The text has nothing of a run's input, output or error.
    """
    line, length = known.execution, length_text(settings.for_seconds)
    name = line.name or line.id
    been = f"has been {{}} for {length}" if settings.for_seconds else "is {}"
    more = ""
    match settings.condition:
        case InState():
            said = f"{name} {been.format(line.state)}"
            if line.state == "blocked" and line.blockers:
                more = _of_blocker(line, next(iter(line.blockers)), " by ")
            elif line.state == "paused":
                hold = next(iter(line.holds.values()), None)
                more = "" if hold is None else _because(hold.reason)
        case BlockerOpen():
            more = _of_blocker(line, stretch.subject.id, " by ")
            said = f"{name} {been.format('blocked')}"
        case PastDue():
            late = f"past due for {length}" if settings.for_seconds else "past due"
            said = f"A blocker of {name} is {late}"
            more = _of_blocker(line, stretch.subject.id, ", ")
        case NoActivity():
            said = f"{name} has had no activity for {length}"
        case RunOpen():
            run = next(run for run in known.runs if run.run_id == stretch.subject.id)
            called = run.run_id if run.external_id is None else f"{run.run_id} ({run.external_id})"
            said = f"Run {called} of {name} {been.format(run.status)}"
        case RunsFailing(count):
            said = (
                f"The last {count} runs of {name} failed"
                if count > 1
                else f"The last run of {name} failed"
            )
            more = f", {length} ago" if settings.for_seconds else ""
        case UsageOver():
            said = f"{name} has used {amount_text(settings.condition)}"
            more = f", for {length} now" if settings.for_seconds else ""
        case HealthBelow(status):
            worse = status if line.is_below("red") == (status == "red") else "red"
            said = f"The health of {name} {been.format(worse)}"
    return _plain(f"{said}{more}.")


def silence(settings: WatchSettings, source: str) -> str:
    """The text of an alert about a source."""
    return _plain(f"Source {cut(source)} has been silent for {length_text(settings.for_seconds)}.")


def _plain(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def _of_blocker(line: Execution, blocker_id: str, joined: str) -> str:
    """The cause and the reason of a blocker, and who should act by when."""
    blocker = line.blockers[blocker_id]
    said = f"{joined}{_CAUSES[blocker.cause]}{_because(blocker.reason)}"
    if blocker.assignee is None and blocker.due_at is None:
        return said
    by = "" if blocker.due_at is None else f" by {day_text(blocker.due_at)}"
    return f"{said}. {cut(blocker.assignee) if blocker.assignee else 'Somebody'} should act{by}"


def _because(reason: str | None) -> str:
    return f": {cut(reason).rstrip('.')}" if reason else ""


def cut(text: str) -> str:
    """The text, or its beginning and ``…``."""
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"


def amount_text(condition: UsageOver) -> str:
    """``more than 40 hours this week``."""
    unit = {"tokens_used": "tokens", "hours": "hours", "runs": "runs"}[condition.measure]
    period = {"day": "today", "week": "this week", "month": "this month"}[condition.period]
    return f"more than {condition.limit:,.12g} {unit} {period}"


def day_text(at: datetime) -> str:
    """``3 Dec 09:00 UTC``."""
    return f"{at.day} {at:%b %H:%M} UTC"


def length_text(seconds: int) -> str:
    """``2 h``, ``1 h 30 min``, ``5 days``: the two largest units, of which the second may be 0."""
    units = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"), (1, "s", "s"))
    parts = []
    for size, one, many in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return " ".join(parts) or "0 s"
