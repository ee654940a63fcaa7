"""Lists, counts and details of lines: order, filters, exact keys (contract, Reading)."""

from typing import Any

import pytest

from ledger.engine.values.values import CAUSES, EXECUTION_MODELS, PRODUCT_LINES, STATES
from tests.support.edge import Edge, assert_problem
from tests.support.facts import activation, fact

ROW = {
    "id", "service_line_id", "execution_model", "state", "workspace_id", "product_line",
    "project_tags", "started_at", "last_activity_at", "metrics", "state_since", "open_runs",
    "health_status", "name", "health_score", "oldest_blocker", "organization_id", "open_alerts",
}  # fmt: skip
DETAIL = ROW | {"resources", "health", "blockers", "holds", "closed_at"}
METRICS = {
    "capacity": {"hours_this_week", "hours_total", "health_score"},
    "ongoing_sla": {"hours_this_week", "hours_total", "health_score"},
    "agent_runtime": {"invocations_today", "invocations_total", "last_run_duration_ms"},
    "timeboxed_outcome": {"cycles_total", "cycles_completed", "last_run_duration_ms"},
    "infra_managed": {"check_ins_this_week", "health_score"},
    "observability": {"check_ins_this_week", "health_score"},
}
WORKSPACES = ("WS-26-000001", "WS-26-000002", "WS-26-000003")
TAGS = ((), ("PROJ-26-000001",), ("PROJ-26-000001", "PROJ-26-000002"), ("PROJ-26-000003",))


