"""What must be true of lines, runs and decision tables, told anew from the raw log.

Written from the contract alone: it reads the stored JSON and shares no code with the service.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class Line:
    last_activity_at: datetime
    changed_at: datetime
    state: str = "running"
    state_since: datetime | None = None
    holds: set[str] = field(default_factory=set)
    blockers: set[str] = field(default_factory=set)
    idle: bool = False
    closed_at: datetime | None = None
    check_ins: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)
    resources: set[str] = field(default_factory=set)

    def settle(self, at: datetime) -> None:
        """Contract 3, "State": what holds now, and since when."""
        state = "closed" if self.closed_at else "paused" if self.holds else ""
        state = state or ("blocked" if self.blockers else "idle" if self.idle else "running")
        if state != self.state or self.state_since is None:
            self.state, self.state_since = state, at


@dataclass
class Run:
    line: str
    requested_at: datetime
    status: str = "pending"
    started_at: datetime | None = None
    completed_at: datetime | None = None
    version: int = 0


@dataclass
class World:
    lines: dict[str, Line] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    records: dict[str, str] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    counters: Counter[tuple[str, int]] = field(default_factory=Counter)
    facts: dict[tuple[str, str, str], tuple[str, int]] = field(default_factory=dict)

    def open_runs(self, line: str) -> dict[str, Run]:
        return {
            i: r
            for i, r in self.runs.items()
            if r.line == line and r.status in ("pending", "running")
        }


def derive(events: Iterable[dict[str, Any]]) -> World:
    """Fold raw rows (position, stream, version, topic, state) in order."""
    world = World()
    for event in events:
        _take(world, event)
        _check(world)
    return world


def _check(world: World) -> None:
    """What must hold at every position."""
    open_on = Counter(r.line for r in world.runs.values() if r.status in ("pending", "running"))
    for line_id, count in open_on.items():
        assert world.lines[line_id].state not in ("closed", "idle"), (line_id, count)


def _take(world: World, event: dict[str, Any]) -> None:
    state, stream = event["state"], event["originator_id"]
    body, topic = state["body"], event["topic"].split("/")[0]
    at = datetime.fromisoformat(state["occurred_at"])
    year = datetime.fromisoformat(state["recorded_at"]).year
    if "fact" in state:
        key = (state["organization_id"], state["fact"]["source"], state["fact"]["id"])
        assert key not in world.facts
        world.facts[key] = (stream, event["notification_id"])
    if topic == "execution.activated":
        _activate(world, stream, body, at, year)
    elif topic.startswith("run."):
        _run(world, event, topic.removeprefix("run."), at, year)
    elif stream.startswith("LIN"):
        _line(world.lines[stream], topic, state, body, at)


def _activate(world: World, stream: str, body: dict[str, Any], at: datetime, year: int) -> None:
    line = Line(datetime.fromisoformat(body["started_at"]), at)
    line.settle(at)
    line.resources = {r["id"] for r in body.get("resources", [])}
    world.lines[stream] = line
    assert body["execution_id"] not in world.records.keys() | world.runs.keys()
    world.records[body["execution_id"]] = stream
    if body["execution_id_origin"] == "issued":
        _issued(world, body["execution_id"], year)


def _issued(world: World, identifier: str, year: int) -> None:
    number = int(identifier.split("-")[2])
    assert number > world.counters["RUN", year]
    world.counters["RUN", year] = number


def _run(world: World, event: dict[str, Any], what: str, at: datetime, year: int) -> None:
    state, run_id = event["state"], event["originator_id"]
    line = world.lines[state["service_line_id"]]
    if what == "erased":
        # Nothing that happened to the work: no activity, no change of status.
        run = world.runs[run_id]
        assert run.status not in ("pending", "running")
        assert run_id not in world.erased
        run.version = event["originator_version"]
        world.erased.add(run_id)
        return
    line.last_activity_at = max(line.last_activity_at, at)
    if run_id not in world.runs:
        assert run_id not in world.records
        world.runs[run_id] = Run(state["service_line_id"], at)
        if state["body"]["run_id_origin"] == "issued":
            _issued(world, run_id, year)
    run = world.runs[run_id]
    run.version = event["originator_version"]
    if what == "started":
        run.status, run.started_at = "running", at
    elif what != "requested":
        run.status, run.completed_at = what, at


def _line(
    line: Line, topic: str, state: dict[str, Any], body: dict[str, Any], at: datetime
) -> None:
    if topic == "execution.checked_in":
        line.last_activity_at = max(line.last_activity_at, at)
        fact = state["fact"]
        line.check_ins[fact["source"], fact["id"]] = {"hours": body.get("hours"), "at": at} | {
            "voided": False
        }
    elif topic == "execution.check_in_voided":
        line.check_ins[state["fact"]["source"], body["fact_id"]]["voided"] = True
    elif topic == "resource.allocated":
        line.resources.add(body["resource"]["id"])
    elif topic == "resource.released":
        line.resources.remove(body["id"])
    elif topic == "health.signal_reported":
        line.signals[body["signal"]] = body["status"]
    elif topic != "execution.updated":
        line.changed_at = max(line.changed_at, at)
        _change(line, topic.removeprefix("execution."), body)
        line.settle(line.changed_at)


def _change(line: Line, what: str, body: dict[str, Any]) -> None:
    assert line.closed_at is None
    if what == "paused":
        line.holds.add(body["hold"])
    elif what == "resumed":
        line.holds.remove(body["hold"])
    elif what == "blocked":
        line.blockers.add(body["blocker_id"])
    elif what == "unblocked":
        line.blockers.remove(body["blocker_id"])
    elif what == "closed":
        line.closed_at = line.changed_at
        line.holds, line.blockers = set(), set()
    else:
        assert what in ("idle", "active")
    if what in ("paused", "blocked", "active", "idle"):
        line.idle = what == "idle"
