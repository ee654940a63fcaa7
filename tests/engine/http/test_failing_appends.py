"""Failing appends: a worker finds them by itself, reports them, and recovers with the database."""

import re

import psycopg

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.views import until


def start(edge: Edge, line: str) -> int:
    """The status of the answer to a fact that starts a run."""
    return edge.send(fact("run.started", None, {"service_line_id": line})).status_code


def test_readyz_is_503_once_appends_have_failed_for_10_s_without_any_fact(
    conninfo: str, settings: Settings
) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready", 10.0)
        with psycopg.connect(conninfo) as other:
            other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
            ready_while_failing = 0
            failing_seconds = edge.service.app.state.services.failing_seconds

            def has_failed_for_long() -> bool:
                """True if ``/readyz`` is 503. Asserts 200 until appends have failed for 10 s."""
                nonlocal ready_while_failing
                before, status = failing_seconds(), edge.get("/readyz").status_code
                after = failing_seconds()
                assert status == (503 if before >= 10 else 200) or before < 10 <= after
                ready_while_failing += before > 0 and status == 200
                return status == 503

            until(has_failed_for_long, "the worker not to be ready", 30.0)
            assert ready_while_failing > 0, "a single failed append does not make a worker unready"
            assert edge.get("/readyz").json()["appends"] == "failing"
            assert "ledger_appends_failing_seconds 1" in edge.get("/metrics").text
            assert edge.get(f"/v1/execution/{line}").status_code == 200, "reads go on"
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready again", 10.0)
        assert "ledger_appends_failing_seconds 0.0" in edge.get("/metrics").text


def failing_seconds(edge: Edge) -> float:
    """For how long appends have failed, according to the metrics."""
    text = edge.get("/metrics").text
    (seconds,) = re.findall(r"^ledger_appends_failing_seconds (\S+)$", text, re.MULTILINE)
    return float(seconds)


def test_a_full_disk_is_found_without_any_fact(conninfo: str, settings: Settings) -> None:
    """The update of a row in place succeeds on a full disk, so the probe must take room.

    Here the server refuses the writers any temporary file, in place of a full disk.
    """
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        set_for_writers(conninfo, "temp_file_limit", "0", is_ending=True)
        until(lambda: edge.get("/readyz").status_code == 503, "the worker not to be ready", 25.0)
        set_for_writers(conninfo, "temp_file_limit", "-1", is_ending=True)
        until(lambda: edge.get("/readyz").status_code == 200, "the worker to be ready again", 10.0)


def test_recovery_is_found_while_clients_send_only_duplicates(
    conninfo: str, settings: Settings
) -> None:
    """A duplicate appends nothing, so only the worker's own probe can find that appends succeed."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        begun = fact("run.started", None, {"service_line_id": edge.fresh()})
        assert edge.send(begun).status_code == 201
        with psycopg.connect(conninfo) as other:
            other.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
            until(lambda: edge.send(begun).status_code == 503, "appends to fail", 10.0)

        def is_well() -> bool:
            return edge.send(begun).status_code == 200 and failing_seconds(edge) == 0

        assert failing_seconds(edge) > 0
        until(is_well, "the worker to find that appends succeed", 5.0)


def test_writes_move_from_a_server_that_accepts_no_writes_to_a_writable_one(
    conninfo: str, settings: Settings
) -> None:
    """On its old connection the writer would get the error of a standby again for each fact."""
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        set_for_writers(conninfo, "default_transaction_read_only", "on", is_ending=True)
        assert start(edge, line) == 503
        set_for_writers(conninfo, "default_transaction_read_only", "off")
        until(lambda: start(edge, line) == 201, "writes to go on", 10.0)


def set_for_writers(conninfo: str, name: str, value: str, *, is_ending: bool = False) -> None:
    """Set a parameter for new sessions of this database; ``is_ending`` ends those of writers."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        setting = f"ALTER DATABASE {connection.info.dbname} SET {name} = {value}"
        connection.execute(setting.encode())
        if is_ending:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'ledger'"
            )
