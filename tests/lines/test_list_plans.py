"""A page of lines touches rows in proportion to the page, also if few lines match the filters."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES, STATES, day_of, week_of
from ledger.engine.writer.writer import Writer
from projections.lines import lists
from projections.lines.orders import Sort
from projections.runs.statements import runs_read
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.plans import cost, database_after
from tests.support.racing_writers import now
from tests.support.time_travel import OTHER, SIGNALS, WORKSPACES
from tests.support.views import report

LINES, RUNS, RARE = 1_200, 400, 3
TENANT = {"organization": ORGANIZATION}
USUAL, SELDOM = WORKSPACES


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A database with many similar lines, and three different lines at the end of the list."""
    with database_after(server, "lists", work) as (connection, _):
        yield connection


def work(writer: Writer) -> None:
    lines = [f"LIN-26-{number + 1:06d}" for number in range(LINES)]
    begun: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        rare = index < RARE
        begun.append(
            activation(
                line,
                "capacity" if rare else "agent_runtime",
                "talent" if rare else "agent_gateway",
                organization_id=OTHER if index % 10 == 9 else ORGANIZATION,
                workspace_id=SELDOM if rare else USUAL,
                project_tags=["SELDOM", "BOTH"] if rare else ["USUAL", "BOTH"],
                resources=[{"id": "SELDOM" if rare else "USUAL", "type": "person"}],
            )
        )
        if rare or index % 2:
            statuses = ("red", "red") if rare else ("green", "green")
            for signal, status in zip(SIGNALS, statuses, strict=False):
                begun.append(
                    fact("health.signal_reported", line, {"signal": signal, "status": status})
                )
        if rare:
            blocker = {"blocker_id": "b", "cause": "approval_gap"}
            begun.append(fact("execution.blocked", line, blocker))
        elif index % 20 == 0:
            begun.append(fact("service_line.paused", line))
    report(writer, *begun)
    done: list[dict[str, Any]] = []
    for number in range(RUNS):
        run, ended = f"RUN-26-{700_000 + number}", "failed" if number < RARE else "completed"
        done += (
            fact("run.started", run, {"service_line_id": lines[-1]}),
            fact(f"run.{ended}", run),
        )
    report(writer, *done)


FOUND: dict[str, dict[str, Any]] = {
    "all": {},
    "a state": {"state": ["running"]},
    "a rare state": {"state": ["blocked"]},
    "rare states": {"state": ["blocked", "closed", "idle"]},
    "states": {"state": ["blocked", "paused", "running"]},
    "every state": {"state": list(STATES)},
    "a product line": {"product_line": ["agent_gateway"]},
    "a rare product line": {"product_line": ["talent"]},
    "rare product lines": {"product_line": ["ods", "talent"]},
    "a rare model": {"execution_model": ["capacity"]},
    "a model and state": {"execution_model": ["agent_runtime"], "state": ["paused"]},
    "everything named": {
        "execution_model": list(EXECUTION_MODELS),
        "product_line": list(PRODUCT_LINES),
    },
    "a workspace": {"workspace_id": [USUAL]},
    "a rare workspace": {"workspace_id": [SELDOM]},
    "workspaces": {"workspace_id": ["WS-26-000009", SELDOM, USUAL]},
    "a rare workspace and state": {"workspace_id": [SELDOM], "state": ["blocked"]},
    "a narrow token": {"workspace": SELDOM},
    "a narrow token and model": {"workspace": SELDOM, "execution_model": ["capacity"]},
    "a project": {"project_tag": ["USUAL"]},
    "a rare project": {"project_tag": ["SELDOM"]},
    "projects": {"project_tag": ["SELDOM", "BOTH", "USUAL", "NONE"]},
    "a project and a workspace": {"project_tag": ["BOTH"], "workspace_id": [USUAL]},
    "a project and a rare state": {"project_tag": ["BOTH"], "state": ["blocked"]},
    "a rare project and a state": {"project_tag": ["SELDOM"], "state": ["blocked"]},
    "a cause": {"blocked_cause": ["approval_gap"]},
    "causes": {"blocked_cause": ["approval_gap", "capacity_issue"]},
    "a cause and a project": {"blocked_cause": ["approval_gap"], "project_tag": ["BOTH"]},
    "lines by id": {"service_line_id": ["LIN-26-000001", "LIN-26-000700", "LIN-26-999999"]},
}
NOT_FOUND: dict[str, dict[str, Any]] = {
    "a state": {"state": ["closed"]},
    "states": {"state": ["closed", "idle"]},
    "a product line": {"product_line": ["ods"]},
    "a model": {"execution_model": ["observability"]},
    "a pair": {"execution_model": ["agent_runtime"], "product_line": ["talent"]},
    "a state of a product line": {"product_line": ["talent"], "state": ["closed"]},
    "an unknown workspace": {"workspace_id": ["WS-26-000009"]},
    "a product line of a workspace": {"workspace_id": [SELDOM], "product_line": ["agent_gateway"]},
    "a state of a narrow token": {"workspace": SELDOM, "state": ["running"]},
    "an unknown project": {"project_tag": ["NONE"]},
    "a project of a workspace": {"project_tag": ["SELDOM"], "workspace_id": ["WS-26-000009"]},
    "a cause": {"blocked_cause": ["policy_violation"]},
}


