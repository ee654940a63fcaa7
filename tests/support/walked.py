"""What the contract's section 3 accepts, walked with dicts, and what comes of it.

Written from the contract's tables alone, apart from the domain: a mistake in one shows.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

RUN_MODELS = {"agent_runtime", "timeboxed_outcome"}
MODELS = RUN_MODELS | {"capacity", "ongoing_sla", "infra_managed", "observability"}
PRODUCT_LINES = {
    "talent",
    "managed_services",
    "ods",
    "infrastructure",
    "intelligence",
    "agent_gateway",
}
CAUSES = {"approval_gap", "capacity_issue", "policy_violation", "delivery_blocker"}
SIGNALS = {"hours_on_target", "sla_compliance", "delivery_velocity", "capacity_utilisation"}
SIGNALS |= {"incident_frequency", "agent_error_rate", "outcome_progress"}
ENUMS = {
    "product_line": PRODUCT_LINES,
    "execution_model": MODELS,
    "cause": CAUSES,
    "signal": SIGNALS,
}
ACTORS = {"user", "api_key", "agent", "system"}
TRIGGERS = {"api", "user", "agent", "schedule", "system"}
RESOURCE = ("id type", "name role allocated_hours_per_week status")
OWNER = "organization_id workspace_id product_line execution_model"
RUN_CAUSE = "triggered_by input"
FIELDS = {
    "service_line.activated": (OWNER, "project_tags resources started_at execution_id"),
    "service_line.updated": ("project_tags", ""),
    **dict.fromkeys(
        ("service_line.paused", "service_line.resumed", "service_line.closed"), ("", "reason")
    ),
    "execution.checked_in": ("", "hours note resource_id"),
    "execution.check_in_voided": ("fact_id", "reason"),
    "execution.blocked": ("blocker_id cause", "reason"),
    "execution.unblocked": ("blocker_id", "reason"),
    "resource.allocated": RESOURCE,
    "resource.released": ("id", ""),
    "health.signal_reported": ("signal status", "value evidence"),
    "run.requested": ("service_line_id", RUN_CAUSE),
    "run.started": ("", f"service_line_id {RUN_CAUSE}"),
    "run.completed": ("", "output tokens_used duration_ms"),
    "run.failed": ("", "error output tokens_used duration_ms"),
    "run.cancelled": ("", "reason"),
}
"""The contract's table: required and optional fields of each type."""

ENDINGS = {"completed", "failed", "cancelled"}

Fact = dict[str, Any]
State = dict[str, Any]
Told = tuple[dict[str, State], dict[str, State]]

instant = datetime.fromisoformat


