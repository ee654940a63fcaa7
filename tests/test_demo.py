"""The demo's story and the samples' facts are accepted, and show what they promise.

The checker knows the contract's tables only, apart from the domain: a mistake in one shows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from ledger import demo

SAMPLES = Path(__file__).parent / "samples"
SAMPLES_NOW = datetime(2026, 4, 15, 9, 12, 45, tzinfo=UTC)

MOMENTS = {
    "a Wednesday morning": SAMPLES_NOW,
    "a Sunday night": datetime(2026, 8, 2, 3, 0, 0, tzinfo=UTC),
    "a new year, elsewhere": datetime(
        2027, 1, 1, 1, 0, 30, 500_000, tzinfo=timezone(timedelta(hours=1))
    ),
    "a leap day": datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
}

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


# The checker: what the contract's section 3 accepts, walked with dicts.


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


# The story of `ledger demo`.


@pytest.fixture(scope="module", params=list(MOMENTS.values()), ids=list(MOMENTS))
def now(request: pytest.FixtureRequest) -> datetime:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def facts(now: datetime) -> list[Fact]:
    return list(demo.story(now))


@pytest.fixture(scope="module")
def told(facts: list[Fact]) -> Told:
    return walk(facts)


def test_the_same_now_tells_the_same_bytes_within_a_second(
    facts: list[Fact], now: datetime
) -> None:
    begun = process_time()
    again = list(demo.story(now.astimezone(UTC)))
    assert process_time() - begun < 1.0
    assert json.dumps(again) == json.dumps(facts)


def test_a_now_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        demo.story(datetime(2026, 4, 15))


def test_facts_are_sorted_by_time_and_end_moments_before_now(
    facts: list[Fact], now: datetime
) -> None:
    times = [instant(fact["time"]) for fact in facts]
    assert times == sorted(times)
    assert now - timedelta(minutes=1) < times[-1] < now
    assert timedelta(weeks=5) < times[-1] - times[0] < timedelta(weeks=7)


def test_no_two_facts_share_source_and_id(facts: list[Fact]) -> None:
    assert len({(fact["source"], fact["id"]) for fact in facts}) == len(facts)


def test_ids_are_well_formed_and_of_this_year_or_the_seeds(
    facts: list[Fact], now: datetime
) -> None:
    years = {f"{now.astimezone(UTC):%y}", "26"}
    told = set(re.findall(r"\b[A-Z]{2,6}-\d[\d-]*\d", json.dumps(facts)))
    for id in told | {fact["subject"] for fact in facts}:
        shape = re.fullmatch(r"SCR-\d{6}|([A-Z]+)-(\d\d)-\d{6}", id)
        assert shape is not None, id
        assert shape[2] is None or shape[2] in years, id


def test_the_story_has_its_promised_size(told: Told) -> None:
    lines, runs = told
    assert {each["organization_id"] for each in lines.values()} == set(demo.ORGANIZATIONS)
    assert 55 <= len(lines) <= 65
    assert 4_900 <= len(runs) <= 5_200
    pairs = {(each["product_line"], each["execution_model"]) for each in lines.values()}
    assert len(pairs) == 6
    assert dict(pairs).keys() == PRODUCT_LINES
    assert set(dict(pairs).values()) == MODELS
    for organization, workspaces in demo.WORKSPACES.items():
        owned = [each for each in lines.values() if each["organization_id"] == organization]
        assert {each["workspace_id"] for each in owned} == set(workspaces)


def test_the_story_uses_every_type_of_fact_and_status_of_a_run(
    facts: list[Fact], told: Told
) -> None:
    _, runs = told
    assert {fact["type"] for fact in facts} == set(FIELDS)
    assert {each["status"] for each in runs.values()} == {"pending", "running"} | ENDINGS
    assert {each["triggered_by"]["type"] for each in runs.values()} == TRIGGERS


def test_the_board_shows_every_state_in_both_organizations(told: Told, now: datetime) -> None:
    lines, runs = told
    opened = open_runs(runs)
    for organization in demo.ORGANIZATIONS:
        owned = {id: each for id, each in lines.items() if each["organization_id"] == organization}
        states = Counter(state_of(each, opened[id], now) for id, each in owned.items())
        assert set(states) == {"running", "idle", "paused", "blocked", "closed"}
        assert states["running"] >= 10


def test_the_board_looks_alive(told: Told, now: datetime) -> None:
    lines, _ = told
    fresh = [each for each in lines.values() if now - each["last_activity"] < timedelta(minutes=15)]
    assert len(fresh) >= 10
    assert {"talent", "agent_gateway"} <= {each["product_line"] for each in fresh}


def test_blocked_lines_show_all_causes_with_reasons_and_some_two_blockers(told: Told) -> None:
    lines, _ = told
    blockers = [list(each["blockers"].values()) for each in lines.values() if not each["closed"]]
    assert {each["cause"] for some in blockers for each in some} == CAUSES
    assert all(each["reason"] for some in blockers for each in some)
    assert sum(len(some) == 2 for some in blockers) >= 2


def test_health_shows_amber_and_red_with_value_and_evidence(told: Told) -> None:
    lines, _ = told
    reports = [each for line in lines.values() for each in line["signals"].values()]
    assert {each["status"] for each in reports} == {"green", "amber", "red"}
    assert all("value" in each and each["evidence"] for each in reports)
    scores = {score(each) for each in lines.values() if each["signals"]}
    assert max(scores) == 100
    assert min(scores) < 50
    assert any(50 <= each < 70 for each in scores)


def test_the_seeds_lines_are_there_and_only_they_bring_record_ids(
    facts: list[Fact], told: Told
) -> None:
    lines, runs = told
    records = {id: each["record"] for id, each in lines.items() if each["record"]}
    assert records == {"LIN-26-084729": "RUN-26-000419", "LIN-26-091100": "RUN-26-000388"}
    assert "SCR-128491" in lines["LIN-26-084729"]["resources"]
    assert lines["LIN-26-084729"]["project_tags"] == ["PROJ-26-004281"]
    numbers = sorted(int(id.rsplit("-")[-1]) for id in runs)
    assert numbers == list(range(100_001, 100_001 + len(runs)))


# The samples: the seed's answers, and the facts that lead to them.


@pytest.fixture(scope="module")
def sample_facts() -> list[Fact]:
    return [json.loads(line) for line in (SAMPLES / "facts.jsonl").read_text().splitlines()]


def sample(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text())


def score(line: State) -> int:
    statuses = [each["status"] for each in line["signals"].values()]
    return max(0, 100 - 6 * statuses.count("amber") - 31 * statuses.count("red"))


def metrics_of(id: str, line: State, runs: dict[str, State], now: datetime) -> dict[str, Any]:
    """Compute the metrics of the samples' two models at `now`, straight from the definitions."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if line["execution_model"] == "capacity":
        monday = today - timedelta(days=now.weekday())
        kept = [each for key, each in line["check_ins"].items() if key not in line["voided"]]
        week = sum(each["data"]["hours"] for each in kept if instant(each["time"]) >= monday)
        total = sum(each["data"]["hours"] for each in kept)
        return {"hours_this_week": week, "hours_total": total, "health_score": score(line)}
    begun = [each for each in runs.values() if each["line"] == id and each["started"]]
    ended = [each for each in begun if each["status"] in {"completed", "failed"}]
    latest = max(ended, key=lambda each: each["completed"])
    return {
        "invocations_today": sum(each["started"] >= today for each in begun),
        "invocations_total": len(begun),
        "last_run_duration_ms": latest["duration_ms"],
    }