def found(
    connection: psycopg.Connection[Any],
    filters: dict[str, Any],
    limit: int,
    sort: Sort | None = None,
) -> int:
    """The number of lines on a page. Asserts that the page touches few rows."""
    moment = now()
    parameters = {**filters, "today": day_of(moment), "week": week_of(moment), "limit": limit}
    page = cost(connection, lists.list_read(filters, sort=sort), parameters)
    assert page.rows <= 7 * limit + 40
    return page.found


@pytest.mark.parametrize("limit", [10, 100])
@pytest.mark.parametrize("name", FOUND)
def test_a_page_of_lines_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], name: str, limit: int
) -> None:
    assert found(connection, TENANT | FOUND[name], limit) > 0


def test_as_many_lines_by_id_as_a_request_may_name_are_found_with_few_rows(
    connection: psycopg.Connection[Any],
) -> None:
    named = [f"LIN-26-{number:06d}" for number in range(1, 1001)]
    open_ = ["blocked", "idle", "paused", "running"]
    assert found(connection, TENANT | {"service_line_id": named, "state": open_}, 1001) == 900


@pytest.mark.parametrize("name", NOT_FOUND)
def test_an_empty_page_of_lines_touches_few_rows(
    connection: psycopg.Connection[Any], name: str
) -> None:
    assert found(connection, TENANT | NOT_FOUND[name], 10) == 0


@pytest.mark.parametrize(
    "name",
    [
        "all", "a state", "a rare state", "rare states", "a product line", "a rare product line",
        "a rare model", "a rare workspace", "a rare project", "a cause", "lines by id",
    ],
)  # fmt: skip
def test_a_page_for_an_administrator_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], name: str
) -> None:
    assert found(connection, FOUND[name], 10) > 0


ORDERED: dict[str, dict[str, Any]] = {
    name: FOUND[name]
    for name in (
        "all", "a state", "a rare state", "rare states", "states", "a rare workspace",
        "a rare workspace and state", "a narrow token", "a product line", "a project",
        "a rare project", "a cause", "lines by id",
    )
} | {
    "a health status": {"health": ["green"]},
    "a rare health status": {"health": ["red"]},
    "no health status": {"health": ["none"]},
    "health statuses": {"health": ["none", "red"]},
    "a rare health status and state": {"health": ["red"], "state": ["blocked"]},
    "a health status of a workspace": {"workspace_id": [USUAL], "health": ["green"]},
    "a health status of a narrow token": {"workspace": USUAL, "health": ["green"]},
    "a resource": {"resource_id": ["USUAL"]},
    "a rare resource": {"resource_id": ["SELDOM"]},
    "rare resources": {"resource_id": ["SELDOM", "NONE"]},
}  # fmt: skip
SORTS = [None, "state_since", "health_score", "due_at"]


