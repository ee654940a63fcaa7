"""The export of usage across lines as a table (contract, Usage)."""

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


def usage(edge: Edge, **params: str) -> dict[str, Any]:
    answer = edge.get("/v1/usage", params={**APRIL, **params})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def exported(edge: Edge, **params: str) -> str:
    answer = edge.get("/v1/usage/export", params={**APRIL, **params})
    assert answer.status_code == 200, answer.text
    return str(answer.text)


@pytest.mark.parametrize("words", ["service_line", "day", "project,service_line", "resource,month"])
def test_an_export_has_the_rows_of_all_pages_and_last_the_total(edge: Edge, words: str) -> None:
    lines = [edge.fresh() for _ in range(3)]
    edge.accept(*(check_in(line, 2, resource_id="=1+1") for line in lines))
    query = {"group_by": words, "service_line_id": ",".join(lines)}
    data = usage(edge, **query, limit="1000")
    *rows, last = map(json.loads, exported(edge, **query).splitlines())
    assert rows == data["rows"]
    assert last == {"total": data["total"]}
    heading, *cells = csv.reader(io.StringIO(exported(edge, **query, format="csv"), newline=""))
    assert len(cells) == len(rows) + 1
    table = [dict(zip(heading, row, strict=True)) for row in cells]
    assert table[-1][heading[0]] == "TOTAL"
    assert [float(row["hours"]) for row in table] == [row["hours"] for row in rows] + [6]
    assert {"runs_pending", "seconds_closed", "cause_seconds_approval_gap"} <= set(heading)
    if "resource" in words:
        assert table[0]["resource_id"] == "'=1+1"
