"""Two instants side by side (contract, Usage): by lines whose changes are known."""

import csv
import io
import json
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.usage.usage_answers import instant

APRIL = {"from": "2026-04-01", "to": "2026-05-01"}


def compared(edge: Edge, token: str | None = None, **params: Any) -> dict[str, Any]:
    answer = edge.get("/v1/compare", token, params=params)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def row_of(data: dict[str, Any], line: str) -> dict[str, Any]:
    (row,) = (row for row in data["rows"] if row["service_line_id"] == line)
    return row


def blocked(line: str) -> dict[str, Any]:
    return fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"})


def test_a_row_has_a_line_as_it_was_known_then_and_as_it_is_now(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(fact("execution.checked_in", line, {"hours": 2}, time="2026-04-10T10:00:00Z"))
    then = instant(edge)
    edge.accept(
        *(fact("run.started", None, {"service_line_id": line}) for _ in range(2)),
        fact("health.signal_reported", line, {"signal": "sla_compliance", "status": "red"}),
        fact("execution.checked_in", line, {"hours": 1.25}, time="2026-04-10T10:00:00Z"),
        blocked(line),
    )
    edge.clock.advance(seconds=30)
    data = compared(edge, then=then, service_line_id=line, **APRIL)
    row = row_of(data, line)
    assert row["state"] == {"then": "running", "now": "blocked"}
    assert row["health_status"] == {"then": None, "now": "amber"}
    assert row["health_score"] == {"then": None, "now": 69, "change": None}
    assert row["open_blockers"] == {"then": 0, "now": 1, "change": 1}
    assert row["open_runs"] == {"then": 0, "now": 2, "change": 2}
    assert row["hours"] == {"then": 2, "now": 3.25, "change": 1.25}
    assert row["check_ins"] == {"then": 1, "now": 2, "change": 1}
    assert row["runs"] == {"then": 0, "now": 2, "change": 2}
    seconds = edge.data(f"/v1/execution/{line}/timeline")["totals"]["by_state"]["blocked"]
    assert row["seconds_blocked"] == {"then": 0, "now": seconds, "change": seconds}
    assert 29 < seconds < 31
    history = edge.get(f"/v1/execution/{line}/history").json()["data"]
    ids = [event["id"] for event in history[2:]]
    assert row["events"] == {"count": len(ids), "first": ids[0], "last": ids[-1]}
    assert data["total"]["states"] == {
        "newly_blocked": 1, "cleared": 0, "still_blocked": 0, "newly_paused": 0, "closed": 0,
        "started": 0,
    }  # fmt: skip
    assert data["total"]["hours"] == row["hours"]
    assert (data["total"]["lines"], data["total"]["lines_changed"]) == (1, 1)
    assert data["total"]["events"] == len(ids)


def test_only_lines_with_an_event_between_the_instants_have_a_row(edge: Edge) -> None:
    quiet, busy = edge.fresh(), edge.fresh()
    then = instant(edge)
    edge.accept(fact("execution.checked_in", busy, {}))
    now = instant(edge)
    edge.accept(fact("execution.checked_in", quiet, {}))
    data = compared(edge, then=then, now=now)
    assert [row["service_line_id"] for row in data["rows"]] == [busy]
    row = row_of(data, busy)
    assert row["events"]["count"] == 1
    assert row["hours"] == {"then": None, "now": None, "change": None}
    assert data["total"]["lines_changed"] == 0
    assert (data["from"], data["to"]) == (None, None)


def test_a_line_that_was_not_known_then_has_null_and_counts_as_started(edge: Edge) -> None:
    then = instant(edge)
    line = edge.fresh()
    edge.accept(blocked(line))
    data = compared(edge, then=then, **APRIL)
    row = row_of(data, line)
    assert row["state"] == {"then": None, "now": "blocked"}
    assert row["hours"] == {"then": None, "now": 0, "change": None}
    states = data["total"]["states"]
    assert (states["started"], states["newly_blocked"]) == (1, 1)
    assert data["total"]["open_blockers"] == {"then": 0, "now": 1, "change": 1}


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({}, "/then"),
        ({"then": "2027-01-01"}, "/then"),
        ({"then": "2026-04-01", "now": "2027-01-01"}, "/now"),
        ({"then": "2026-04-02", "now": "2026-04-01"}, "/now"),
        ({"then": "2024-04-02"}, "/then"),
        ({"then": "2026-04-02", "from": "2026-04-01"}, "/to"),
        ({"then": "2026-04-02", "to": "2026-04-01"}, "/from"),
        ({"then": "2026-04-02", "as_of": "2026-04-03"}, "/as_of"),
        ({"then": "2026-04-02", "time_zone": "Mars"}, "/time_zone"),
    ],
)
def test_a_wrong_question_is_refused(edge: Edge, params: dict[str, str], pointer: str) -> None:
    answer = edge.get("/v1/compare", params=params)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_pages_and_exports_tell_the_same_rows_and_later_facts_show_on_no_page(edge: Edge) -> None:
    then = instant(edge)
    lines = [edge.fresh() for _ in range(5)]
    edge.accept(*(blocked(line) for line in lines))
    params = {"then": then, "limit": 2, **APRIL}
    pages, cursor = list[dict[str, Any]](), None
    while cursor is None or pages[-1]["meta"]["has_more"]:
        more = {} if cursor is None else {"cursor": cursor}
        answer = edge.get("/v1/compare", params=params | more)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
        cursor = pages[-1]["meta"]["cursor"]
        edge.accept(fact("execution.checked_in", lines[-1], {"hours": 1}))
    rows = [row for page in pages for row in page["data"]["rows"]]
    assert [row["service_line_id"] for row in rows] == lines
    assert rows[-1]["events"]["count"] == 2
    assert [page["data"]["total"] is None for page in pages] == [False, True, True]
    now = pages[0]["data"]["now"]
    parameters = {"then": then, "now": now, **APRIL}
    text = edge.get("/v1/compare/export", params=parameters).text
    *exported, last = map(json.loads, text.splitlines())
    assert exported == rows
    assert last == {"total": pages[0]["data"]["total"]}
    table = edge.get("/v1/compare/export", params={**parameters, "format": "csv"}).text
    heading, *cells = csv.reader(io.StringIO(table, newline=""))
    assert [dict(zip(heading, row, strict=True))["state_now"] for row in cells[:-1]] == (
        ["blocked"] * 5
    )
    total = dict(zip(heading, cells[-1], strict=True))
    assert (total["service_line_id"], total["open_blockers_change"]) == ("TOTAL", "5")
