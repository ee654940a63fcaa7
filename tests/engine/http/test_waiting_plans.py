"""A page of lines that wait for somebody touches few lines that do not (``execution_rank``)."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import day_of, format_instant, week_of
from ledger.engine.writer.writer import Writer
from projections.lines import lists
from projections.lines.orders import Sort
from projections.lines.rank import NEVER_DUE
from projections.lines.statements import summary_read
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.plans import cost, database_after
from tests.support.racing_writers import now
from tests.support.time_travel import OTHER, WORKSPACES
from tests.support.views import report

LINES, WAITING, RARE = 1_500, 300, 3
TENANTS: dict[str, dict[str, Any]] = {
    "an organization": {"organization": ORGANIZATION},
    "a workspace": {"organization": ORGANIZATION, "workspace": WORKSPACES[0]},
    "an administrator": {},
}
MOMENT = now()
WHERE: dict[str, dict[str, Any]] = {
    "an assignee": {"assignee": ["USUAL"]},
    "a rare assignee": {"assignee": ["SELDOM"]},
    "assignees of whom some are unknown": {"assignee": ["SELDOM", "NOBODY"]},
    "nobody": {"unassigned": ["true"]},
    "somebody late": {"overdue": MOMENT},
    "a rare assignee who is late": {"assignee": ["SELDOM"], "overdue": MOMENT},
}


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A database in which each fifth line has an open blocker."""
    with database_after(server, "waiting", work) as (connection, _):
        yield connection


def work(writer: Writer) -> None:
    facts: list[dict[str, Any]] = []
    data: dict[str, Any]
    for number in range(LINES):
        line, rare = f"LIN-26-{number + 1:06d}", number < 5 * RARE
        organization = OTHER if number % 10 == 9 else ORGANIZATION
        workspace = WORKSPACES[number % 25 == 0]
        facts.append(activation(line, organization_id=organization, workspace_id=workspace))
        if status := ("green", "red", None)[number % 3]:
            data = {"signal": "sla_compliance", "status": status}
            facts.append(fact("health.signal_reported", line, data))
        if number % 7 == 0:
            facts.append(fact("service_line.paused", line))
        if number % 5 == 2:
            due = MOMENT + timedelta(days=-1 if rare else number % 30 + 1)
            data = {"blocker_id": "b", "cause": "approval_gap"}
            data["assignee"] = "SELDOM" if rare else "USUAL" if number % 3 else None
            data["due_at"] = format_instant(due) if number % 2 or rare else None
            facts.append(fact("execution.blocked", line, data))
    report(writer, *facts)


def page(
    connection: psycopg.Connection[Any], filters: dict[str, Any], sort: Sort | None = None
) -> tuple[int, float]:
    """The numbers of lines on a page of ten, and of the rows that the page touches."""
    parameters = {**filters, "today": day_of(MOMENT), "week": week_of(MOMENT), "limit": 10}
    found = cost(connection, lists.list_read(filters, sort=sort), parameters)
    return found.found, found.rows


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("sort", [None, "state_since", "health_score", "due_at"])
@pytest.mark.parametrize("name", WHERE)
def test_a_page_of_lines_that_wait_for_somebody_touches_few_lines_that_do_not(
    connection: psycopg.Connection[Any], name: str, sort: Sort | None, tenant: str
) -> None:
    lines, rows = page(connection, TENANTS[tenant] | WHERE[name], sort)
    assert lines > 0
    # Rows of a bitmap count twice: in the index and in the table.
    assert rows <= (3 * WAITING + 40 if lines == 10 else 200)


@pytest.mark.parametrize("tenant", ["an organization", "a workspace"])
@pytest.mark.parametrize("name", WHERE)
def test_a_summary_of_lines_that_wait_for_somebody_reads_no_line_without_a_blocker(
    connection: psycopg.Connection[Any], name: str, tenant: str
) -> None:
    filters = TENANTS[tenant] | WHERE[name]
    counted = cost(connection, summary_read(frozenset(filters)), filters)
    assert counted.found > 0
    assert counted.rows <= 3 * WAITING + 10


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("is_due", [True, False])
def test_a_page_by_due_time_far_behind_the_first_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any], is_due: bool, tenant: str
) -> None:
    """The page begins among the lines that are due, or among all the others."""
    row = connection.execute(
        "SELECT due_at, newest FROM ledger.execution_rank WHERE (due_at < %s) = %s"
        " ORDER BY 1, 2 OFFSET 40 LIMIT 1",
        (NEVER_DUE, is_due),
    )
    ((key, newest),) = row.fetchall()
    filters = TENANTS[tenant] | {"after": -newest, "after_key": key}
    lines, rows = page(connection, filters, "due_at")
    assert (lines, rows <= 6 * 10) == (10, True), rows


def test_an_answer_that_follows_the_clock_is_not_cached() -> None:
    pure = [lists.list_read(WHERE[name]).is_pure for name in ("nobody", "somebody late")]
    pure += [summary_read(frozenset(WHERE[name])).is_pure for name in ("nobody", "somebody late")]
    assert pure == [True, False, True, False]
