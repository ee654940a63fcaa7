"""The demo's story and the samples' facts are accepted, and show what they promise."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from ledger import demo
from tests.support.walked import (
    CAUSES,
    ENDINGS,
    FIELDS,
    MODELS,
    PRODUCT_LINES,
    TRIGGERS,
    Fact,
    State,
    Told,
    instant,
    open_runs,
    state_of,
    walk,
    zulu,
)

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
