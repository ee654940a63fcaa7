"""A page of the runs of all lines touches rows in proportion to the page (contract, Reading)."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import sort_key
from ledger.engine.writer.writer import Writer
from projections.runs.statements import all_runs_read, later_runs_read
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.plans import cost, database_after
from tests.support.racing_writers import now
from tests.support.time_travel import OTHER, WORKSPACES
from tests.support.views import report

RUNS, FEW = 1_500, 3
USUAL, SELDOM = WORKSPACES
LINE, RARE_LINE, OTHERS_LINE = "LIN-26-000001", "LIN-26-000002", "LIN-26-000003"
PARENT, FORMER = "RUN-26-700000", "RUN-26-700001"


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A database with many completed runs, and a few different runs at the end of the list."""
    with database_after(server, "runs", work) as (connection, _):
        yield connection


def work(writer: Writer) -> None:
    report(
        writer,
        activation(LINE, workspace_id=USUAL),
        activation(RARE_LINE, workspace_id=SELDOM),
        activation(OTHERS_LINE, organization_id=OTHER, workspace_id=USUAL),
    )
    facts: list[dict[str, Any]] = []
    for number in range(RUNS):
        run, few = f"RUN-26-{700_000 + number}", 2 <= number < 2 + FEW
        line = RARE_LINE if few else (OTHERS_LINE if number == 5 else LINE)
        data: dict[str, Any] = {"service_line_id": line, "external_id": f"build {number}"}
        if few:
            data["parent_run_id"] = FORMER
        facts.append(fact("run.requested", run, data))
        facts.append(fact("run.started", run, {"parent_run_id": PARENT} if few else None))
        facts.append(fact("run.failed" if few else "run.completed", run))
    report(writer, *facts)


PARENTS = {"parents": [sort_key(PARENT)]}
FAILED = {"status": ["failed"], "not_completed": True}
FOUND: dict[str, dict[str, Any]] = {
    "all": {},
    "a line": {"lines": [sort_key(LINE)]},
    "a line with few": {"lines": [sort_key(RARE_LINE)]},
    "a workspace": {"workspace_id": [USUAL]},
    "a workspace with few": {"workspace_id": [SELDOM]},
    "a narrow token with few": {"workspace": SELDOM},
    "a rare status": FAILED,
    "an external id": {"external_id": ["build 17"]},
    "a parent": PARENTS,
}
PAST = [(name, True) for name in FOUND if name != "a rare status"]
"""The filters of a page of the past. The status of the past is in no index."""

NOT_FOUND: dict[str, dict[str, Any]] = {
    "a status": {"status": ["pending", "running"], "not_completed": True},
    "a line": {"lines": [sort_key("LIN-26-000009")]},
    "a workspace": {"workspace_id": ["WS-26-000009"]},
    "an external id": {"external_id": ["build"]},
    "a parent": {"parents": [sort_key("RUN-26-000009")]},
}


def found(
    connection: psycopg.Connection[Any], filters: dict[str, Any], *, past: bool = False
) -> int:
    """The number of runs on a page of 10. Asserts that the page touches few rows."""
    tenant = frozenset(filters.keys() & {"organization", "workspace"})
    names = frozenset(filters) - tenant
    read = all_runs_read(tenant, names, past, "none")
    instant = {"as_of": now(), "settled": True} if past else {}
    page = cost(connection, read, {**filters, **instant, "limit": 10})
    assert page.rows <= 110
    return page.found


@pytest.mark.parametrize(("name", "past"), [(name, False) for name in FOUND] + PAST)
def test_a_page_of_runs_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], name: str, past: bool
) -> None:
    assert found(connection, {"organization": ORGANIZATION} | FOUND[name], past=past) > 0


@pytest.mark.parametrize(
    ("name", "past"),
    [
        (name, past)
        for name in NOT_FOUND
        for past in (False, True)
        if not (past and "status" in name)
    ],
)
def test_an_empty_page_of_runs_touches_few_rows(
    connection: psycopg.Connection[Any], name: str, past: bool
) -> None:
    assert found(connection, {"organization": ORGANIZATION} | NOT_FOUND[name], past=past) == 0


@pytest.mark.parametrize("name", ["all", "a line with few", "a workspace", "a parent"])
def test_a_page_for_an_administrator_touches_few_rows(
    connection: psycopg.Connection[Any], name: str
) -> None:
    assert found(connection, FOUND[name]) > 0


def test_a_page_of_an_organization_with_few_runs_touches_few_rows(
    connection: psycopg.Connection[Any],
) -> None:
    assert found(connection, {"organization": OTHER}) == 1


def test_a_later_page_of_an_export_touches_few_rows(connection: psycopg.Connection[Any]) -> None:
    key = sort_key(f"RUN-26-{700_000 + RUNS // 2}")
    filters = {"after": key, "after_at": now(), "end": 2**40, "limit": 10}
    read = later_runs_read(frozenset({"organization"}), frozenset({"after"}))
    page = cost(connection, read, {"organization": ORGANIZATION} | filters)
    assert (page.found, page.rows <= 110) == (10, True)
