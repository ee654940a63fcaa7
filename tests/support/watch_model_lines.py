"""A model of a watched line by the contract (State, Watches): since when each condition holds.

``watch_model`` gives the line its events. The model shares no code with the service.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.support.watch_model_sums import LineSums

NEVER = datetime.max.replace(tzinfo=ZoneInfo("UTC"))
LIMITS = {"amber": 70, "red": 50}


class Episode(NamedTuple):
    """A condition that holds, or held, for a subject."""

    subject: tuple[str, str]
    since: datetime
    key: Any
    """The position or the instant that began the episode; of a sum (period, position)."""
    end: datetime | None = None
    """When the condition ended, by what was recorded."""
    until: datetime | None = None
    """When it ends by itself, unless something ends it before."""

    @property
    def position(self) -> int | None:
        """The position of the event that began the episode, if one did."""
        began = self.key[1] if isinstance(self.key, tuple) else self.key
        return began if isinstance(began, int) else None


@dataclass
class WatchedBlocker:
    since: datetime
    position: int
    cause: str
    due_at: datetime | None
    end: datetime | None = None


@dataclass
class WatchedRun:
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
class WatchedLine:
    """A line after the events taken."""

    id: str
    organization: str
    workspace: str
    product_line: str
    execution_model: str
    changed_at: datetime
    last_change: datetime
    last_activity: datetime
    changes: list[tuple[datetime, str, int]] = field(default_factory=list)
    """(effective time, state, position) of each change of the state."""
    holds: set[str] = field(default_factory=set)
    open_blockers: dict[str, WatchedBlocker] = field(default_factory=dict)
    blockers: dict[str, list[WatchedBlocker]] = field(default_factory=dict)
    idle: bool = False
    closed_at: datetime | None = None
    closing_recorded_at: datetime | None = None
    runs: dict[str, WatchedRun] = field(default_factory=dict)
    outcomes: list[tuple[str, datetime, int]] = field(default_factory=list)
    """The failed and completed runs that count, in order of recording."""
    signals: dict[str, str] = field(default_factory=dict)
    scores: list[tuple[int, datetime, int]] = field(default_factory=list)
    quiet: list[tuple[datetime | None, datetime, int]] = field(default_factory=list)
    """(since when it is quiet, or None; recorded at, position) after each event before its end."""
    tags: list[tuple[list[str], datetime, int]] = field(default_factory=list)
    sums: LineSums = field(default_factory=LineSums)

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
        if not self.changes or self.changes[-1][1] != self.state:
            self.changes.append((self.changed_at, self.state, position))
        return self.changed_at

    def quiet_since(self) -> datetime | None:
        is_busy = any(run.is_open for run in self.runs.values())
        if is_busy or self.state in ("paused", "closed"):
            return None
        return max(self.last_activity, self.last_change)

    # The episodes of each condition, in order of recording.

    def episodes(self, condition: dict[str, Any]) -> list[Episode]:
        return list(getattr(self, f"_{condition['kind']}")(condition))

    def _in_state(self, condition: dict[str, Any]) -> list[Episode]:
        found: list[Episode] = []
        own, began = ("service_line", self.id), None
        changes = [change for change in self.changes if change[1] != "closed"]
        following = [*self.changes[1:], (NEVER, "", 0)]
        for (at, state, position), (until, _, _) in zip(changes, following, strict=False):
            if state in condition["states"]:
                began = began or (at, position)
            elif began is not None and until > at:
                found.append(Episode(own, *began, end=at))
                began = None
        return found if began is None else [*found, Episode(own, *began)]

    def _blocker_open(self, condition: dict[str, Any]) -> list[Episode]:
        causes = condition.get("causes")
        return [
            Episode(("blocker", name), each.since, each.position, each.end)
            for name, several in self.blockers.items()
            for each in several
            if causes is None or each.cause in causes
        ]

    def _past_due(self, condition: dict[str, Any]) -> list[Episode]:
        return [
            Episode(("blocker", name), max(each.since, each.due_at), each.position, each.end)
            for name, several in self.blockers.items()
            for each in several
            if each.due_at is not None
        ]

    def _no_activity(self, condition: dict[str, Any]) -> list[Episode]:
        since = self.quiet[-1][0]
        return [] if since is None else [Episode(("service_line", self.id), since, since)]

    def _run_open(self, condition: dict[str, Any]) -> list[Episode]:
        return [
            Episode(("run", name), since, position, end)
            for name, run in self.runs.items()
            for status, since, position, end in run.phases
            if status in condition["statuses"]
        ]

    def _runs_failing(self, condition: dict[str, Any]) -> list[Episode]:
        own, counter, count = ("service_line", self.id), 0, condition["count"]
        found: list[Episode] = []
        for outcome, at, position in self.outcomes:
            if outcome == "failed":
                counter += 1
                if counter == count:
                    found.append(Episode(own, at, position))
            else:
                if counter >= count:
                    found[-1] = found[-1]._replace(end=at)
                counter = 0
        return found

    def _health(self, condition: dict[str, Any]) -> list[Episode]:
        own, limit = ("service_line", self.id), LIMITS[condition["status"]]
        found: list[Episode] = []
        crossed: datetime | None = None
        is_below = False
        for score, at, position in self.scores:
            if (score < limit) == is_below:
                continue
            is_below = not is_below
            crossed = at if crossed is None else max(at, crossed)
            if is_below:
                found.append(Episode(own, crossed, position))
            else:
                found[-1] = found[-1]._replace(end=crossed)
        return found

    def _usage_over(self, condition: dict[str, Any]) -> list[Episode]:
        own, limit = ("service_line", self.id), Decimal(str(condition["limit"]))
        closed = self.closing_recorded_at or NEVER
        return [
            # On a closed line no period ends anything: its closing did.
            Episode(own, since, (begin, position), end, until if until <= closed else None)
            for begin, position, since, end, until in self.sums.above(
                condition["measure"], condition["period"], limit
            )
        ]
