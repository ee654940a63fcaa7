"""The log and the metrics of a whole service while a worker cannot be started."""

import json
import os
import re
import signal
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import httpx

from ledger.app.settings import Settings
from ledger.app.workers import run_reading_api
from ledger.engine.http.services import ApiServices
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation
from tests.support.relay import Relay
from tests.support.served import Served, post, run_ledger, serving_at
from tests.support.views import until

PROCESSES = {"supervisor", "loops", "dispatcher", "sealer", "writer", "api-1", "api-2"}


def values(served: Served, name: str) -> dict[str, float]:
    """The values of a metric by process."""
    text = httpx.get(f"{served.address}/metrics").text
    found = re.findall(rf'^{name}\{{process="([^"]+)"\}} (\S+)$', text, re.MULTILINE)
    return {process: float(value) for process, value in found}


def test_a_worker_that_cannot_start_is_logged_in_one_line_and_counted_at_each_attempt(
    conninfo: str, tmp_path: Path
) -> None:
    with closing(Relay(conninfo)) as relay:
        environment = {"LEDGER_DATABASE_URL": relay.conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
        with serving_at(
            tmp_path / "data", LEDGER_LOG_FORMAT="json", LEDGER_ACCESS_LOG="true", **environment
        ) as served:
            until(lambda: values(served, "ledger_restarts_total").keys() <= PROCESSES, "counts")
            assert set(values(served, "ledger_restarts_total").values()) == {0.0}
            relay.accepts_connections = False
            relay.cut()
            os.kill(served.api_workers()[0], signal.SIGKILL)

            def restarts() -> float:
                return sum(values(served, "ledger_restarts_total").values())

            until(lambda: restarts() >= 2, "a second attempt to start the worker", 40.0)
            relay.accepts_connections = True
            until(lambda: len(served.api_workers()) == 2, "the worker", 20.0)
            for name in ("cpu_seconds_total", "resident_memory_bytes", "start_time_seconds"):
                assert values(served, f"process_{name}").keys() == PROCESSES
        lines = [json.loads(line) for line in served.output.splitlines()]
    ended = [one["message"] for one in lines if "starting it again" in one["message"]]
    assert len(ended) == 1
    assert re.fullmatch(r"api-[12] ended; starting it again: exit -9", ended[0])
    assert [one["exception"] for one in lines if "exception" in one] == [], "no bug is told"
    requests = [one for one in lines if one["logger"] == "ledger.access"]
    assert {one["path"] for one in requests} >= {"/metrics"}


async def _fail(_: ApiServices) -> None:
    raise OSError("the database is away")


def _run_worker(_: Sequence[str]) -> int:
    ApiServices.open = _fail  # type: ignore[method-assign]
    with socket.socket() as listener:
        run_reading_api(Settings(master_key=MASTER_KEY), "postgresql://", listener, print)
    return 0


def test_a_worker_that_cannot_open_its_services_ends_with_the_error() -> None:
    """The supervisor reports the error. Uvicorn's exit once took its place: "exit 3"."""
    done = run_ledger(os.environ, entry=_run_worker)
    assert done.stderr.splitlines()[-1:] == ["OSError: the database is away"]


def test_without_the_setting_no_request_leaves_a_line(data_dir: Path) -> None:
    with (
        serving_at(data_dir, workers=1) as served,
        served.client(served.token()) as client,
    ):
        assert post(client, activation(model="capacity")).status_code == 201
        assert client.get("/v1/execution").status_code == 200
    printed = served.output.partition("Serving on")[2].splitlines()[1:]
    assert printed == []
