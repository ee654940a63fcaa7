"""Judges the raw log, event by event, by the contract alone: it shares no code with the ledger.

``findings`` reads ``ledger.ledger_events`` in position order and says, one sentence each, what must
never be there: a run open on a closed line, a run started on a held or blocked one, an idle line
with an open run, a gap in a stream's versions, a time of recording that does not rise, a fact
recorded twice.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

_LOG = """
SELECT originator_id, originator_version, topic, convert_from(state, 'UTF8'), notification_id,
       recorded_at
FROM ledger.ledger_events ORDER BY notification_id
"""

_CHANGES = frozenset(
    f"execution.{name}/1"
    for name in ("paused", "resumed", "blocked", "unblocked", "idle", "active", "closed")
)
"""Events that change a line's state: they share one clock that never goes back."""


@dataclass
class _Line:
    changed_at: datetime
    idle: bool = False
    closed: bool = False
    holds: dict[str, datetime] = field(default_factory=dict)
    blockers: dict[str, datetime] = field(default_factory=dict)
    held_since: datetime | None = None
    blocked_since: datetime | None = None
    open_runs: set[str] = field(default_factory=set)

    @property
    def stopped_since(self) -> datetime | None:
        """When the present held or blocked stretch began, the earlier of the two."""
        began = [at for at in (self.held_since, self.blocked_since) if at is not None]
        return min(began, default=None)


class LogChecker:
    """Takes events in position order; ``findings`` is empty as long as the log is sound."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.topics: Counter[str] = Counter()
        self.reporters: list[str] = []
        """Who reported each event, in order: tells whether writers really took turns."""
        self._lines: dict[str, _Line] = {}
        self._runs: dict[str, str] = {}
        """Run → pending, running, ended, or cancelled by its line's closing."""
        self._erased: set[str] = set()
        self._versions: Counter[str] = Counter()
        self._facts: dict[tuple[str, str, str], int] = {}
        self._last: tuple[int, datetime] | None = None

    def take(
        self, stream: str, version: int, topic: str, text: str, position: int, at: datetime
    ) -> None:
        """Judge one event, then fold it."""
        state = json.loads(text)
        self._at = f"position {position} ({topic} of {stream})"
        self.topics[topic] += 1
        self.reporters.append(state["reported_by"])
        self._check_order(stream, version, position, at, state)
        self._check_identity(state, position)
        occurred_at = datetime.fromisoformat(state["occurred_at"])
        if topic == "execution.activated/1":
            self._lines[stream] = _Line(occurred_at)
        elif topic in _CHANGES or topic.startswith("run."):
            line = self._lines.get(state["service_line_id"])
            if line is None:
                self._find("its line is not there yet")
            elif topic in _CHANGES:
                self._change(line, topic, state.get("body", {}), occurred_at)
            else:
                self._run(stream, line, topic, state, occurred_at)

    def _find(self, sentence: str) -> None:
        self.findings.append(f"{self._at}: {sentence}")

    def _check_order(
        self, stream: str, version: int, position: int, at: datetime, state: dict[str, Any]
    ) -> None:
        expected = self._versions[stream] + 1
        if version != expected:
            self._find(f"version {version} where {expected} comes next")
        self._versions[stream] = version
        if self._last is not None and position <= self._last[0]:
            self._find("a position is there twice")
        if self._last is not None and at <= self._last[1]:
            self._find("recorded_at does not rise")
        if datetime.fromisoformat(state["recorded_at"]) != at:
            self._find("the column recorded_at says otherwise than the state")
        self._last = (position, at)

    def _check_identity(self, state: dict[str, Any], position: int) -> None:
        fact = state.get("fact")
        if fact is None:
            return
        identity = (state["organization_id"], fact["source"], fact["id"])
        if identity in self._facts:
            self._find(f"fact {identity} is at position {self._facts[identity]} already")
        self._facts[identity] = position

    def _change(self, line: _Line, topic: str, body: dict[str, Any], time: datetime) -> None:
        at = line.changed_at = max(line.changed_at, time)
        if line.closed:
            self._find("a closed line changes")
        match topic.removesuffix("/1").partition(".")[2]:
            case "paused":
                line.holds[body["hold"]] = at
                line.held_since = line.held_since or at
                line.idle = False
            case "resumed":
                line.holds.pop(body["hold"], None)
                line.held_since = line.held_since if line.holds else None
            case "blocked":
                line.blockers[body["blocker_id"]] = at
                line.blocked_since = line.blocked_since or at
                line.idle = False
            case "unblocked":
                line.blockers.pop(body["blocker_id"], None)
                line.blocked_since = line.blocked_since if line.blockers else None
            case "idle":
                line.idle = True
                if line.open_runs:
                    self._find(f"the line goes idle with {len(line.open_runs)} open runs")
                if line.holds or line.blockers:
                    self._find("a held or blocked line goes idle")
            case "active":
                line.idle = False
            case _:
                line.closed = True
                line.holds, line.held_since = {}, None
                line.blockers, line.blocked_since = {}, None
                if line.open_runs:
                    self._find(f"the line closes with {len(line.open_runs)} open runs")

    def _run(
        self, run: str, line: _Line, topic: str, state: dict[str, Any], time: datetime
    ) -> None:
        body = state.get("body", {})
        known = self._runs.get(run)
        if topic in ("run.requested/1", "run.started/1"):
            started = topic == "run.started/1"
            if known not in (None, "pending") or (known == "pending" and not started):
                self._find(f"a run that is {known} begins again")
            if line.closed:
                self._find("a run is open on a closed line")
            since = line.stopped_since
            if started and since is not None and time >= since:
                self._find("a run starts on a held or blocked line")
            if line.idle:
                self._find("an idle line has an open run")
            line.open_runs.add(run)
            self._runs[run] = "running" if started else "pending"
            return
        if topic == "run.erased/1":
            if known not in ("ended", "cancelled by closing"):
                self._find(f"a run that is {known or 'unknown'} is erased")
            if run in self._erased:
                self._find("a run is erased twice")
            self._erased.add(run)
            return
        late = known == "cancelled by closing" and topic != "run.cancelled/1"
        if known not in ("pending", "running") and not late:
            self._find(f"a run that is {known or 'unknown'} ends")
        line.open_runs.discard(run)
        by_closing = topic == "run.cancelled/1" and body.get("by_closing")
        self._runs[run] = "cancelled by closing" if by_closing else "ended"


def check(conninfo: str) -> LogChecker:
    """The whole log of a database, judged."""
    checker = LogChecker()
    for row in _events(conninfo):
        checker.take(*row)
    return checker


def _events(conninfo: str) -> Iterator[tuple[str, int, str, str, int, datetime]]:
    with (
        psycopg.connect(conninfo, row_factory=tuple_row) as connection,
        connection.cursor(name="log") as cursor,
    ):
        cursor.itersize = 5000
        yield from cursor.execute(_LOG)
