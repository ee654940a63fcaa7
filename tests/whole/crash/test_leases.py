"""A real service is killed, stays away for an hour, and stops in peace: no run fails for it.

The hour is an hour in the database: while no process of the service lives, the instants of leases
move back.
"""

import os
import signal
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation, fact
from tests.support.log_checker import check
from tests.support.served import Served, free_port, post, serving_at
from tests.support.views import until

_LISTENED = "SELECT listened_at FROM ledger.listening"
_PROBED = "SELECT written_at FROM ledger.append_probe"

_AN_HOUR_AGO = """
WITH noted AS (UPDATE ledger.listening SET listened_at = listened_at - interval '1 hour')
UPDATE ledger.lease SET heard_at = heard_at - interval '1 hour',
    ends_at = ends_at - interval '1 hour', due_at = due_at - interval '1 hour'
"""


def value(conninfo: str, statement: str) -> Any:
    with psycopg.connect(conninfo) as connection:
        found = connection.execute(statement.encode()).fetchone()
    assert found is not None
    return found[0]


def start(client: httpx.Client, seconds: int) -> str:
    data = {"service_line_id": "LIN-26-000001", "lease_seconds": seconds}
    return str(post(client, fact("run.started", None, data)).json()["data"]["subject"])


def view(client: httpx.Client, run: str) -> dict[str, Any]:
    data: dict[str, Any] = client.get(f"/v1/runs/{run}").json()["data"]
    return data


@pytest.mark.soak
def test_an_outage_of_the_whole_service_fails_no_run_that_beats_again(
    tmp_path: Path, conninfo: str
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    port = free_port()
    with Served(tmp_path / "data", port, **environment) as served:
        token = served.token()
        with served.client(token) as client:
            assert post(client, activation("LIN-26-000001")).status_code == 201
            alive, silent = start(client, 20), start(client, 5)
            assert client.post(f"/v1/runs/{alive}/heartbeat").status_code == 204
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        until(lambda: not served.processes(), "the end of the service's processes")
        before = value(conninfo, _LISTENED)
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(_AN_HOUR_AGO.encode())

    with Served(tmp_path / "data", port, **environment) as served, served.client(token) as client:
        until(lambda: value(conninfo, _LISTENED) > before, "a node that listens")
        # The lease of each run goes on where the outage had interrupted it.
        assert client.post(f"/v1/runs/{alive}/heartbeat").status_code == 204
        until(lambda: view(client, silent)["status"] == "failed", "the end of the shorter lease")
        failed = client.get("/v1/events", params={"type": "run.failed"}).json()["data"]
        assert [event["subject"]["id"] for event in failed] == [silent]
        beat_at, at, recorded = (
            datetime.fromisoformat(text)
            for text in (
                failed[0]["payload"]["last_heard_at"],
                failed[0]["occurred_at"],
                failed[0]["recorded_at"],
            )
        )
        assert at - beat_at > timedelta(hours=1, seconds=5)
        assert timedelta(0) < recorded - at < timedelta(seconds=10)
        assert view(client, silent)["error"]["code"] == "lease_expired"
        assert view(client, alive)["status"] == "running"
        assert client.post(f"/v1/runs/{silent}/heartbeat").status_code == 409


def test_a_killed_loop_or_worker_delays_no_expiry_and_doubles_none(
    tmp_path: Path, conninfo: str
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", **environment) as served:
        token = served.token()
        with served.client(token) as client:
            assert post(client, activation("LIN-26-000001")).status_code == 201
            runs = [start(client, 5) for _ in range(20)]
            os.kill(served.loops(), signal.SIGKILL)
            os.kill(served.api_workers()[0], signal.SIGKILL)
        with served.client(token) as client:
            until(lambda: all(view(client, run)["status"] == "failed" for run in runs), "expiries")
    log = check(conninfo)
    assert log.findings == []
    assert set(log.expired) == set(runs)
    assert log.topics["run.failed/1"] == len(runs)


def test_a_stopping_worker_does_not_note_that_it_listens_while_it_ends_its_last_request(
    tmp_path: Path, conninfo: str
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", workers=1, **environment) as served:
        until(lambda: value(conninfo, _LISTENED).year > 1970, "a node that listens")
        address = ("127.0.0.1", served.port)
        head = f"POST /v1/facts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token()}\r\n"
        with socket.create_connection(address) as slow:
            slow.sendall(head.encode() + b"Content-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 9\r\n\r\n{")
            served.process.send_signal(signal.SIGTERM)
            until(lambda: _is_closed(address), "the end of listening")
            listened, probed = value(conninfo, _LISTENED), value(conninfo, _PROBED)
            until(lambda: value(conninfo, _PROBED) > probed, "an append of the stopping worker")
            assert value(conninfo, _LISTENED) == listened


def _is_closed(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False
