"""A place in a line's history, and the events of a run, cost in proportion to the answer."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.values.principal import ANY, Tenant
from projections.feed import statements
from tests.feed.test_feed_plans import Past
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.plans import Cost, cost
from tests.support.reader import become_reader

OWN = {"organization": ORGANIZATION}
TICKS, LIMIT = 50, 10


class Busy:
    """A line with thousands of events among those of another line, and a line with few events."""

    def __init__(self, edge: Edge) -> None:
        self.line, self.other, self.quiet = edge.fresh(), edge.fresh(), edge.fresh()
        self.run = "RUN-26-800001"
        begun = {"service_line_id": self.line}
        edge.accept(
            fact("run.requested", self.run, begun), fact("execution.checked_in", self.quiet)
        )
        for _ in range(6):
            pairs = ((line, n) for n in range(490) for line in (self.line, self.other))
            edge.accept(*(fact("execution.checked_in", line) for line, _ in pairs))
        edge.accept(fact("run.started", self.run, begun), fact("run.failed", self.run))


@pytest.fixture(scope="module")
def busy(edge: Edge) -> Busy:
    return Busy(edge)


@pytest.fixture(scope="module")
def past(edge: Edge, busy: Busy) -> Iterator[Past]:
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        become_reader(connection, edge.conninfo, Tenant(OWN["organization"], ANY))
        found = connection.execute("SELECT max(position) FROM ledger.event").fetchall()
        yield Past(connection, edge.clock.now, found[0][0])


def point_cost(past: Past, line_id: str, is_past: bool, **values: Any) -> Cost:
    read = statements.point_read(frozenset(OWN), is_past)
    parameters = {"line_id": line_id, "limit": LIMIT, "ticks": TICKS, **OWN, **values}
    return cost(past.connection, read, parameters)


def half_way(past: Past) -> dict[str, Any]:
    found = past.connection.execute(
        "SELECT ledger.recorded_at(position) FROM ledger.event"
        " WHERE position >= %s ORDER BY position LIMIT 1",
        (past.end // 2,),
    ).fetchall()
    return {"as_of": found[0][0]}


@pytest.mark.parametrize("is_past", [False, True], ids=["now", "then"])
def test_a_point_in_a_history_costs_in_proportion_to_what_is_shown(
    past: Past, busy: Busy, is_past: bool
) -> None:
    found = point_cost(past, busy.line, is_past, **half_way(past))
    assert LIMIT + TICKS // 2 <= found.found <= LIMIT + TICKS + 3
    # A tick is three look-ups in indexes, and a row of the recursive query's working table.
    assert found.rows <= 6 * (LIMIT + TICKS)
    assert found.blocks <= 10 * (LIMIT + TICKS)


@pytest.mark.parametrize("is_past", [False, True], ids=["now", "then"])
def test_a_point_in_a_quiet_line_costs_little_among_busy_lines(
    past: Past, busy: Busy, is_past: bool
) -> None:
    found = point_cost(past, busy.quiet, is_past, **half_way(past))
    assert found.rows <= 40
    assert found.blocks <= 60


def test_a_point_in_another_tenants_line_costs_few_rows(past: Past, busy: Busy) -> None:
    found = point_cost(past, busy.line, False, organization="ORG-26-000002")
    assert (found.found, found.rows <= 10, found.blocks <= 30) == (0, True, True)


def test_the_events_of_a_run_are_found_without_reading_all_events_of_its_line(
    past: Past, busy: Busy
) -> None:
    read = statements.run_events_read(frozenset(OWN))
    values = {"run_id": busy.run, "limit": LIMIT, **OWN}
    found = cost(past.connection, read, values)
    assert found.found == 3
    assert found.rows <= 20
    assert found.blocks <= 40