def test_the_samples_facts_are_accepted_in_order(sample_facts: list[Fact]) -> None:
    walk([*sample_facts, sample("completion.json")])
    times = [instant(fact["time"]) for fact in sample_facts]
    assert times == sorted(times)
    assert times[-1] < SAMPLES_NOW
    assert len({(fact["source"], fact["id"]) for fact in sample_facts}) == len(sample_facts)


def test_the_samples_facts_lead_to_the_list_to_the_letter(sample_facts: list[Fact]) -> None:
    lines, runs = walk(sample_facts)
    opened = open_runs(runs)
    rows = [
        {
            "id": line["record"],
            "service_line_id": id,
            "execution_model": line["execution_model"],
            "state": state_of(line, opened[id], SAMPLES_NOW),
            "workspace_id": line["workspace_id"],
            "product_line": line["product_line"],
            "project_tags": line["project_tags"],
            "started_at": line["started_at"],
            "last_activity_at": zulu(line["last_activity"]),
            "metrics": metrics_of(id, line, runs, SAMPLES_NOW),
        }
        for id, line in lines.items()
    ]
    rows.sort(key=lambda row: row["id"], reverse=True)
    assert rows == sample("execution_list.json")["data"]


def test_the_samples_facts_lead_to_the_detail(sample_facts: list[Fact]) -> None:
    lines, _ = walk(sample_facts)
    line, detail = lines["LIN-26-084729"], sample("execution_detail.json")["data"]
    assert list(line["resources"].values()) == detail["resources"]
    assert {"score": score(line), "signals": list(line["signals"].values())} == detail["health"]


def test_after_the_completion_the_samples_run_is_the_newest(sample_facts: list[Fact]) -> None:
    _, runs = walk([*sample_facts, sample("completion.json")])
    newest = max(runs, key=lambda id: (runs[id]["requested"], id))
    (row,) = sample("runs.json")["data"]
    run = runs[newest]
    times = {"started_at": zulu(run["started"]), "completed_at": zulu(run["completed"])}
    shown = {"id": newest, "service_line_id": run["line"], **run, **times}
    assert {key: shown[key] for key in row} == row