@pytest.mark.parametrize(
    ("name", "sort", "limit"),
    [
        (name, sort, (10, 100)[(index + number) % 2])
        for index, name in enumerate(ORDERED)
        for number, sort in enumerate(SORTS)
        if sort != "due_at" or name not in ("a project", "a resource")  # whose lines are sorted
    ],
)
def test_a_page_in_any_order_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], name: str, sort: Sort | None, limit: int
) -> None:
    assert found(connection, TENANT | ORDERED[name], limit, sort) > 0


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    "name",
    ["all", "a state", "a rare state", "a rare health status", "a rare resource", "a rare project"],
)
def test_a_page_in_any_order_for_an_administrator_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], name: str, sort: Sort | None
) -> None:
    assert found(connection, ORDERED[name], 10, sort) > 0


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    "filters",
    [
        {"state": ["closed"]},
        {"health": ["amber"]},
        {"health": ["red"], "state": ["running"]},
        {"resource_id": ["NONE"]},
        {"project_tag": ["NONE"]},
        {"workspace_id": ["WS-26-000009"]},
        {"blocked_cause": ["policy_violation"]},
    ],
    ids=str,
)
def test_an_empty_page_in_any_order_touches_few_rows(
    connection: psycopg.Connection[Any], filters: dict[str, Any], sort: Sort | None
) -> None:
    assert found(connection, TENANT | filters, 10, sort) == 0


@pytest.mark.parametrize("sort", ["state_since", "health_score"])
@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_page_far_behind_the_first_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], sort: Sort, state: str
) -> None:
    """Hundreds of lines have the same score, so the record id decides where the page begins."""
    key, newest = connection.execute(
        f"SELECT {sort}, newest FROM ledger.execution_rank WHERE organization_id = %s"
        " AND state = %s ORDER BY 1 DESC, 2 DESC OFFSET 20 LIMIT 1".encode(),
        (ORGANIZATION, state),
    ).fetchall()[0]
    after = {"after": -newest, "after_key": key}
    assert found(connection, TENANT | {"state": [state]} | after, 10, sort) == 10


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("name", ["all", "a rare state", "a project", "a rare health status"])
def test_the_ids_of_an_export_touch_each_of_its_lines_a_few_times_and_its_pages_too(
    connection: psycopg.Connection[Any], name: str, sort: Sort | None
) -> None:
    filters, moment = TENANT | ORDERED[name], now()
    periods = {"today": day_of(moment), "week": week_of(moment)}
    read = lists.ids_read(filters, False, sort)
    values = {**filters, **periods, "limit": None}
    ((end, ids),) = connection.execute(read.sql.encode(), values).fetchall()
    assert len(ids) == len(set(ids)) > 2
    assert cost(connection, read, values).rows <= 7 * len(ids) + 40
    page = {**TENANT, **periods, "ids": ids[:100], "end": end}
    touched = cost(connection, lists.exported_read(frozenset(TENANT)), page)
    assert touched.found == len(ids[:100])
    assert touched.rows <= 7 * touched.found + 40
    of_others = page | {"organization": OTHER}
    assert cost(connection, lists.exported_read(frozenset(TENANT)), of_others).found == 0


@pytest.mark.parametrize(
    ("statuses", "runs"),
    [(["failed"], 3), (["failed", "cancelled"], 3), (["pending", "running"], 0)],
)
def test_uncompleted_runs_among_many_completed_runs_are_found_with_few_rows(
    connection: psycopg.Connection[Any], statuses: list[str], runs: int
) -> None:
    filters = {"status": statuses, "not_completed": True}
    read = runs_read(frozenset(), frozenset(filters))
    line = f"LIN-26-{LINES:06d}"
    page = cost(connection, read, {**filters, "line_id": line, "limit": 10})
    assert page.rows <= 60
    assert page.found == (runs or 1)  # without runs, the only row has the line's model
