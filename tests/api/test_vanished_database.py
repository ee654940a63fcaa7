"""A database that vanishes, comes back elsewhere, or takes no writes: every request has its end."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread

import pytest
from psycopg.conninfo import make_conninfo

from ledger.service.composition.database import prepare_database
from ledger.settings import Settings
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import fact
from tests.support.relay import Relay
from tests.support.views import until

LONGEST = 10.0
"""Seconds that a statement may take which a request waits for (contract 9)."""

SLACK = 2.0
"""What else a request takes on a busy machine."""


@contextmanager
def behind(conninfo: str, settings: Settings) -> Iterator[tuple[Edge, Relay]]:
    """A service whose database is behind a proxy."""
    with closing(Relay(conninfo)) as relay:
        made = prepare_database(settings, relay.conninfo)
        with edge_of(settings, made) as edge:
            try:
                yield edge, relay
            finally:
                relay.come_back()
                relay.cut()


def start(edge: Edge, line: str) -> int:
    """The status of a run's start, however it is answered."""
    return edge.send(fact("run.started", None, {"service_line_id": line})).status_code


class Timed(Thread):
    """A request beside others, and how long it took."""

    def __init__(self, edge: Edge, method: str, path: str, **options: object) -> None:
        super().__init__(daemon=True)
        self._asked = (edge, method, path, options)
        self.status, self.seconds = 0, 0.0
        self.start()

    def run(self) -> None:
        edge, method, path, options = self._asked
        began = time.monotonic()
        self.status = getattr(edge, method)(path, **options).status_code
        self.seconds = time.monotonic() - began


def test_every_request_ends_when_the_database_vanishes_behind_a_proxy(
    conninfo: str, settings: Settings
) -> None:
    """The proxy went on to acknowledge what was sent: statements, and connects, had no end."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh("capacity")
        relay.vanish()
        paths = [f"/v1/execution/{line}", "/v1/execution", "/v1/events", f"/v1/execution/{line}"]
        asked = [Timed(edge, "get", path) for path in paths]
        asked.append(Timed(edge, "post", f"/v1/execution/{line}/pause", json={"reason": "r"}))
        ready = [Timed(edge, "get", "/readyz") for _ in range(3)]
        for one in ready:
            one.join(LONGEST)
            assert (one.status, one.seconds < 1 + SLACK) == (503, True), one.seconds
        for one in asked:
            one.join(LONGEST + SLACK)
            assert (one.status, one.seconds < LONGEST + SLACK) == (503, True), one.seconds
        relay.come_back()
        until(lambda: edge.get("/readyz").status_code == 200, "it to be ready again", 15.0)
        until(lambda: edge.get(paths[0]).status_code == 200, "reads", 15.0)
        pause = f"/v1/execution/{line}/pause"

        def is_paused() -> bool:
            return edge.post(pause, json={"reason": "r"}).status_code in (200, 409)

        until(is_paused, "writes", 15.0)

        def shows_it() -> bool:
            return bool(edge.get(paths[0]).json()["data"]["state"] == "paused")

        until(shows_it, "the views", 15.0)


def test_writes_go_on_soon_after_a_proxy_swallowed_a_connect(
    conninfo: str, settings: Settings
) -> None:
    """The one connection of writes was waited for, for 131 seconds."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.swallows = True
        relay.cut()
        assert start(edge, line) == 503
        assert_problem(edge.get("/v1/execution"), 503, "unavailable")
        relay.come_back()
        until(lambda: start(edge, line) == 201, "writes to go on", 10.0)
        until(lambda: edge.get("/readyz").status_code == 200, "it to be ready again", 5.0)


def test_views_are_followed_again_though_the_proxy_never_said_that_the_connection_was_lost(
    conninfo: str, settings: Settings
) -> None:
    """Each write waited for two seconds for the word of views that had reached it long ago."""
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.vanish()
        relay.come_back()
        until(lambda: start(edge, line) == 201, "writes to go on", 25.0)

        def is_quick() -> bool:
            began = time.monotonic()
            return start(edge, line) == 201 and time.monotonic() - began < 1.0

        until(is_quick, "the word of views", 25.0)


def test_a_slow_way_to_the_database_is_no_vanished_one(conninfo: str, settings: Settings) -> None:
    with behind(conninfo, settings) as (edge, relay):
        line = edge.fresh()
        relay.delay = 0.05
        assert start(edge, line) == 201
        assert edge.get(f"/v1/execution/{line}").json()["data"]["open_runs"] == 1
        relay.delay = 0.0


def test_an_append_that_hangs_in_one_of_its_later_statements_ends(
    conninfo: str, settings: Settings
) -> None:
    """The closing of a line asks for its open runs in a statement of its own."""
    with behind(conninfo, settings) as (edge, relay):
        line, other = edge.fresh(), edge.fresh()
        relay.vanish_at = b"started_at FROM ledger.open_run"
        began = time.monotonic()
        closing_it = edge.send(fact("service_line.closed", line))
        assert (closing_it.status_code, time.monotonic() - began < LONGEST + SLACK) == (503, True)
        relay.vanish_at = None
        relay.come_back()
        until(lambda: start(edge, other) == 201, "writes to go on", 20.0)


def test_a_url_that_asks_for_a_server_to_write_to_is_served(
    conninfo: str, settings: Settings
) -> None:
    """The sessions of reads begin read-only, so libpq took the primary for a standby."""
    asked = make_conninfo(conninfo, target_session_attrs="read-write")
    with edge_of(settings, prepare_database(settings, asked)) as edge:
        assert start(edge, edge.fresh()) == 201


@pytest.mark.parametrize("value", ["any", "primary", "prefer-standby"])
def test_other_wishes_for_a_server_stay(conninfo: str, settings: Settings, value: str) -> None:
    made = prepare_database(settings, make_conninfo(conninfo, target_session_attrs=value))
    assert f"target_session_attrs={value}" in made
