"""A crash took back commits of views, since these commits do not wait for the disk.

Until the views have folded the lost events again, no read may show less than was acknowledged
(contract, Reading).
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.reads.positions import ViewPositions
from tests.support.databases import execute
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.views import until


class Views:
    """All views, which can be set back by one event and restored."""

    def __init__(self, edge: Edge, connection: psycopg.Connection[Any]) -> None:
        self._edge, self._connection = edge, connection
        ((self.position,),) = edge.select("SELECT min(position) FROM ledger.projection")
        self.reported: ViewPositions = edge.service.app.state.services.positions
        """The positions of the views that the service has received."""
        self._ended = set[int]()

    def crash(self) -> None:
        """Set the views before their last event, and end the connection that listens to them."""
        self._connection.execute("UPDATE ledger.projection SET position = position - 1")
        (listener,) = self._listeners()
        self._connection.execute("SELECT pg_terminate_backend(%s)", (listener,))
        self._ended.add(listener)

    def _listeners(self) -> list[int]:
        """The PostgreSQL processes that serve the service's listening connection."""
        rows = self._connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'ledger api listener' AND datname = current_database()"
        )
        return [pid for (pid,) in rows]

    def stop(self, name: str) -> None:
        self._connection.execute(
            "UPDATE ledger.projection SET stopped_at = now(), error = 'e' WHERE name = %s", (name,)
        )

    @contextmanager
    def restoring_once_awaited(self) -> Iterator[None]:
        """Restore the views once a read, which the body sends, has begun to wait for them."""
        awaited, after = threading.Event(), self.reported.after

        def note_wait(*arguments: Any) -> None:
            after(*arguments)
            awaited.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.reported, "after", note_wait)
            yield
            assert awaited.wait(10)
        self.restore()

    def restore(self) -> None:
        self._connection.execute(
            "UPDATE ledger.projection SET position = %s, stopped_at = NULL, error = NULL",
            (self.position,),
        )
        self._connection.execute(
            "SELECT pg_notify('ledger_views', string_agg(name, ',') || ' ' || min(position))"
            " FROM ledger.projection"
        )

    def are_reported(self) -> bool:
        """True if a new listener has heard of every acknowledged position."""
        listeners = set(self._listeners())
        is_new = len(listeners) == 1 and not self._ended & listeners
        return is_new and self.reported.reached >= self.position


@pytest.fixture
def line(edge: Edge) -> str:
    line_id = edge.fresh()
    edge.accept(fact("service_line.updated", line_id, {"project_tags": ["PROJ-last"]}))
    return line_id


@pytest.fixture
def views(edge: Edge, line: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Views]:
    """Only the test moves the views: no append and no projector."""
    monkeypatch.setattr(edge.service.loops.projector, "run_once", lambda: 0)
    monkeypatch.setattr(edge.service.loops.projector, "_take", lambda _: False)
    with (
        psycopg.connect(edge.conninfo, autocommit=True) as connection,
        edge.views_left_to_the_projector(),
    ):
        views = Views(edge, connection)
        try:
            yield views
        finally:
            views.restore()
            until(views.are_reported, "the service to hear of the views", 10.0)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for a read that waits."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


PATHS = ("/v1/execution/{line}", "/v1/execution?limit=1", "/v1/events?limit=1", "/v1/events/{last}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("names_the_position", [True, False], ids=["by position", "plainly"])
def test_a_read_waits_until_the_views_have_caught_up_again(
    edge: Edge,
    views: Views,
    pool: ThreadPoolExecutor,
    line: str,
    path: str,
    names_the_position: bool,
) -> None:
    read = path.format(line=line, last=f"EVT-26-{views.position:06}")
    headers = {"ledger-min-position": str(views.position)} if names_the_position else {}
    views.crash()
    with views.restoring_once_awaited():
        answer = pool.submit(edge.get, read, headers=headers)
    found = answer.result(10)
    assert (found.status_code, found.headers["ledger-position"]) == (200, str(views.position))


def test_a_read_waits_for_the_views_even_while_the_service_cannot_listen_to_them(
    edge: Edge,
    views: Views,
    pool: ThreadPoolExecutor,
    line: str,
    server: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = f"/v1/execution/{line}"
    for _ in range(2):
        edge.get("/v1/execution?limit=2")  # kept in memory, with the standing of the views
    allow = "ALTER DATABASE edge_test_taken_back ALLOW_CONNECTIONS"
    execute(server.url, f"{allow} false")
    try:
        views.crash()
        until(lambda: caplog.text.count("cannot follow the views") > 2, "the service to try again")
        with views.restoring_once_awaited():
            answer = pool.submit(edge.get, path)
        assert answer.result(10).headers["ledger-position"] == str(views.position)
    finally:
        execute(server.url, f"{allow} true")


def test_reads_do_not_wait_for_a_stopped_view_to_catch_up(views: Views) -> None:
    views.stop("execution")
    views.crash()

    def due() -> list[int]:
        return [views.reported.due(frozenset({name})) for name in ("execution", "run")]

    until(lambda: due() == [views.position - 1, views.position], "the service to know the stop")


def test_views_that_do_not_catch_up_in_time_are_shown_as_they_are(
    edge: Edge, views: Views, line: str
) -> None:
    path = f"/v1/execution/{line}"
    views.crash()
    least = {"ledger-min-position": str(views.position)}
    assert_problem(edge.get(path, headers=least), 503, "behind")
    found = edge.get(path)
    assert (found.status_code, found.headers["ledger-position"]) == (200, str(views.position - 1))


def test_a_404_has_the_position_of_the_views_that_were_read(edge: Edge, views: Views) -> None:
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger.projection SET position = 5")
        try:
            views.crash()
            until(lambda: views.reported.due(None) == 4, "the service to give up waiting", 10.0)
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
            views.restore()
