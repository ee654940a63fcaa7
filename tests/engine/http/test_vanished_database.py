"""A database that vanishes or moves, or a lost connection: every request is answered in time."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import pytest
from psycopg.conninfo import make_conninfo

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from tests.engine.http.test_failing_appends import start
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import fact
from tests.support.relay import Relay
from tests.support.views import until


@contextmanager
def behind(conninfo: str, settings: Settings) -> Iterator[tuple[Edge, Relay]]:
    """A service whose database is behind a proxy."""
    with closing(Relay(conninfo)) as relay:
        made = prepare_database(settings, relay.conninfo)
        with edge_of(settings, made) as edge:
            try:
                yield edge, relay
            finally:
                relay.reconnect_server()
                relay.cut()


class BackgroundRequest(Thread):
    """A request in a thread of its own; ``status`` is set once it is answered."""

    def __init__(self, edge: Edge, method: str, path: str, **options: object) -> None:
        super().__init__(daemon=True)
        self._request = (edge, method, path, options)
        self.status: int | None = None
        self.start()

    def run(self) -> None:
        edge, method, path, options = self._request
        self.status = getattr(edge, method)(path, **options).status_code


def test_every_request_ends_when_the_database_vanishes_behind_a_proxy(
    conninfo: str, settings: Settings
) -> None:
    """The proxy goes on acknowledging data, so TCP never reports the loss of the server."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh("capacity")
        relay.vanish()
        paths = [f"/v1/execution/{line}", "/v1/execution", "/v1/events", f"/v1/execution/{line}"]
        requests = [BackgroundRequest(edge, "get", path) for path in paths]
        requests.append(
            BackgroundRequest(edge, "post", f"/v1/execution/{line}/pause", json={"reason": "r"})
        )
        ready = [BackgroundRequest(edge, "get", "/readyz") for _ in range(3)]
        for request in ready:
            request.join(30)
        assert [request.status for request in ready] == [503] * 3
        assert [request.status for request in requests] == [None] * 5, (
            "``/readyz`` waits for less time than other requests"
        )
        for request in requests:
            request.join(30)
        assert [request.status for request in requests] == [503] * 5
        relay.reconnect_server()
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready again", 15.0)
        until(lambda: edge.get(paths[0]).status_code == 200, "reads", 15.0)
        pause = f"/v1/execution/{line}/pause"

        def is_paused() -> bool:
            return edge.post(pause, json={"reason": "r"}).status_code in (200, 409)

        until(is_paused, "writes", 15.0)

        def shows_the_pause() -> bool:
            return bool(edge.get(paths[0]).json()["data"]["state"] == "paused")

        until(shows_the_pause, "the views", 15.0)


def test_a_write_behind_one_that_hangs_is_answered_without_waiting_for_an_append_of_its_own(
    conninfo: str, settings: Settings
) -> None:
    """The write would wait for the group before its own, and then for a connection of its own."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        assert start(edge, line) == 201
        relay.vanish()
        writer = edge.service.app.state.services.writer
        hanging = Thread(target=start, args=(edge, line))
        hanging.start()
        until(lambda: writer.failing_seconds() > 0.2, "the append that hangs")
        began = time.monotonic()
        assert start(edge, line) == 503
        assert time.monotonic() - began < 15.0, "one after the other they would take 17 s"
        hanging.join(10)


def test_writes_go_on_soon_after_a_proxy_swallowed_an_attempt_to_connect(
    conninfo: str, settings: Settings
) -> None:
    """Without a time limit, the only connection of writes was waited for 131 seconds."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.swallows = True
        relay.cut()
        assert start(edge, line) == 503
        assert_problem(edge.get("/v1/execution"), 503, "unavailable")
        relay.reconnect_server()
        until(lambda: start(edge, line) == 201, "writes to go on", 10.0)
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready again", 5.0)


@pytest.mark.usefixtures("waits_without_end")
def test_views_are_followed_again_after_a_silent_loss_of_the_listening_connection(
    conninfo: str, settings: Settings
) -> None:
    """Until then each write waits two seconds, because the views' notifications do not arrive."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.vanish()
        relay.reconnect_server()
        # No write is answered before the views' notifications arrive again.
        until(lambda: start(edge, line) == 201, "writes to go on", 50.0)
        assert start(edge, line) == 201


def test_a_slow_connection_to_the_database_is_not_taken_for_a_lost_one(
    conninfo: str, settings: Settings
) -> None:
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.delay = 0.05
        assert start(edge, line) == 201
        assert edge.get(f"/v1/execution/{line}").json()["data"]["open_runs"] == 1
        relay.delay = 0.0


def test_an_append_that_hangs_in_one_of_its_later_statements_ends(
    conninfo: str, settings: Settings
) -> None:
    """The closing of a line reads the line's open runs in a statement of its own."""
    with behind(conninfo, settings) as (edge, relay):
        line, other = edge.fresh(), edge.fresh()
        relay.vanish_at = b"retry_of FROM ledger.open_run"
        assert_problem(edge.send(fact("service_line.closed", line)), 503, "unavailable")
        relay.vanish_at = None
        relay.reconnect_server()
        until(lambda: start(edge, other) == 201, "writes to go on", 20.0)


def test_a_url_with_target_session_attrs_read_write_is_served(
    conninfo: str, settings: Settings
) -> None:
    """The sessions of reads begin read-only, so libpq would take the primary for a standby."""
    url = make_conninfo(conninfo, target_session_attrs="read-write")
    with edge_of(settings, prepare_database(settings, url)) as edge:
        assert start(edge, edge.fresh()) == 201


@pytest.mark.parametrize("value", ["any", "primary", "prefer-standby"])
def test_other_values_of_target_session_attrs_stay(
    conninfo: str, settings: Settings, value: str
) -> None:
    made = prepare_database(settings, make_conninfo(conninfo, target_session_attrs=value))
    assert f"target_session_attrs={value}" in made
