"""A model of the contract: lines, runs, ids, facts, timelines, usage and deliveries of a log.

The model takes the stored events in log order, and shares no code with the service. In the tests
only two modules know the rules of the contract: this model computes the state after any events,
and ``log_checker`` finds events that must never be in a log.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from tests.support.stored import stored_object

CAUSES = ["approval_gap", "capacity_issue", "policy_violation", "delivery_blocker"]
STATES = ["running", "idle", "paused", "blocked", "closed"]
STATUSES = ["pending", "running", "completed", "failed", "cancelled"]
OPEN = ("pending", "running")

FEED_TYPES = frozenset([
    "execution.started", "execution.paused", "execution.resumed", "execution.blocked",
    "execution.unblocked", "execution.idle", "execution.active", "directory.named",
    "execution.hold_changed", "execution.closed", "execution.updated", "execution.checked_in",
    "execution.check_in_voided", "resource.allocated", "resource.released", "health.changed",
    "run.requested", "run.started", "run.completed", "run.failed", "run.cancelled", "run.erased",
    "run.usage_corrected", "run.parent_given",
    "webhook.delivery_failed",
])  # fmt: skip
"""Types of events in feeds (contract, Feeds)."""

_LOG = """
SELECT originator_id, originator_version, topic, notification_id, convert_from(state, 'UTF8') state
FROM ledger.ledger_events ORDER BY notification_id
"""


class Change(NamedTuple):
    """From this instant on a line was in this state, for these causes."""

    at: datetime
    state: str
    causes: frozenset[str]


@dataclass
class CheckIn:
    at: datetime
    hours: float | None
    resource: str | None
    voided: bool = False


@dataclass
class Run:
    line: str
    requested_at: datetime
    triggered_by: dict[str, Any]
    status: str = "pending"
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int | None = None
    tokens_used: int | None = None
    token_usage: list[list[Any]] | None = None  # as stored: the model, then its numbers
    version: int = 0
    ended: int = 0  # the position of the ending that the run shows


@dataclass
class Line:
    organization: str
    workspace: str | None
    product_line: str
    execution_model: str
    record: str
    started_at: datetime
    tags: list[str]
    last_activity_at: datetime
    changed_at: datetime
    state: str = "running"
    state_since: datetime | None = None
    holds: dict[str, str | None] = field(default_factory=dict)
    """The end of each hold that is on, as stored; None: the hold has no end."""
    blockers: dict[str, dict[str, Any]] = field(default_factory=dict)
    idle: bool = False
    closed_at: datetime | None = None
    check_ins: dict[tuple[str, str], CheckIn] = field(default_factory=dict)
    signals: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    ended_runs: dict[str, Run] = field(default_factory=dict)  # completed or failed

    @property
    def score(self) -> int | None:
        """The health score (contract, Health); None for a line without signals."""
        reported = [signal["status"] for signal in self.signals.values()]
        penalty = 6 * reported.count("amber") + 31 * reported.count("red")
        return max(0, 100 - penalty) if reported else None

    @property
    def valid_check_ins(self) -> list[CheckIn]:
        """The check-ins that were not voided."""
        return [check_in for check_in in self.check_ins.values() if not check_in.voided]

    def be_active(self, at: datetime) -> None:
        self.last_activity_at = max(self.last_activity_at, at)

    def set_state(self, at: datetime) -> None:
        """Set the state, and its beginning, after a change (contract, State)."""
        self.changed_at = max(self.changed_at, at)
        state = "closed" if self.closed_at else "paused" if self.holds else ""
        state = state or ("blocked" if self.blockers else "idle" if self.idle else "running")
        if state != self.state or self.state_since is None:
            self.state, self.state_since = state, self.changed_at
        causes = frozenset(blocker["cause"] for blocker in self.blockers.values())
        self.changes.append(Change(self.changed_at, state, causes))


@dataclass
class Endpoint:
    organization: str
    workspace: str | None
    enabled: bool = False
    types: list[str] = field(default_factory=list)
    due: list[str] = field(default_factory=list)
    """The ids of the events due to the endpoint, in log order."""

    def wants(self, name: str, state: dict[str, Any]) -> bool:
        """True if an event of this name is sent to the endpoint (contract, Feeds)."""
        return (
            self.enabled
            and self.organization == state.get("organization_id")
            and self.workspace in (None, state.get("workspace_id"))
            and (self.types == ["*"] or name in self.types)
        )


class Model:
    """The state after the events taken so far."""

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self.lines: dict[str, Line] = {}
        self.runs: dict[str, Run] = {}
        self.records: dict[str, str] = {}
        """Execution record → line."""
        self.erased: set[str] = set()
        self.counters: Counter[tuple[str, int]] = Counter()
        """The last number issued, by prefix and year."""
        self.facts: dict[tuple[str, str, str], int] = {}
        """(organization, source, id) → (stream, position)."""
        self.endpoints: dict[str, Endpoint] = {}
        for event in events:
            self.take(event)

    # Questions.

    def open_runs(self, line: str) -> dict[str, Run]:
        """The line's runs that have not ended."""
        return {i: r for i, r in self.runs.items() if r.line == line and r.status in OPEN}

    def started_runs(self, line: str) -> list[Run]:
        """The line's runs that have ever started."""
        return [run for run in self.runs.values() if run.line == line and run.started_at]

    def due_to(self, endpoint_id: str) -> dict[int, str]:
        """The deliveries due to an endpoint: sequence → event id."""
        return dict(enumerate(self.endpoints[endpoint_id].due, 1))

    def metrics(self, line_id: str, now: datetime) -> dict[str, Any]:
        """The metrics that a line of its execution model has (contract, State)."""
        line, started = self.lines[line_id], self.started_runs(line_id)
        week = now.isocalendar()[:2]
        this_week = [c for c in line.valid_check_ins if c.at.isocalendar()[:2] == week]
        ended = sorted(line.ended_runs.values(), key=lambda run: (run.completed_at, run.ended))
        last = {"last_run_duration_ms": ended[-1].duration_ms if ended else None}
        match line.execution_model:
            case "capacity" | "ongoing_sla":
                return {
                    "hours_this_week": _hours(this_week),
                    "hours_total": _hours(line.valid_check_ins),
                    "health_score": line.score,
                }
            case "agent_runtime":
                days = [r.started_at.date() for r in started if r.started_at]
                counts = {"invocations_today": days.count(now.date())}
                return counts | {"invocations_total": len(started)} | last
            case "timeboxed_outcome":
                completed = sum(run.status == "completed" for run in started)
                return {"cycles_total": len(started), "cycles_completed": completed} | last
            case _:
                return {"check_ins_this_week": len(this_week), "health_score": line.score}

    def timeline(
        self, line_id: str, start: datetime | None, end: datetime | None, now: datetime
    ) -> list[dict[str, Any]]:
        """The intervals, from the state at each instant at which the line may change."""
        changes = self.lines[line_id].changes
        begin = max(changes[0].at, start or changes[0].at)
        points = {change.at for change in changes if change.at > begin} | {begin}
        points = {at for at in points if end is None or at < end}
        found: list[dict[str, Any]] = []
        for at in sorted(points):
            _, state, causes = [change for change in changes if change.at <= at][-1]
            ordered = [cause for cause in CAUSES if cause in causes]
            if found and (found[-1]["state"], found[-1]["causes"]) == (state, ordered):
                continue
            if found:
                found[-1]["to"] = at
            found.append({"state": state, "causes": ordered, "from": at, "to": None})
        if found and end is not None and end <= now:
            found[-1]["to"] = end
        for interval in found:
            until = interval["to"] or max(now, interval["from"])
            interval["seconds"] = (until - interval["from"]).total_seconds()
        return found

    def usage(
        self, line_id: str, start: datetime, end: datetime
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """(total, by day) of the usage."""
        days, midnight = {}, datetime(start.year, start.month, start.day, tzinfo=UTC)
        while midnight < end:
            following = midnight + timedelta(days=1)
            bounds = max(midnight, start), min(following, end)
            days[midnight.date().isoformat()] = self._used(line_id, *bounds)
            midnight = following
        return self._used(line_id, start, end), days

    def _used(self, line_id: str, start: datetime, end: datetime) -> dict[str, Any]:
        line, by_resource = self.lines[line_id], dict[str | None, Decimal]()
        for each in line.valid_check_ins:
            if start <= each.at < end:
                hours = Decimal(str(each.hours or 0))
                by_resource[each.resource] = by_resource.get(each.resource, Decimal(0)) + hours
        named = sorted(resource for resource in by_resource if resource is not None)
        order = [r for r in [*named, None] if by_resource.get(r)]
        started = self.started_runs(line_id)
        counts = Counter(r.status for r in started if r.started_at and start <= r.started_at < end)
        ended = [r for r in self.runs.values() if r.line == line_id and r.completed_at]
        ended = [r for r in ended if r.completed_at and start <= r.completed_at < end]
        return {
            "hours": float(sum(by_resource.values())),
            "hours_by_resource": [
                {"resource_id": r, "hours": float(by_resource[r])} for r in order
            ],
            "check_ins": sum(start <= each.at < end for each in line.valid_check_ins),
            "runs": {status: counts[status] for status in STATUSES},
            "tokens_used": sum(run.tokens_used or 0 for run in ended),
            "tokens_by_model": tokens_by_model(ended),
        }

    # Events.

    def take(self, event: dict[str, Any]) -> None:
        """Fold one stored event: a row of the log, its state by ``stored_object``."""
        state, stream = event["state"], event["originator_id"]
        topic = event["topic"].split("/")[0]
        at = datetime.fromisoformat(state["occurred_at"])
        if "fact" in state:
            key = (state["organization_id"], state["fact"]["source"], state["fact"]["id"])
            self.facts[key] = event["notification_id"]
        self._deliver(stream, topic, event)
        if topic == "execution.activated":
            self._activate(stream, state, at)
        elif topic.startswith("run."):
            self._run(event, topic.removeprefix("run."), at)
        elif stream.startswith("LIN"):
            self._line(self.lines[stream], topic, state, at)
        elif topic.startswith("webhook."):
            self._endpoint(stream, topic, state)

    def _deliver(self, stream: str, topic: str, event: dict[str, Any]) -> None:
        """Make a published event due to each endpoint that wants it, except the event's own."""
        state = event["state"]
        if topic == "health.signal_reported":
            before = self.lines[stream].signals.get(state["body"]["signal"], {})
            name = public_name(topic, state["body"]["status"] != before.get("status"))
        else:
            name = public_name(topic)
        if name not in FEED_TYPES:
            return
        year = datetime.fromisoformat(state["recorded_at"]).year
        for endpoint_id, endpoint in self.endpoints.items():
            if endpoint_id != stream and endpoint.wants(name, state):
                endpoint.due.append(f"EVT-{year % 100:02d}-{event['notification_id']:06d}")

    def _endpoint(self, stream: str, topic: str, state: dict[str, Any]) -> None:
        body = state["body"]
        if topic == "webhook.created":
            self.endpoints[stream] = Endpoint(state["organization_id"], state.get("workspace_id"))
        endpoint = self.endpoints[stream]
        if topic in ("webhook.created", "webhook.updated"):
            endpoint.enabled, endpoint.types = body.get("enabled", True), body["event_types"]
        elif topic in ("webhook.disabled", "webhook.deleted"):
            endpoint.enabled = False

    def _activate(self, stream: str, state: dict[str, Any], at: datetime) -> None:
        body, record = state["body"], state["body"]["execution_id"]
        started_at = datetime.fromisoformat(body["started_at"])
        line = self.lines[stream] = Line(
            organization=state["organization_id"],
            workspace=state.get("workspace_id"),
            product_line=body["product_line"],
            execution_model=body["execution_model"],
            record=record,
            started_at=started_at,
            tags=body.get("project_tags", []),
            last_activity_at=started_at,
            changed_at=at,
            resources={each["id"]: each for each in body.get("resources", [])},
        )
        line.set_state(at)
        self.records[record] = stream
        if body["execution_id_origin"] == "issued":
            self._issue(record, state)

    def _issue(self, identifier: str, state: dict[str, Any]) -> None:
        year = datetime.fromisoformat(state["recorded_at"]).year
        self.counters["RUN", year] = int(identifier.split("-")[2])

    def _run(self, event: dict[str, Any], change: str, at: datetime) -> None:
        state, run_id = event["state"], event["originator_id"]
        body, line = state["body"], self.lines[state["service_line_id"]]
        if run_id not in self.runs:
            trigger = body.get("triggered_by", {})
            self.runs[run_id] = Run(state["service_line_id"], at, trigger)
            if body["run_id_origin"] == "issued":
                self._issue(run_id, state)
        run = self.runs[run_id]
        run.version = event["originator_version"]
        if change == "erased":
            # An erasure is no activity of the line, and changes no status.
            self.erased.add(run_id)
            return
        if change == "parent_given":
            return
        if change == "usage_corrected":
            run.tokens_used, run.token_usage = body["tokens_used"], body.get("token_usage")
            return
        line.be_active(at)
        if change == "started":
            run.status, run.started_at = "running", at
        elif change != "requested":
            run.status, run.completed_at = change, at
            run.duration_ms = body.get("duration_ms")
            run.tokens_used, run.token_usage = body.get("tokens_used"), body.get("token_usage")
            if change != "cancelled":
                run.ended = event["notification_id"]
                line.ended_runs[run_id] = run

    def _line(self, line: Line, topic: str, state: dict[str, Any], at: datetime) -> None:
        body = state["body"]
        match topic:
            case "execution.checked_in":
                line.be_active(at)
                fact = state["fact"]
                line.check_ins[fact["source"], fact["id"]] = CheckIn(
                    at, body.get("hours"), body.get("resource_id")
                )
            case "execution.check_in_voided":
                line.check_ins[state["fact"]["source"], body["fact_id"]].voided = True
            case "resource.allocated":
                line.resources[body["resource"]["id"]] = body["resource"]
            case "resource.released":
                line.resources.pop(body["id"], None)
            case "health.signal_reported":
                line.signals[body["signal"]] = body
            case "execution.updated":
                line.tags = body["project_tags"]
            case "execution.hold_changed":
                if body["hold"] in line.holds:
                    line.holds[body["hold"]] = body.get("until")
            case _:
                _change(line, topic.removeprefix("execution."), body, at)
                line.set_state(at)


def _change(line: Line, change: str, body: dict[str, Any], at: datetime) -> None:
    match change:
        case "paused":
            line.holds[body["hold"]] = body.get("until")
        case "resumed":
            line.holds.pop(body["hold"], None)
        case "blocked":
            line.blockers[body["blocker_id"]] = body
        case "unblocked":
            line.blockers.pop(body["blocker_id"], None)
        case "closed":
            line.closed_at = max(line.changed_at, at)
            line.holds, line.blockers = {}, {}
        case _:
            assert change in ("idle", "active"), change
    if change in ("paused", "blocked", "active", "idle"):
        line.idle = change == "idle"


def tokens_by_model(ended: Iterable[Run]) -> list[dict[str, Any]]:
    """The tokens of ended runs by model (contract, Reading, usage)."""
    models, rest = dict[str, list[int]](), 0
    for run in ended:
        rest += run.tokens_used or 0
        for model, *numbers in run.token_usage or ():
            numbers += [0] * (5 - len(numbers))
            rest -= numbers[0] + numbers[1]
            models[model] = [
                a + b for a, b in zip(models.get(model, [0] * 5), numbers, strict=True)
            ]
    order = sorted(models, key=lambda model: (-sum(models[model][:2]), model))
    names = ["input", "output", "cache_read", "cache_write", "reasoning"]
    rows: list[dict[str, Any]] = [
        {"model": model, "tokens_used": sum(models[model][:2])}
        | dict(zip(names, models[model], strict=True))
        for model in order
        if any(models[model])
    ]
    if rest:
        rows.append({"model": None, "tokens_used": rest} | dict.fromkeys(names))
    return rows


def _hours(check_ins: Iterable[CheckIn]) -> float:
    return float(sum(Decimal(str(check_in.hours or 0)) for check_in in check_ins))


def public_name(topic: str, is_change: bool = True) -> str:
    """The published type of an event; an unchanged health signal keeps its topic."""
    if topic == "health.signal_reported" and is_change:
        return "health.changed"
    return "execution.started" if topic == "execution.activated" else topic


def model_of(conninfo: str) -> Model:
    """The model of a database's log."""
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        return Model(r | {"state": stored_object(r["state"])} for r in connection.execute(_LOG))