def zulu(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def fields_are_known(data: Fact, table: tuple[str, str]) -> bool:
    required, optional = (set(each.split()) for each in table)
    return required <= set(data) <= required | optional


def check_shape(fact: Fact) -> None:
    """Check the envelope and the data of one fact against the table."""
    assert fields_are_known(
        fact, ("specversion id source type subject time data", "actortype actorid")
    )
    assert fact["specversion"] == "1.0"
    assert fact["time"].endswith("Z")
    assert fact["id"]
    assert fact["source"].startswith("/")
    assert ("actortype" in fact) == ("actorid" in fact)
    assert fact.get("actortype", "user") in ACTORS
    data = fact["data"]
    assert fields_are_known(data, FIELDS[fact["type"]]), fact
    assert None not in data.values()
    assert all(fields_are_known(each, RESOURCE) for each in data.get("resources", ()))
    for name in data.keys() & ENUMS.keys():
        assert data[name] in ENUMS[name]
    assert "signal" not in data or data["status"] in {"green", "amber", "red"}
    if "hours" in data:
        assert data["hours"] >= 0
        assert round(data["hours"], 2) == data["hours"]
    if "triggered_by" in data:
        assert set(data["triggered_by"]) <= {"type", "actor_id"}
        assert data["triggered_by"]["type"] in TRIGGERS
    assert "error" not in data or set(data["error"]) == {"code", "message"}
    assert data.get("duration_ms", 0) >= 0
    assert data.get("tokens_used", 0) >= 0


def walk(facts: Iterable[Fact]) -> Told:
    """Fold the facts into lines and runs, asserting that each would be accepted."""
    lines: dict[str, State] = {}
    runs: dict[str, State] = {}
    for fact in facts:
        check_shape(fact)
        if fact["type"] == "service_line.activated":
            activate(lines, runs, fact)
        elif fact["type"].startswith("run."):
            walk_run(lines, runs, fact)
        else:
            walk_line(lines[fact["subject"]], fact)
    return lines, runs


def activate(lines: dict[str, State], runs: dict[str, State], fact: Fact) -> None:
    data = fact["data"]
    record = data.get("execution_id")
    assert fact["subject"] not in lines
    assert record is None or record not in runs.keys() | {each["record"] for each in lines.values()}
    at, started_at = fact["time"], data.get("started_at", fact["time"])
    line = {**data, "record": record, "started_at": started_at, "paused": False, "closed": False}
    line |= {"blockers": {}, "check_ins": {}, "voided": set(), "signals": {}}
    line |= {"resources": {each["id"]: each for each in data["resources"]}}
    line |= {"last_activity": instant(started_at), "last_change": instant(at), "told": instant(at)}
    lines[fact["subject"]] = line


def walk_line(line: State, fact: Fact) -> None:
    """Apply a fact about a line."""
    data, at = fact["data"], instant(fact["time"])
    assert not line["closed"]
    assert line["told"] <= at
    line["told"] = at
    if fact["type"].endswith(("paused", "resumed", "blocked")):
        line["last_change"] = at
    match fact["type"]:
        case "service_line.paused" | "service_line.resumed" as verb:
            assert line["paused"] == (verb == "service_line.resumed")
            line["paused"] = not line["paused"]
        case "service_line.closed":
            line["closed"] = True
        case "service_line.updated":
            line["project_tags"] = data["project_tags"]
        case "execution.blocked":
            assert data["blocker_id"] not in line["blockers"]
            line["blockers"][data["blocker_id"]] = data
        case "execution.unblocked":
            del line["blockers"][data["blocker_id"]]
        case "resource.allocated":
            line["resources"][data["id"]] = data
        case "resource.released":
            del line["resources"][data["id"]]
        case "execution.checked_in":
            assert data.get("resource_id") is None or data["resource_id"] in line["resources"]
            line["check_ins"][fact["source"], fact["id"]] = fact
            line["last_activity"] = max(line["last_activity"], at)
        case "execution.check_in_voided":
            key = (fact["source"], data["fact_id"])
            assert key in line["check_ins"]
            assert key not in line["voided"]
            line["voided"].add(key)
        case "health.signal_reported":
            line["signals"][data["signal"]] = data
        case other:
            raise AssertionError(other)


def walk_run(lines: dict[str, State], runs: dict[str, State], fact: Fact) -> None:
    """Apply a fact about a run, and the activity that it is to the run's line."""
    data, at, verb = fact["data"], instant(fact["time"]), fact["type"].removeprefix("run.")
    run = runs.get(fact["subject"])
    line_id = run["line"] if run else data["service_line_id"]
    line = lines[line_id]
    assert data.get("service_line_id", line_id) == line_id
    assert not line["closed"]
    assert line["told"] <= at
    assert line["execution_model"] in RUN_MODELS
    assert fact["subject"] not in {each["record"] for each in lines.values()}
    if verb in {"requested", "started"}:
        if verb == "started":
            assert not line["paused"]
            assert not line["blockers"]
        assert run is None or (verb == "started" and run["status"] == "pending")
        run = runs.setdefault(
            fact["subject"], {"line": line_id, "started": None, **data, "requested": at}
        )
        run["status"] = "pending" if verb == "requested" else "running"
        run["started"] = at if verb == "started" else None
    else:
        assert run is not None
        assert run["status"] in {"pending", "running"}
        assert verb != "completed" or run["status"] == "running"
        run.update(data, status=verb, completed=at)
    line["told"] = at
    line["last_activity"] = max(line["last_activity"], at)


def state_of(line: State, open_runs: int, now: datetime) -> str:
    """Name the line's state at `now`, as the service would after its own sweep."""
    threshold = timedelta(seconds=900 if line["execution_model"] == "agent_runtime" else 86_400)
    if line["closed"] or line["paused"] or line["blockers"]:
        return "closed" if line["closed"] else "paused" if line["paused"] else "blocked"
    since = max(line["last_activity"], line["last_change"])
    return "idle" if not open_runs and since + threshold <= now else "running"


def open_runs(runs: dict[str, State]) -> Counter[str]:
    return Counter(
        each["line"] for each in runs.values() if each["status"] in {"pending", "running"}
    )
