"""A check of the raw log by the contract alone: the checker shares no code with the ledger.

The checker reads ``ledger.ledger_events`` in position order. ``findings`` has a sentence for each
violation: a run open on a closed line, a run started on a held or blocked line, an idle line with
an open run, a hold lifted or changed that is not on, a hold that outlasts its end, a run that
failed before its lease had ended, a gap in a stream's versions, a time of recording that does not
rise, a fact recorded twice, an id issued twice, a void that does not name its check-in, an external
id given to two runs or not repeated, a parent that is no run, was not awaited or lies below its
run, a retry of a run that goes on. The state that follows from a sound log is computed by
``model``.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from tests.support.stored import stored_object

_LOG = """
SELECT originator_id, originator_version, topic, convert_from(state, 'UTF8'), notification_id,
       recorded_at
FROM ledger.ledger_events ORDER BY notification_id
"""

_CHANGES = frozenset(
    f"execution.{name}/1"
    for name in ("paused", "resumed", "blocked", "unblocked", "idle", "active", "closed")
)
"""Events that change a line's state; the instants of these changes never go back."""

_HOLDS = frozenset(f"execution.{name}/1" for name in ("paused", "hold_changed", "resumed"))
"""Events that change the operator's hold or that of the service line."""

_RESOURCES_AND_CHECK_INS = frozenset(
    ("resource.allocated/1", "resource.released/1", "execution.checked_in/1",
     "execution.check_in_voided/1")
)  # fmt: skip
"""Events that change a line's resources and check-ins."""


@dataclass
class _Line:
    changed_at: datetime
    idle: bool = False
    closed_at: datetime | None = None
    holds: dict[str, datetime] = field(default_factory=dict)
    blockers: dict[str, datetime] = field(default_factory=dict)
    held_since: datetime | None = None
    until: datetime | None = None
    """The end of the operator's hold."""
    blocked_since: datetime | None = None
    open_runs: set[str] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)
    check_ins: dict[tuple[str, str], str] = field(default_factory=dict)
    """(source, fact id) of each check-in that is not voided → the id of its event."""

    @property
    def stopped_since(self) -> datetime | None:
        """The instant at which the present hold or block began, the earlier of the two."""
        began = [at for at in (self.held_since, self.blocked_since) if at is not None]
        return min(began, default=None)


@dataclass
class _Lease:
    seconds: int
    begun_at: datetime
    """The arrival of the last fact of the run."""


class Expiry(NamedTuple):
    """The failure of a run by its lease."""

    seconds: int
    beat_at: datetime
    """The last sign of life that the failure names."""
    at: datetime