@pytest.fixture(scope="module", autouse=True)
def board(edge: Edge) -> list[dict[str, Any]]:
    """The list's rows of 60 lines: every model and product line, every state but idle.

    The fixture is automatic: these lines exist before the lines of any test.
    """
    ids = []
    for number in range(60):
        model, product = EXECUTION_MODELS[number % 6], PRODUCT_LINES[number // 6 % 6]
        tenant = {"workspace_id": WORKSPACES[number % 3], "project_tags": TAGS[number % 4]}
        ids.append(edge.fresh_id())
        edge.accept(activation(ids[-1], model, product, **tenant))
    for number, line in enumerate(ids):
        cause = {"cause": CAUSES[number % 4], "blocker_id": f"b{number}"}
        if number % 5 == 1:
            edge.accept(fact("service_line.paused", line))
        if number % 5 == 2:
            edge.accept(fact("execution.blocked", line, cause))
            edge.accept(fact("execution.blocked", line, cause | {"blocker_id": "again"}))
            other = {"cause": CAUSES[(number + 1) % 4], "blocker_id": "other"}
            edge.accept(fact("execution.blocked", line, other))
        if number % 5 == 3:
            edge.accept(fact("service_line.closed", line))
    rows: list[dict[str, Any]] = edge.data("/v1/execution?limit=100")
    assert [row["service_line_id"] for row in reversed(rows)] == ids
    return rows


def causes_of(edge: Edge, row: dict[str, Any]) -> set[str]:
    detail = edge.data(f"/v1/execution/{row['service_line_id']}")
    return {blocker["cause"] for blocker in detail["blockers"]}


# Shapes.

OLDEST = {"id", "cause", "reason", "since", "assignee", "due_at"}
BLOCKER = frozenset(OLDEST | {"reported_by"})
HOLD = frozenset({"hold", "reason", "since", "by", "until"})


def test_rows_and_details_have_exactly_their_keys(edge: Edge, board: list[dict[str, Any]]) -> None:
    blockers, holds = [], []
    for row in board:
        assert set(row) == ROW
        assert set(row["metrics"]) == METRICS[row["execution_model"]]
        detail = edge.data(f"/v1/execution/{row['service_line_id']}")
        assert set(detail) == DETAIL
        assert {key: detail[key] for key in ROW} == row
        assert set(detail["health"]) == {"score", "status", "signals"}
        blockers += detail["blockers"]
        if detail["blockers"]:
            assert set(row["oldest_blocker"]) == OLDEST
        else:
            assert row["oldest_blocker"] is None
        holds += detail["holds"]
    assert len(blockers) > 5
    assert {frozenset(blocker) for blocker in blockers} == {BLOCKER}
    assert len(holds) > 2
    assert {frozenset(hold) for hold in holds} == {HOLD}
    assert {frozenset(hold["by"]) for hold in holds} == {frozenset({"type", "id"})}


def test_empty_fields_of_a_line_are_null_or_empty_lists(edge: Edge) -> None:
    detail = edge.data(f"/v1/execution/{edge.fresh('capacity')}")
    for key in ("resources", "blockers", "holds", "project_tags"):
        assert detail[key] == []
    assert detail["health"] == {"score": None, "status": None, "signals": []}
    assert detail["closed_at"] is None
    assert detail["health_status"] is None
    assert detail["metrics"]["health_score"] is None


def test_a_released_resource_leaves_the_list(edge: Edge) -> None:
    line = edge.fresh("capacity", resources=[{"id": "SCR-1", "type": "talent"}])
    edge.accept(fact("resource.allocated", line, {"id": "SCR-2", "type": "talent"}))
    edge.accept(fact("resource.released", line, {"id": "SCR-1"}))
    (left,) = edge.data(f"/v1/execution/{line}")["resources"]
    assert left == {
        "id": "SCR-2", "type": "talent", "name": None, "role": None,
        "allocated_hours_per_week": None, "status": "active",
    }  # fmt: skip


# Order and filters.


def test_the_newest_record_comes_first_by_year_and_number(edge: Edge) -> None:
    ids = ["RUN-25-999999", "RUN-26-500000", "RUN-26-1000000", "RUN-27-000001"]
    for record in (ids[2], ids[0], ids[3], ids[1]):
        edge.fresh(execution_id=record, project_tags=["order"])
    rows = edge.data("/v1/execution?project_tag=order")
    assert [row["id"] for row in rows] == ids[::-1]


CHOICES = {
    "workspace_id": [*WORKSPACES, "WS-26-999999"],
    "state": list(STATES),
    "execution_model": list(EXECUTION_MODELS),
    "product_line": list(PRODUCT_LINES),
    "project_tag": ["PROJ-26-000001", "PROJ-26-000002", "PROJ-26-000003", "PROJ-26-999999"],
}


@pytest.mark.parametrize("tags", [1, 40, 41, 100])
@pytest.mark.parametrize("more", [{}, {"workspace_id": ",".join(WORKSPACES[:2])}])
def test_a_list_by_any_number_of_tags_reads_each_line_once(
    edge: Edge, board: list[dict[str, Any]], tags: int, more: dict[str, str]
) -> None:
    assert board
    words = [*CHOICES["project_tag"], *(f"PROJ-26-{number:06d}" for number in range(500, 600))]
    params = more | {"project_tag": ",".join(words[:tags])}
    counted = edge.data("/v1/execution/summary", params=params)["total"]
    walked: list[str] = []
    page: dict[str, Any] = {"meta": {"has_more": True, "cursor": None}}
    while page["meta"]["has_more"]:
        after = {"cursor": page["meta"]["cursor"]} if walked else {}
        answer = edge.get("/v1/execution", params=params | after | {"limit": "7"})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        walked += [row["id"] for row in page["data"]]
    assert len(set(walked)) == len(walked) == counted > 7


def test_without_a_state_filter_closed_lines_are_listed(
    edge: Edge, board: list[dict[str, Any]]
) -> None:
    assert {"running", "paused", "blocked", "closed"} == {row["state"] for row in board}


@pytest.mark.parametrize(
    "query",
    [
        "nothing=1", "State=running", "state=Running", "state=", "state=running,", "state=,",
        "state=running;idle", "state=running%20", "state=running,unknown", "state=running%0A",
        "execution_model=agent", "product_line=ODS", "blocked_cause=other", "workspace_id=",
        "project_tag=", "limit=0", "limit=101", "limit=abc", "limit=", "limit=-1", "limit=1.5",
        "limit=1e1", "limit=%D9%A1", "limit=99999999999999999999", "limit=true", "offset=5",
        "limit=1_0", "limit=5.0", "limit=%2B5", "limit=%205",
        "limit=10&page=2", "state=running&x", "state[]=running", "organization_id=",
        "organization_id=a&organization_id=b", "unassigned=false", "overdue=1", "overdue=true,true",
    ],
)  # fmt: skip
def test_an_unknown_parameter_or_word_is_a_422(edge: Edge, query: str) -> None:
    answer = edge.get(f"/v1/execution?{query}")
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["errors"] != []


def test_a_wrong_parameter_is_not_repeated(edge: Edge) -> None:
    canary = "canary7f3a"
    for name in (*CHOICES, "blocked_cause", "limit", f"{canary} x", "cursor"):
        for path in ("/v1/execution", "/v1/execution/summary", "/v1/execution/LIN-26-1/runs"):
            answer = edge.get(path, params={name: canary + "\x07"})
            assert answer.status_code in (200, 400, 404, 422)
            assert canary not in answer.text
    headers = {"ledger-min-position": canary}
    assert canary not in edge.get("/v1/execution", headers=headers).text


def test_a_page_has_as_many_lines_as_its_limit_and_25_by_default(
    edge: Edge, board: list[dict[str, Any]]
) -> None:
    assert len(board) >= 60
    for limit in (1, 7, 59):
        assert len(edge.data(f"/v1/execution?limit={limit}")) == limit
    assert len(edge.data("/v1/execution?limit=100")) >= 60
    assert len(edge.data("/v1/execution")) == 25


# Counts.


@pytest.mark.parametrize(
    "query",
    ["", "state=running", "workspace_id=WS-26-000002", "state=closed,paused", "blocked_cause="
     + CAUSES[0], "project_tag=PROJ-26-000001&product_line=ods", "workspace_id=WS-26-999999",
     "project_tag=PROJ-26-000001", "project_tag=PROJ-26-000001,PROJ-26-000003,PROJ-26-000002",
     "project_tag=PROJ-26-000002,PROJ-26-000002,PROJ-26-000001,,", "project_tag=,",
     "workspace_id=,", "workspace_id=WS-26-000001,WS-26-000003,WS-26-000001&state=blocked"],
)  # fmt: skip
def test_the_summary_equals_the_counts_of_the_list(
    edge: Edge, board: list[dict[str, Any]], query: str
) -> None:
    assert board
    rows = edge.data(f"/v1/execution?{query}&limit=100".replace("?&", "?"))
    causes = [cause for row in rows for cause in causes_of(edge, row)]
    counted = {
        "total": len(rows),
        "by_state": {name: sum(row["state"] == name for row in rows) for name in STATES},
        "by_execution_model": {
            name: sum(row["execution_model"] == name for row in rows) for name in EXECUTION_MODELS
        },
        "by_product_line": {
            name: sum(row["product_line"] == name for row in rows) for name in PRODUCT_LINES
        },
        "by_blocked_cause": {name: causes.count(name) for name in CAUSES},
        "open_alerts": 0,
    }
    assert edge.data(f"/v1/execution/summary?{query}".rstrip("?")) == counted
