"""A crash took views back some events: their commits do not wait for the disk.

Until they have folded those anew nobody may be shown less than was acknowledged (contract 4).
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from tests.support.databases import execute
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.views import until


class Views:
    """All views, which can be put back by one event and forth again."""

    def __init__(self, edge: Edge, connection: psycopg.Connection[Any]) -> None:
        self._edge, self._connection = edge, connection
        ((self.position,),) = edge.select("SELECT min(position) FROM ledger.projection")

    @property
    def _heard(self) -> Any:
        return self._edge.service.app.state.services.positions

    def crash(self) -> None:
        """They stand before their last event, and who listened to them hears nothing any more."""
        self._connection.execute("UPDATE ledger.projection SET position = position - 1")
        ended = self._connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'ledger api listener' AND datname = current_database()"
        )
        assert ended.fetchone() == (1,)

    def stop(self, name: str) -> None:
        """One of them goes no further."""
        self._connection.execute(
            "UPDATE ledger.projection SET stopped_at = now(), error = 'e' WHERE name = %s", (name,)
        )

    def due_of(self, name: str) -> int | None:
        """What a read of one that has stopped is due; None until that was heard."""
        return self._heard.due(frozenset({name})) if name in self._heard._stopped else None

    def return_once_awaited(self) -> None:
        """They have folded it again, when somebody waits for that."""
        deadline = time.monotonic() + 10
        while not self._heard._waiting:
            self._edge.get("/healthz")  # each a round trip through its event loop
            assert time.monotonic() < deadline
        self.put_forth()

    def put_forth(self) -> None:
        self._connection.execute(
            "UPDATE ledger.projection SET position = %s, stopped_at = NULL, error = NULL",
            (self.position,),
        )
        self._connection.execute(
            "SELECT pg_notify('ledger_views', string_agg(name, ',') || ' ' || min(position))"
            " FROM ledger.projection"
        )

    def is_at_peace(self) -> bool:
        """Nothing is owed any more."""
        return self._heard._owed is None


@pytest.fixture
def line(edge: Edge) -> str:
    line_id = edge.fresh()
    edge.accept(fact("service_line.updated", line_id, {"project_tags": ["PROJ-last"]}))
    return line_id


@pytest.fixture
def views(edge: Edge, line: str) -> Iterator[Views]:
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        views = Views(edge, connection)
        try:
            yield views
        finally:
            views.put_forth()
            deadline = time.monotonic() + 10
            while not views.is_at_peace():
                edge.get("/healthz")
                assert time.monotonic() < deadline


@contextmanager
def asking(edge: Edge, path: str, **options: Any) -> Iterator["Future[httpx.Response]"]:
    """A read under way."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(edge.get, path, **options)


PATHS = ("/v1/execution/{line}", "/v1/execution?limit=1", "/v1/events?limit=1", "/v1/events/{last}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("asks_for_it", [True, False], ids=["by position", "plainly"])
def test_who_reads_waits_until_they_are_back(
    edge: Edge, views: Views, line: str, path: str, asks_for_it: bool
) -> None:
    asked = path.format(line=line, last=f"EVT-26-{views.position:06}")
    headers = {"ledger-min-position": str(views.position)} if asks_for_it else {}
    views.crash()
    with asking(edge, asked, headers=headers) as answer:
        views.return_once_awaited()
        found = answer.result(10)
    assert (found.status_code, found.headers["ledger-position"]) == (200, str(views.position))


def test_who_reads_waits_though_for_a_while_nobody_can_listen_to_them(
    edge: Edge,
    views: Views,
    line: str,
    server: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = f"/v1/execution/{line}"
    for _ in range(2):
        edge.get("/v1/execution?limit=2")  # from memory then, which knows where the views stand
    allow = "ALTER DATABASE edge_test_taken_back ALLOW_CONNECTIONS"
    execute(server.url, f"{allow} false")
    try:
        views.crash()
        until(lambda: caplog.text.count("cannot follow the views") > 2, "it to be tried again")
        with asking(edge, path) as answer:
            views.return_once_awaited()
            assert answer.result(10).headers["ledger-position"] == str(views.position)
    finally:
        execute(server.url, f"{allow} true")


def test_one_that_has_stopped_is_not_waited_for(views: Views) -> None:
    views.stop("execution")
    views.crash()
    until(lambda: views.due_of("execution") is not None, "news of it")
    assert views.due_of("execution") == views.position - 1


def test_views_that_do_not_come_back_are_shown_as_they_are(
    edge: Edge, views: Views, line: str
) -> None:
    path = f"/v1/execution/{line}"
    views.crash()
    least = {"ledger-min-position": str(views.position)}
    assert_problem(edge.get(path, headers=least), 503, "behind")
    found = edge.get(path)
    assert (found.status_code, found.headers["ledger-position"]) == (200, str(views.position - 1))


def test_what_is_not_found_says_where_it_was_looked_for(edge: Edge, views: Views) -> None:
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger.projection SET position = 5")
        try:
            views.crash()
            while not views.is_at_peace():
                edge.get("/healthz")
            for path in (
                "/v1/execution/LIN-26-000001",
                "/v1/execution/LIN-26-000001/runs",
                "/v1/execution/LIN-26-000001/history",
                "/v1/runs/RUN-26-900001",
                "/v1/events/EVT-26-000099",
            ):
                problem = edge.get(path)
                assert_problem(problem, 404, "not_found")
                assert problem.headers["ledger-position"] == "4", path
        finally:
            views.put_forth()
