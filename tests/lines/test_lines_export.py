"""The list of lines as a file: the list's rows, of one moment (contract, Reading)."""

import csv
import io
import json
from typing import Any

import pytest

from ledger.engine.http import exports
from tests.support.edge import Edge, assert_problem
from tests.support.facts import activation, fact
from tests.support.feeds import BEHIND, cell_of
from tests.support.service import BATCH

LIST, EXPORT = "/v1/execution", "/v1/execution/export"
ORGANIZATION, HERE, THERE = "ORG-26-000611", "WS-26-000611", "WS-26-000612"
NAMES = ("=1+1", 'Zürich, "Nord"', None, next(iter(BEHIND)))
COLUMNS = [
    "id", "service_line_id", "execution_model", "state", "workspace_id", "organization_id",
    "product_line", "state_since", "health_status", "started_at", "name", "health_score",
    "oldest_blocker_id", "oldest_blocker_cause", "oldest_blocker_reason", "oldest_blocker_since",
    "oldest_blocker_assignee", "oldest_blocker_due_at", "last_activity_at", "open_runs",
    "open_alerts", "project_tags", "metrics",
]  # fmt: skip


@pytest.fixture(scope="module")
def token(edge: Edge) -> str:
    """A key of an organization with 23 lines: more than three short pages, the last not full."""
    token = edge.token("read", "write", "service_lines:manage", organization_id=ORGANIZATION)
    for number in range(23):
        edge.clock.advance(milliseconds=60_500)
        line = edge.fresh_id()
        tenant = {"organization_id": ORGANIZATION, "workspace_id": THERE if number % 4 else HERE}
        model = ("capacity", "agent_runtime")[number % 2]
        facts = [activation(line, model, project_tags=[f"=P{number % 3}"], **tenant)]
        if name := NAMES[number % 4]:
            facts.append(fact("service_line.updated", line, {"name": name}))
        if number % 5 == 0:
            blocker = {"blocker_id": "b", "cause": "approval_gap", "reason": "@why"}
            facts.append(
                fact(
                    "execution.blocked",
                    line,
                    blocker | {"assignee": "+amara", "due_at": "2026-04-15T12:01:00Z"},
                )
            )
        if number % 3 == 0:
            signal = {"signal": "sla_compliance", "status": ("red", "green")[number % 2]}
            facts.append(fact("health.signal_reported", line, signal))
        if number % 7 == 0:
            facts.append(fact("service_line.closed", line))
        edge.accept(*facts, token=token)
    edge.clock.advance(minutes=1)
    return token


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 7 lines, rendered 3 at once."""
    monkeypatch.setattr(exports, "PAGE", 7)
    monkeypatch.setattr(exports, "PORTION", 3)


def exported(edge: Edge, token: str, query: str = "") -> bytes:
    answer = edge.get(f"{EXPORT}?{query}", token)
    assert answer.status_code == 200, answer.text
    return answer.content


def listed(edge: Edge, token: str, query: str = "") -> list[str]:
    """The texts of the rows of all pages."""
    answer = edge.get(f"{LIST}?limit=100&{query}", token)
    assert answer.status_code == 200, answer.text
    assert not answer.json()["meta"]["has_more"]
    return [
        json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in answer.json()["data"]
    ]


@pytest.mark.usefixtures("short_pages")
@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 23),
        ("state=blocked", 4),
        ("state=blocked,closed&blocked_cause=approval_gap", 4),
        (f"workspace_id={HERE}", 6),
        ("execution_model=capacity&product_line=agent_gateway", 12),
        ("project_tag==P1", 8),
        ("health=amber,none", 19),
        ("resource_id=nothing", 0),
        ("assignee=%2Bamara&sort=due_at", 4),
        ("overdue=true", 4),
        ("unassigned=true", 0),
        ("sort=due_at", 23),
        ("sort=state_since", 23),
        ("sort=health_score", 23),
        ("sort=health_score&state=running,blocked&health=amber", 3),
    ],
)
def test_an_export_has_the_rows_of_the_list_byte_for_byte_in_its_order(
    edge: Edge, token: str, query: str, number: int
) -> None:
    rows = listed(edge, token, query)
    assert len(rows) == number
    assert exported(edge, token, query).decode().splitlines() == rows


@pytest.mark.usefixtures("short_pages")
@pytest.mark.parametrize(
    "query",
    ["", "state=blocked", f"workspace_id={HERE}&project_tag==P0", "sort=state_since",
     "sort=health_score&state=running,blocked", "health=amber"],
)  # fmt: skip
def test_an_export_of_an_instant_has_the_rows_of_the_list_at_that_instant(
    edge: Edge, token: str, query: str
) -> None:
    then = edge.data(f"{LIST}?limit=1", token)[0]["started_at"]
    late = activation(edge.fresh_id(), organization_id=ORGANIZATION, workspace_id=HERE)
    rows = listed(edge, token, f"{query}&as_of={then}")
    edge.accept(late, token=token)
    assert exported(edge, token, f"{query}&as_of={then}").decode().splitlines() == rows != []
    assert len(listed(edge, token)) > len(listed(edge, token, f"as_of={then}"))


def test_a_table_has_a_column_for_each_field_and_no_formulas(edge: Edge, token: str) -> None:
    rows = [json.loads(row) for row in listed(edge, token)]
    content = exported(edge, token, "format=csv").decode()
    heading, *table = csv.reader(io.StringIO(content, newline=""))
    assert heading == COLUMNS
    assert len(table) == len(rows)
    for cells, row in zip(table, rows, strict=True):
        blocker = row.pop("oldest_blocker") or {}
        expected = row | {f"oldest_blocker_{name}": value for name, value in blocker.items()}
        for column, cell in zip(heading, cells, strict=True):
            value = expected.get(column)
            if column in ("project_tags", "metrics"):
                assert json.loads(cell) == value
            else:
                assert cell == cell_of("" if value is None else str(value))
    assert {"'=1+1", "'@why", "'+amara"} <= {cell for cells in table for cell in cells}
    empty = exported(edge, token, "format=csv&resource_id=nothing").decode()
    assert empty == ",".join(COLUMNS) + "\r\n"


@pytest.mark.usefixtures("short_pages")
def test_an_export_shows_the_lines_as_they_were_at_its_position(
    edge: Edge, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that move in the order, and a line that begins, while the export goes on."""
    authenticator, changed = edge.service.app.state.services.authenticator, list[str]()
    headers = BATCH | {"authorization": f"Bearer {token}"}
    lapsed, rows = authenticator.lapsed, listed(edge, token, "sort=state_since&state=running")
    line = json.loads(rows[0])["service_line_id"], json.loads(rows[-1])["service_line_id"]
    tenant = {"organization_id": ORGANIZATION, "workspace_id": HERE}
    batch = [
        *(fact("service_line.paused", moved) for moved in line),
        activation(edge.fresh_id(), **tenant),
    ]

    async def change_first(*arguments: Any) -> Any:
        if not changed:
            answer = await edge.service.http.post(
                "/v1/facts", content=json.dumps(batch).encode(), headers=headers
            )
            changed.extend(item["outcome"] for item in answer.json()["data"])
        return await lapsed(*arguments)

    monkeypatch.setattr(authenticator, "lapsed", change_first)
    content = exported(edge, token, "sort=state_since&state=running")
    assert changed == ["recorded"] * 3
    assert content.decode().splitlines() == rows
    assert listed(edge, token, "sort=state_since&state=running") != rows


def test_an_export_declares_its_type_name_and_position_also_to_head(edge: Edge, token: str) -> None:
    for format_, type_ in (("jsonl", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")):
        answer = edge.get(f"{EXPORT}?format={format_}", token)
        assert answer.headers["content-type"] == type_
        assert answer.headers["content-disposition"] == f'attachment; filename="lines.{format_}"'
        listed_at = edge.get(LIST, token).headers["ledger-position"]
        assert answer.headers["ledger-position"] == listed_at
        head = edge.request("HEAD", f"{EXPORT}?format={format_}", token)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ledger-position"] == listed_at


@pytest.mark.parametrize(
    "query",
    [
        "limit=5", "cursor=x", "after=RUN-26-000001", "format=xml", "sort=name", "state=gone",
        "as_of=2026-04-01&sort=due_at", "as_of=2026-04-01&resource_id=r",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(edge: Edge, token: str, query: str) -> None:
    assert_problem(edge.get(f"{EXPORT}?{query}", token), 422, "invalid_request")