class LogChecker:
    """A checker that takes events in position order; ``findings`` is empty for a sound log."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.topics: Counter[str] = Counter()
        self.reporters: list[str] = []
        """The reporter of each event, in order; shows if writers really alternated."""
        self._lines: dict[str, _Line] = {}
        self._runs: dict[str, str] = {}
        """Run → pending, running, ended, cancelled by its line's closing, or expired."""
        self._names: dict[str, _Name] = {}
        """Run → its external id, attempt, and the run before, as its events repeat them."""
        self._named: dict[tuple[str, str, str], list[str]] = {}
        """(organization, source, external id) → the attempts."""
        self._naming: dict[str, str] = {}
        """Run → the event that gave it its name."""
        self._retryable: set[str] = set()
        """The runs that have failed or were cancelled."""
        self._parents: dict[str, str] = {}
        self._awaited: dict[str, tuple[str, str, str]] = {}
        """Run → the name of the parent that it awaits."""
        self.leases: dict[str, _Lease] = {}
        """The leases of open runs."""
        self.expired: dict[str, Expiry] = {}
        """The failures by leases, also those that a late ending replaced."""
        self.late_endings = 0
        self._started: set[str] = set()
        self._erased: set[str] = set()
        self._records: set[str] = set()
        """The ids of execution records; runs have ids of the same kind."""
        self._issued: Counter[int] = Counter()
        """The last number issued for a record or run, by year."""
        self._versions: Counter[str] = Counter()
        self._facts: dict[tuple[str, str, str], int] = {}
        self._last: tuple[int, datetime] | None = None

    def take(
        self,
        stream: str,
        version: int,
        topic: str,
        state: dict[str, Any],
        position: int,
        at: datetime,
    ) -> None:
        """Check one event, then fold it. ``state`` has the names of ``stored_object``."""
        self._at = f"position {position} ({topic} of {stream})"
        self.topics[topic] += 1
        self.reporters.append(state["reported_by"])
        self._check_order(stream, version, position, at, state)
        self._check_identity(state, position)
        occurred_at = datetime.fromisoformat(state["occurred_at"])
        if topic == "execution.activated/1":
            self._activate(stream, state, occurred_at)
        elif (
            topic in _CHANGES | _HOLDS
            or topic in _RESOURCES_AND_CHECK_INS
            or topic.startswith("run.")
        ):
            line = self._lines.get(state["service_line_id"])
            if line is None:
                self._find("the line is not activated yet")
                return
            self._check_end(line, topic, state, occurred_at)
            if topic in _RESOURCES_AND_CHECK_INS:
                self._change_resources_or_check_ins(line, topic, state)
            elif topic in _CHANGES | _HOLDS:
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
            self._find("the position occurs twice")
        if self._last is not None and at <= self._last[1]:
            self._find("recorded_at does not rise")
        if datetime.fromisoformat(state["recorded_at"]) != at:
            self._find("the column recorded_at differs from the state")
        self._last = (position, at)

    def _check_identity(self, state: dict[str, Any], position: int) -> None:
        fact = state.get("fact")
        if fact is None:
            return
        identity = (state["organization_id"], fact["source"], fact["id"])
        if identity in self._facts:
            self._find(f"fact {identity} is at position {self._facts[identity]} already")
        self._facts[identity] = position

    def _activate(self, stream: str, state: dict[str, Any], time: datetime) -> None:
        body = state["body"]
        if stream in self._lines:
            self._find("a line is activated twice")
        line = self._lines[stream] = _Line(time)
        line.resources = {resource["id"] for resource in body.get("resources", ())}
        self._take_id(body["execution_id"], body["execution_id_origin"], state)
        self._records.add(body["execution_id"])

    def _take_id(self, identifier: str, origin: str, state: dict[str, Any]) -> None:
        if identifier in self._records or identifier in self._runs:
            self._find(f"the id {identifier} is taken")
        if origin == "issued":
            year = datetime.fromisoformat(state["recorded_at"]).year
            number = int(identifier.split("-")[2])
            if number <= self._issued[year]:
                self._find(f"the number of {identifier} was issued before")
            self._issued[year] = number

    def _change_resources_or_check_ins(
        self, line: _Line, topic: str, state: dict[str, Any]
    ) -> None:
        """Follow a line's resources, and its check-ins that count."""
        body, source = state["body"], (state.get("fact") or {}).get("source", "")
        match topic.removesuffix("/1"):
            case "resource.allocated":
                line.resources.add(body["resource"]["id"])
            case "resource.released":
                if body["id"] not in line.resources:
                    self._find("a resource is released that is not there")
                line.resources.discard(body["id"])
            case "execution.checked_in":
                line.check_ins[source, state["fact"]["id"]] = self._event_id()
            case _:
                voided = line.check_ins.pop((source, body["fact_id"]), None)
                if voided is None:
                    self._find("a check-in is voided that does not count")
                elif state.get("causation_id") != voided:
                    self._find("a void does not name the event of its check-in")

    def _event_id(self) -> str:
        """The EVT id of the present event, by the contract."""
        assert self._last is not None
        position, at = self._last
        return f"EVT-{at.astimezone(UTC):%y}-{position:06d}"

    def _check_end(self, line: _Line, topic: str, state: dict[str, Any], time: datetime) -> None:
        """Check that a hold is lifted at its end, before any fact or command of a later time."""
        end, at = line.until, datetime.fromisoformat(state["recorded_at"])
        if state.get("actor", {}).get("id") == "pause-until":
            if time != end or at < time:
                self._find("the ledger lifts a hold at another instant than its end")
        elif end is not None and min(time, at) >= end and ("fact" in state or topic in _HOLDS):
            self._find("a hold outlasts its end")
        body = state.get("body", {})
        if topic == "execution.closed/1" or (topic in _HOLDS and body["hold"] == "operator"):
            until = body.get("until")
            line.until = until and datetime.fromisoformat(until)

    def _change(self, line: _Line, topic: str, body: dict[str, Any], time: datetime) -> None:
        if line.closed_at:
            self._find("a closed line changes")
        if topic == "execution.hold_changed/1":
            if body["hold"] not in line.holds:
                self._find("a hold is changed that is not on")
            return
        at = line.changed_at = max(line.changed_at, time)
        match topic.removesuffix("/1").partition(".")[2]:
            case "paused":
                if body["hold"] in line.holds:
                    self._find("a hold is put on twice")
                line.holds[body["hold"]] = at
                line.held_since = line.held_since or at
                line.idle = False
            case "resumed":
                if body["hold"] not in line.holds:
                    self._find("a hold is lifted that is not on")
                line.holds.pop(body["hold"], None)
                line.held_since = line.held_since if line.holds else None
            case "blocked":
                if body["blocker_id"] in line.blockers:
                    self._find("a blocker is opened twice")
                line.blockers[body["blocker_id"]] = at
                line.blocked_since = line.blocked_since or at
                line.idle = False
            case "unblocked":
                if body["blocker_id"] not in line.blockers:
                    self._find("a blocker is closed that is not open")
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
                line.closed_at = at
                line.holds, line.held_since = {}, None
                line.blockers, line.blocked_since = {}, None
                if line.open_runs:
                    self._find(f"the line closes with {len(line.open_runs)} open runs")

    def _run(
        self, run: str, line: _Line, topic: str, state: dict[str, Any], time: datetime
    ) -> None:
        body = state.get("body", {})
        status = self._runs.get(run)
        if topic in ("run.requested/1", "run.started/1"):
            started = topic == "run.started/1"
            if status not in (None, "pending") or (status == "pending" and not started):
                self._find(f"a run that is {status} begins again")
            if status is None:
                self._take_id(run, body["run_id_origin"], state)
            self._name(run, body, state)
            if line.closed_at:
                self._find("a run is open on a closed line")
            since = line.stopped_since
            if started and since is not None and time >= since:
                self._find("a run starts on a held or blocked line")
            if line.idle:
                self._find("an idle line has an open run")
            line.open_runs.add(run)
            self._runs[run] = "running" if started else "pending"
            self._lend(run, started, state)
            return
        if _name_of(body) != self._names.get(run, _NAMELESS):
            self._find("the event has not the name of its run")
        if topic == "run.parent_given/1":
            self._give(run, body, state)
            return
        if topic == "run.erased/1":
            if status not in ("ended", "cancelled by closing", "expired"):
                self._find(f"a run that is {status or 'unknown'} is erased")
            if run in self._erased:
                self._find("a run is erased twice")
            self._erased.add(run)
            return
        if topic == "run.usage_corrected/1":
            if status != "ended":
                self._find(f"the tokens of a run that is {status or 'unknown'} are corrected")
            return
        expires = bool(body.get("lease_expired"))
        late = status in ("cancelled by closing", "expired") and topic != "run.cancelled/1"
        if status not in ("pending", "running") and (not late or expires):
            self._find(f"a run that is {status or 'unknown'} ends")
        if topic == "run.completed/1" and run not in self._started:
            self._find("a run completes that never started")
        if line.closed_at and time > line.closed_at:
            self._find("a run ends after its line was closed")
        if bool(body.get("late")) != late:
            self._find("a late ending does not say so, or another one does")
        self.late_endings += late
        line.open_runs.discard(run)
        by_closing = topic == "run.cancelled/1" and body.get("by_closing")
        self._runs[run] = "cancelled by closing" if by_closing else "ended"
        (self._retryable.discard if topic == "run.completed/1" else self._retryable.add)(run)
        lease = self.leases.pop(run, None)
        if expires:
            self._runs[run] = "expired"
            self._expire(run, lease, state, time)

    def _lend(self, run: str, started: bool, state: dict[str, Any]) -> None:
        """Follow the run's lease, which each fact of the run begins anew."""
        if started:
            self._started.add(run)
        lease = self.leases.get(run)
        seconds = state["body"].get("lease_seconds") or (lease.seconds if lease else None)
        if seconds is not None:
            self.leases[run] = _Lease(seconds, datetime.fromisoformat(state["recorded_at"]))

    def _expire(
        self, run: str, lease: _Lease | None, state: dict[str, Any], time: datetime
    ) -> None:
        """Check the failure of a run by its lease."""
        if lease is None:
            self._find("a run without a lease expires")
            return
        beat_at = datetime.fromisoformat(state["body"]["last_heard_at"])
        self.expired[run] = Expiry(lease.seconds, beat_at, time)
        if beat_at < lease.begun_at:
            self._find("an expiry forgets a fact of the run")
        if time < beat_at + timedelta(seconds=lease.seconds):
            self._find("a run fails before its lease has ended")
        if time > datetime.fromisoformat(state["recorded_at"]):
            self._find("a run fails by a lease that has not ended yet")
        if state["actor"]["type"] != "system" or state.get("fact") is not None:
            self._find("somebody else than the system lets a lease expire")

    def _name(self, run: str, body: dict[str, Any], state: dict[str, Any]) -> None:
        """Follow the name that a request or start gives or repeats, and check the parent."""
        own, source = self._names.get(run), (state.get("fact") or {}).get("source", "")
        name = _name_of(body)
        if own is not None and name != own:
            self._find("the start has not the name of its run")
        elif own is None and name[0] is not None:
            tried = self._named.setdefault((state["organization_id"], source, name[0]), [])
            if name != (name[0], len(tried) + 1, tried[-1] if tried else None):
                self._find(f"the name does not follow the attempts {tried}")
            if tried and tried[-1] not in self._retryable:
                self._find("a run that has neither failed nor been cancelled is tried again")
            tried.append(run)
            self._names[run], self._naming[run] = name, self._event_id()
        parent, parents = body.get("parent_run_id"), body.get("parent_external_id")
        if parent is not None and parent not in self._runs:
            self._find("the parent is no run")
        if parent is not None:
            self._set_parent(run, parent)
        if body.get("awaiting") is not None:
            self._awaited[run] = key = (state["organization_id"], source, parents)
            if key in self._named or run in self._parents:
                self._find("a run awaits a parent that it could have")

    def _give(self, run: str, body: dict[str, Any], state: dict[str, Any]) -> None:
        """Check that a run gets the parent that it awaits, because of the parent's naming."""
        parent = body["parent_run_id"]
        if run in self._parents or self._awaited.get(run) not in self._named:
            self._find("a run gets a parent that it does not await")
        elif self._named[self._awaited[run]] != [parent]:
            self._find("the parent has not the name that the run awaits")
        elif state["causation_id"] != self._naming[parent]:
            self._find("the cause is not the event that named the parent")
        if state["actor"].get("type") != "system" or state.get("fact") is not None:
            self._find("somebody else than the system gives the parent")
        self._set_parent(run, parent)

    def _set_parent(self, run: str, parent: str) -> None:
        """Give a run its parent, which may not lie below it."""
        self._parents[run] = parent
        above: str | None = parent
        while above is not None and above != run:
            above = self._parents.get(above)
        if above is not None:
            self._find("a run lies below itself")


_Name = tuple[str | None, int, str | None]
_NAMELESS: _Name = (None, 1, None)


def _name_of(body: dict[str, Any]) -> _Name:
    return body.get("external_id"), body.get("attempt", 1), body.get("retry_of")


def check(conninfo: str) -> LogChecker:
    """Check the whole log of a database."""
    checker = LogChecker()
    for stream, version, topic, text, position, at in _events(conninfo):
        checker.take(stream, version, topic, stored_object(text), position, at)
    return checker


def _events(conninfo: str) -> Iterator[tuple[str, int, str, str, int, datetime]]:
    with (
        psycopg.connect(conninfo, row_factory=tuple_row) as connection,
        connection.cursor(name="log") as cursor,
    ):
        cursor.itersize = 5000
        yield from cursor.execute(_LOG)
