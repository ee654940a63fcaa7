"""Usage across lines (contract, Usage): by a few lines whose sums are known."""

import csv
import io
import json
from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact

APRIL = {"from": "2026-04-01", "to": "2026-05-01"}
TIME = "2026-04-10T10:00:00Z"


def check_in(line: str, hours: float | None = None, **more: Any) -> dict[str, Any]:
    return fact("execution.checked_in", line, {"hours": hours, **more}, time=TIME)


def run_of(line: str, run: str, tokens: dict[str, Any]) -> list[dict[str, Any]]:
    begun = fact("run.started", run, {"service_line_id": line}, time=TIME)
    return [begun, fact("run.completed", run, tokens, time=TIME)]


def usage(edge: Edge, **params: str) -> dict[str, Any]:
    answer = edge.get("/v1/usage", params={**APRIL, **params})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def exported(edge: Edge, **params: str) -> str:
    answer = edge.get("/v1/usage/export", params={**APRIL, **params})
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_rows_of_lines_have_their_own_sums_and_the_total_is_theirs(edge: Edge) -> None:
    line, other, idle = (edge.fresh() for _ in range(3))
    edge.accept(check_in(line, 2.5, resource_id="a"), check_in(line), check_in(other, 1))
    data = usage(edge, service_line_id=f"{line},{other},{idle}")
    rows = [(row["service_line_id"], row["hours"], row["check_ins"]) for row in data["rows"]]
    assert rows == [(line, 2.5, 2), (other, 1, 1), (idle, 0, 0)]
    assert (data["total"]["lines"], data["total"]["hours"]) == (3, 3.5)
    assert (data["from"], data["to"]) == ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z")
    assert (data["time_zone"], data["as_of"]) == ("UTC", None)


@pytest.mark.parametrize("words", ["resource", "service_line,resource", "resource,service_line"])
def test_check_ins_by_resource_have_no_runs_and_no_seconds(edge: Edge, words: str) -> None:
    line = edge.fresh()
    edge.accept(check_in(line, 2, resource_id="b"), check_in(line, 1, resource_id="é"))
    edge.accept(check_in(line, 4))
    rows = usage(edge, group_by=words, service_line_id=line)["rows"]
    assert [(row["resource_id"], row["hours"]) for row in rows] == [("b", 2), ("é", 1), (None, 4)]
    nulls = ("runs", "tokens_used", "tokens_by_model", "seconds_by_state", "seconds_by_cause")
    assert [row[name] for row in rows for name in nulls] == [None] * 15


def test_tokens_and_runs_by_model_stand_under_null_where_a_run_names_none(edge: Edge) -> None:
    line = edge.fresh()
    both = [{"model": "large", "input": 5, "output": 1}, {"model": "small", "output": 2}]
    edge.accept(
        *run_of(line, "RUN-26-700001", {"token_usage": both}),
        *run_of(line, "RUN-26-700002", {"tokens_used": 9}),
    )
    rows = usage(edge, group_by="model", service_line_id=line)["rows"]
    told = [(row["model"], row["tokens_used"], row["runs"]["completed"]) for row in rows]
    assert told == [("large", 6, 1), ("small", 2, 1), (None, 9, 1)]
    assert [row["hours"] for row in rows] == [None] * 3
    total = usage(edge, service_line_id=line)["total"]
    by_model = [(row["model"], row["tokens_used"]) for row in total["tokens_by_model"]]
    assert by_model == [("large", 6), ("small", 2), (None, 9)]


def test_a_day_begins_in_the_time_zone(edge: Edge) -> None:
    line = edge.fresh()
    late = fact("execution.checked_in", line, {"hours": 3}, time="2026-04-10T22:30:00Z")
    edge.accept(check_in(line, 1), late)
    days = {
        zone: [
            (row["day"], row["hours"])
            for row in usage(edge, group_by="day", service_line_id=line, time_zone=zone)["rows"]
        ]
        for zone in ("UTC", "Europe/Berlin")
    }
    assert days["UTC"] == [("2026-04-10", 4)]
    assert days["Europe/Berlin"] == [("2026-04-10", 1), ("2026-04-11", 3)]


@pytest.mark.parametrize("words", ["service_line", "day", "project,service_line", "resource,month"])
def test_an_export_has_the_rows_of_all_pages_and_last_the_total(edge: Edge, words: str) -> None:
    lines = [edge.fresh() for _ in range(3)]
    edge.accept(*(check_in(line, 2, resource_id="=1+1") for line in lines))
    asked = {"group_by": words, "service_line_id": ",".join(lines)}
    data = usage(edge, **asked, limit="1000")
    *rows, last = map(json.loads, exported(edge, **asked).splitlines())
    assert rows == data["rows"]
    assert last == {"total": data["total"]}
    heading, *cells = csv.reader(io.StringIO(exported(edge, **asked, format="csv"), newline=""))
    assert len(cells) == len(rows) + 1
    table = [dict(zip(heading, row, strict=True)) for row in cells]
    assert table[-1][heading[0]] == "TOTAL"
    assert [float(row["hours"]) for row in table] == [row["hours"] for row in rows] + [6]
    assert {"runs_pending", "seconds_closed", "cause_seconds_approval_gap"} <= set(heading)
    if "resource" in words:
        assert table[0]["resource_id"] == "'=1+1"


def test_a_project_counts_its_lines_and_the_total_counts_a_line_once(edge: Edge) -> None:
    line, plain = edge.fresh(), edge.fresh()
    edge.accept(fact("service_line.updated", line, {"project_tags": ["p", "q"]}))
    edge.accept(fact("service_line.updated", plain, {"project_tags": []}))
    edge.accept(check_in(line, 2), check_in(plain, 5))
    both = f"{line},{plain}"
    data = usage(edge, group_by="project", service_line_id=both)
    told = [(row["project_tag"], row["lines"], row["hours"]) for row in data["rows"]]
    assert told == [("p", 1, 2), ("q", 1, 2), (None, 1, 5)]
    assert (data["total"]["lines"], data["total"]["hours"]) == (2, 7)
    data = usage(edge, group_by="project", service_line_id=both, project_tag="q")
    assert [row["project_tag"] for row in data["rows"]] == ["q"]
    assert data["total"]["hours"] == 2
