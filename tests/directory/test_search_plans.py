"""A search touches some hundreds of rows, however many names have the word."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.writer.writer import Writer
from projections.directory.search.statements import CANDIDATES, FOUND, search_read
from projections.directory.search.words import sought
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.plans import Cost, cost, database_after
from tests.support.time_travel import OTHER, WORKSPACES
from tests.support.views import report

LINES = 800
USUAL, SELDOM = WORKSPACES
TENANTS: dict[str, dict[str, str]] = {
    "an organization": {"organization": ORGANIZATION},
    "another organization": {"organization": OTHER},
    "a workspace": {"organization": ORGANIZATION, "workspace": SELDOM},
    "an administrator": {},
}


@pytest.fixture(scope="module")
def connection(server: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """Names that begin alike, most of them in one organization and workspace."""
    with database_after(server, "search", work) as (connection, _):
        yield connection


def work(writer: Writer) -> None:
    begun: list[dict[str, Any]] = []
    for number in range(LINES):
        line = f"LIN-26-{number + 1:06d}"
        resource = {"type": "t", "id": f"SCR-{number}", "name": f"Pay {number % 7} person"}
        begun.append(
            activation(
                line,
                "agent_runtime",
                name=f"Payments {number % 10} of same",
                organization_id=OTHER if number % 100 == 99 else ORGANIZATION,
                workspace_id=SELDOM if number % 100 == 50 else USUAL,
                project_tags=[f"pay-{number}"],
                resources=[resource],
            )
        )
        run = {"service_line_id": line, "external_id": f"pay-run-{number}"}
        begun.append(fact("run.started", f"RUN-25-{number + 1:06d}", run))
        blocker = {"blocker_id": f"b{number}", "cause": "approval_gap", "reason": "Pay soon"}
        begun.append(fact("execution.blocked", line, blocker))
    report(writer, *begun)


def searched(connection: psycopg.Connection[Any], tenant: dict[str, str], text: str) -> Cost:
    wanted = sought(text)
    assert wanted is not None
    read = search_read(frozenset(tenant), by_number=wanted.number is not None)
    return cost(connection, read, tenant | wanted.parameters())


@pytest.mark.parametrize("tenant", TENANTS.values(), ids=TENANTS)
@pytest.mark.parametrize("text", ["pay", "payments", "person pa", "same zebra", "unknown"])
def test_a_search_by_words_touches_rows_in_proportion_to_its_candidates(
    connection: psycopg.Connection[Any], tenant: dict[str, str], text: str
) -> None:
    search = searched(connection, tenant, text)
    assert (search.found > 0) == (text not in ("same zebra", "unknown"))
    assert search.found <= FOUND
    # Of five types, and the entries' rows in the directory; all again in the plan's outer nodes.
    assert search.rows <= 10 * CANDIDATES + 12 * FOUND


@pytest.mark.parametrize("tenant", TENANTS.values(), ids=TENANTS)
def test_a_search_by_a_number_looks_up_keys(
    connection: psycopg.Connection[Any], tenant: dict[str, str]
) -> None:
    search = searched(connection, tenant, "50 pay")
    assert search.rows <= 40
