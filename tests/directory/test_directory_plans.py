"""A page of the directory touches rows in proportion to the page, wherever the page begins."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.writer.writer import Writer
from projections.directory.statements import SCOPES, names_read, page_read
from projections.lines.statements import organizations_read
from tests.support.facts import ORGANIZATION, activation
from tests.support.plans import cost, database_after
from tests.support.racing_writers import now
from tests.support.time_travel import OTHER, WORKSPACES
from tests.support.views import report

PROJECTS = 2_000
USUAL, SELDOM = WORKSPACES
AFTER = {"after": "PROJ-26-001500", "after_organization": ORGANIZATION}
BEFORE_ALL = {"after": "P", "after_organization": ""}


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """Two organizations with the same thousands of projects; every project is in one workspace."""
    with database_after(server, "directory", work) as (connection, _):
        yield connection


def work(writer: Writer) -> None:
    tags = [f"PROJ-26-{number:06d}" for number in range(PROJECTS)]
    begun = [
        activation(
            f"LIN-26-{5 * line + index:06d}",
            organization_id=organization,
            workspace_id=SELDOM if line % 20 == 19 else USUAL,
            project_tags=tags[50 * line : 50 * line + 50],
        )
        for line in range(PROJECTS // 50)
        for index, organization in enumerate((ORGANIZATION, OTHER), 1)
    ]
    report(writer, *begun)


@pytest.mark.parametrize("limit", [10, 60])
@pytest.mark.parametrize("after", [BEFORE_ALL, AFTER], ids=["the first page", "a later page"])
@pytest.mark.parametrize(
    "tenant",
    [
        {"organization": ORGANIZATION},
        {"organization": ORGANIZATION, "workspace": SELDOM},
        {},
    ],
    ids=["an organization", "a workspace", "an administrator"],
)
def test_a_page_of_the_directory_touches_rows_in_proportion_to_its_limit(
    connection: psycopg.Connection[Any],
    tenant: dict[str, str],
    after: dict[str, str],
    limit: int,
) -> None:
    filters = {**tenant, **after}
    read = page_read(frozenset(filters) - {"after_organization"})
    page = cost(connection, read, {**filters, "type": "project", "limit": limit})
    is_last_page = "workspace" in tenant and after is AFTER
    assert page.found == (min(limit, 50) if is_last_page else limit)
    assert page.rows <= 4 * limit + 40


def test_the_names_of_a_page_are_looked_up_one_by_one(connection: psycopg.Connection[Any]) -> None:
    ids = [f"PROJ-26-{number:06d}" for number in range(0, 100, 10)]
    for tenant in ({"organization": ORGANIZATION}, {}):
        found = cost(connection, names_read(frozenset(tenant)), {**tenant, "ids": ids})
        assert found.rows <= 40


def test_the_names_of_scopes_are_looked_up_one_by_one(connection: psycopg.Connection[Any]) -> None:
    ids = [f"PROJ-26-{number:06d}" for number in range(0, 100, 10)]
    found = cost(connection, SCOPES, {"ids": ids, "organizations": [ORGANIZATION] * len(ids)})
    assert found.rows <= 40


def test_a_page_of_organizations_touches_each_of_its_lines_a_few_times(
    connection: psycopg.Connection[Any],
) -> None:
    lines = PROJECTS // 50
    for limit in (1, 2):
        parameters = {"after": "", "now": now(), "limit": limit}
        found = cost(connection, organizations_read(), parameters)
        assert found.found == limit
        assert found.rows <= limit * (4 * lines + 20)
