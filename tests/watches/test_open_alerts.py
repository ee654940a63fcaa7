"""The unresolved alerts of lines: in rows, details, counts and filters (contract, Reading)."""

import csv
import io
from typing import Any

import pytest

from tests.support.edge import assert_problem
from tests.support.facts import WORKSPACE
from tests.support.watches import Watcher

LIST, SUMMARY = "/v1/execution", "/v1/execution/summary"


@pytest.fixture
def lines(watcher: Watcher) -> list[str]:
    """Three lines: one with two alerts, one with one, one without."""
    blocked = watcher.blocked("Two", project_tags=["a", "b"])
    watcher.create(lines={"service_line_id": blocked})
    watcher.create(condition={"kind": "blocker_open"})
    blocked += watcher.blocked("One", model="capacity", project_tags=["b"])
    watcher.run_watches()
    return [*blocked, watcher.line(name="None")]


def rows(watcher: Watcher, **params: Any) -> dict[str, int]:
    """Line → its number of alerts, in the order of the list."""
    found = watcher.edge.data(LIST, watcher.token, params=params)
    return {row["service_line_id"]: row["open_alerts"] for row in found}


def counted(watcher: Watcher, **params: Any) -> tuple[int, int]:
    """The lines of the summary, and their alerts."""
    data = watcher.edge.data(SUMMARY, watcher.token, params=params)
    return data["total"], data["open_alerts"]


def detail(watcher: Watcher, line: str, **params: Any) -> int:
    path = f"{LIST}/{line}"
    return int(watcher.edge.data(path, watcher.token, params=params)["open_alerts"])


def test_rows_and_details_tell_the_number_of_unresolved_alerts(
    watcher: Watcher, lines: list[str]
) -> None:
    two, one, none = lines
    assert rows(watcher) == {none: 0, one: 1, two: 2}
    for sort in ("state_since", "health_score", "due_at"):
        assert rows(watcher, sort=sort) == {two: 2, one: 1, none: 0}
    for params in ({"health": "none"}, {"project_tag": "a,b"}, {"state": "blocked,running"}):
        expected = {none: 0, one: 1, two: 2}
        if "project_tag" in params:
            del expected[none]
        assert rows(watcher, **params) == expected
    assert [detail(watcher, line) for line in lines] == [2, 1, 0]
    answer = watcher.edge.get("/v1/execution/export", watcher.token, params={"format": "csv"})
    table = csv.DictReader(io.StringIO(answer.text))
    assert {row["service_line_id"]: row["open_alerts"] for row in table} == {
        none: "0",
        one: "1",
        two: "2",
    }


def test_the_summary_counts_the_alerts_of_the_lines_that_match(
    watcher: Watcher, lines: list[str]
) -> None:
    for params, expected in (
        ({}, (3, 3)),
        ({"state": "blocked"}, (2, 3)),
        ({"state": "running"}, (1, 0)),
        ({"execution_model": "capacity"}, (1, 1)),
        ({"project_tag": "a"}, (1, 2)),
        ({"project_tag": "a,b"}, (2, 3)),
        ({"workspace_id": WORKSPACE}, (3, 3)),
        ({"workspace_id": "elsewhere"}, (0, 0)),
        ({"blocked_cause": "approval_gap", "project_tag": "b", "unassigned": "true"}, (2, 3)),
        ({"health": "none"}, (3, 3)),
        ({"has_alerts": "true"}, (2, 3)),
        ({"has_alerts": "true", "execution_model": "agent_runtime"}, (1, 2)),
        ({"organization_id": watcher.organization}, (3, 3)),
    ):
        assert counted(watcher, **params) == expected, params
    narrow = watcher.new_token("read", workspace_id=WORKSPACE)
    assert watcher.edge.data(SUMMARY, narrow)["open_alerts"] == 3


def test_has_alerts_finds_the_lines_with_an_unresolved_alert(
    watcher: Watcher, lines: list[str]
) -> None:
    two, one, _ = lines
    assert rows(watcher, has_alerts="true") == {one: 1, two: 2}
    assert rows(watcher, has_alerts="true", project_tag="a") == {two: 2}
    assert rows(watcher, has_alerts="true", state="running") == {}
    for sort, order in (
        ("state_since", [two, one]),
        ("health_score", [one, two]),
        ("due_at", [one, two]),
    ):
        assert list(rows(watcher, has_alerts="true", sort=sort)) == order
        assert list(rows(watcher, has_alerts="true", sort=sort, limit=1)) == order[:1]
    watcher.unblock(two)
    watcher.run_watches()
    assert rows(watcher, has_alerts="true") == {one: 1}
    for wrong in ({"has_alerts": "false"}, {"has_alerts": "true", "as_of": "2026-04-15"}):
        for path in (LIST, SUMMARY, "/v1/execution/export"):
            problem = assert_problem(
                watcher.edge.get(path, watcher.token, params=wrong), 422, "invalid_request"
            )
            assert [error["pointer"] for error in problem["errors"]] == ["/has_alerts"]


def test_many_lines_are_chosen_by_their_alerts(watcher: Watcher, lines: list[str]) -> None:
    body = {"filter": {"has_alerts": True}, "reason": "Look into it", "dry_run": True}
    answer = watcher.edge.post("/v1/execution/pause", watcher.token, json=body)
    assert [each["service_line_id"] for each in answer.json()["data"]] == lines[1::-1]


def test_an_instant_shows_the_alerts_that_were_unresolved_then(
    watcher: Watcher, lines: list[str]
) -> None:
    two, one, none = lines
    clock = watcher.edge.clock

    def now() -> str:
        clock.advance(seconds=1)
        at = clock().isoformat()
        clock.advance(seconds=1)
        return at

    then = now()
    watcher.unblock(two)
    watcher.run_watches()
    after = now()
    watcher.unblock(one)
    watcher.run_watches()
    now()
    assert [detail(watcher, line) for line in lines] == [0, 0, 0]
    for at, numbers in ((then, (2, 1)), (after, (0, 1))):
        expected = dict(zip((two, one), numbers, strict=True)) | {none: 0}
        assert rows(watcher, as_of=at) == expected
        assert rows(watcher, as_of=at, sort="state_since") == expected
        assert rows(watcher, as_of=at, project_tag="b") == {one: numbers[1], two: numbers[0]}
        assert detail(watcher, two, as_of=at) == numbers[0]
        assert counted(watcher, as_of=at) == (3, sum(numbers))
        assert counted(watcher, as_of=at, project_tag="a") == (1, numbers[0])
        answer = watcher.edge.get(
            "/v1/execution/export", watcher.token, params={"format": "csv", "as_of": at}
        )
        table = csv.DictReader(io.StringIO(answer.text))
        assert {row["service_line_id"]: int(row["open_alerts"]) for row in table} == expected
    assert counted(watcher, as_of="2025-04-15") == (0, 0)


def test_a_cached_answer_is_dropped_when_an_alert_opens_or_ends(
    watcher: Watcher, lines: list[str]
) -> None:
    none = lines[2]
    for number in (0, 1):
        assert rows(watcher)[none] == number
        assert detail(watcher, none) == number
        assert counted(watcher) == (3, 3 + number)
        if number == 0:
            watcher.create(condition={"kind": "in_state", "states": ["running"]})
            watcher.run_watches()
