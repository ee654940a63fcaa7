"""Appends that fail: a worker finds it out by itself, says so, and goes on when they succeed."""

import time

import psycopg

from ledger.service.composition.database import prepare_database
from ledger.settings import Settings
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.views import until


def start(edge: Edge, line: str) -> int:
    """The status of a run's start, however it is answered."""
    return edge.send(fact("run.started", None, {"service_line_id": line})).status_code


def test_it_is_not_ready_once_appends_have_failed_for_ten_seconds_though_nobody_asked(
    conninfo: str, settings: Settings
) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        until(lambda: edge.get("/readyz").status_code == 200, "it to be ready", 10.0)
        with psycopg.connect(conninfo) as other:
            other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
            began = time.monotonic()
            until(lambda: edge.get("/readyz").status_code == 503, "it not to be ready", 25.0)
            assert time.monotonic() - began >= 10.0, "one append that fails is no reason"
            assert edge.get("/readyz").json()["appends"] == "failing"
            assert "ledger_appends_failing_seconds 1" in edge.get("/metrics").text
            assert edge.get(f"/v1/execution/{line}").status_code == 200, "reads go on"
        until(lambda: edge.get("/readyz").status_code == 200, "it to be ready again", 10.0)
        assert "ledger_appends_failing_seconds 0.0" in edge.get("/metrics").text


def test_a_disk_without_room_is_found_though_nobody_asked(
    conninfo: str, settings: Settings
) -> None:
    """A row changed in place was written on a full disk too. Here no file may grow for a query."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        set_for_writers(conninfo, "temp_file_limit", "0", is_ending=True)
        until(lambda: edge.get("/readyz").status_code == 503, "it not to be ready", 25.0)
        set_for_writers(conninfo, "temp_file_limit", "-1", is_ending=True)
        until(lambda: edge.get("/readyz").status_code == 200, "it to be ready again", 10.0)


def test_facts_that_are_known_already_prove_nothing(conninfo: str, settings: Settings) -> None:
    """It stayed 503 while clients sent again what had been refused, though appends succeeded."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        known = fact("run.started", None, {"service_line_id": edge.fresh()})
        assert edge.send(known).status_code == 201
        with psycopg.connect(conninfo) as other:
            other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
            until(lambda: edge.send(known).status_code == 503, "appends to fail", 10.0)

        def is_well() -> bool:
            return edge.send(known).status_code == 200 and writer.failing_seconds() == 0

        writer = edge.service.app.state.services.writer
        assert writer.failing_seconds() > 0
        until(is_well, "it to find out that appends succeed", 5.0)


def test_a_server_that_takes_no_writes_is_left_for_one_that_does(
    conninfo: str, settings: Settings
) -> None:
    """A primary that had become a standby was asked again and again, and each fact answered 500."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        set_for_writers(conninfo, "default_transaction_read_only", "on", is_ending=True)
        assert start(edge, line) == 503
        set_for_writers(conninfo, "default_transaction_read_only", "off")
        until(lambda: start(edge, line) == 201, "writes to go on", 10.0)


def set_for_writers(conninfo: str, name: str, value: str, *, is_ending: bool = False) -> None:
    """What sessions of this database begin with from now on; those that there are may be ended."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        setting = f"ALTER DATABASE {connection.info.dbname} SET {name} = {value}"
        connection.execute(setting.encode())
        if is_ending:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'ledger'"
            )
