"""A real ``ledger serve``: how it starts, refuses to start, answers and stops."""

import contextlib
import os
import random
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.app import children as children_module
from ledger.app.cli.arguments import main
from ledger.app.features import projections
from ledger.app.supervisor import address_of
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import LINE, activation, encode, fact
from tests.support.load import Load, recorded
from tests.support.log_checker import check
from tests.support.relay import Relay
from tests.support.served import (
    STRUCTURED,
    Installed,
    Served,
    connections,
    descriptors,
    free_port,
    is_refused,
    post,
    run_ledger,
    serving_at,
)
from tests.support.views import until, view_positions

READERS = 6

# Prints every module of ours that a child of the supervisor loads.
TELLING = """
import multiprocessing, os, sys

class Telling:
    def find_spec(name, *_):
        process = multiprocessing.current_process().name
        if process.startswith("ledger-") and name.startswith(("ledger.", "projections.")):
            os.write(2, f"{process} loads {name}\\n".encode())

sys.meta_path.insert(0, Telling)

from ledger.app.cli.arguments import main
sys.exit(main())
"""


@pytest.fixture
def served(conninfo: str, tmp_path: Path) -> Iterator[Served]:
    """A service of two workers on a database that outlives it."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", **environment) as service:
        yield service


def clients_of_both_workers(served: Served, token: str) -> list[httpx.Client]:
    """Enough connections that each worker holds at least two."""
    clients: list[httpx.Client] = []
    for _ in range(64):
        clients.append(served.client(token))
        assert clients[-1].get("/healthz").status_code == 200
        if len(clients) >= 8 and min(connections(served).values()) >= 2:
            return clients
    raise AssertionError(f"one worker takes no connections: {connections(served)}")


@pytest.mark.parametrize("pairs", [12, pytest.param(600, marks=pytest.mark.crash)])
def test_a_read_after_a_write_sees_it_on_any_worker(served: Served, pairs: int) -> None:
    token = served.token()
    clients = clients_of_both_workers(served, token)
    assert post(clients[0], activation()).status_code == 201
    stale: list[str] = []
    # Two threads that use one client at once may close each other's connection.
    locks = {client: threading.Lock() for client in clients}

    def write_and_read(number: int) -> None:
        dice = random.Random(number)
        for pair in range(pairs // READERS):
            run = f"RUN-26-{(number + 1) * 100_000 + pair:06d}"
            kinds = (("run.started", "running"), ("run.completed", "completed"))
            kind, expected = kinds[0]
            data = {"service_line_id": LINE}
            for kind, expected in kinds:
                client = dice.choice(clients)
                with locks[client]:
                    written = post(client, fact(kind, run, data, source=f"/{number}"))
                assert written.status_code == 201, written.text
                client = dice.choice(clients)
                with locks[client]:
                    answer = client.get(f"/v1/runs/{run}")
                status = answer.json().get("data", {}).get("status")
                if status != expected:
                    stale.append(f"{run} is {status}, not {expected}")
                if int(answer.headers["ledger-position"]) < written.json()["data"]["position"]:
                    stale.append(f"{run} was read before its own position")
                data = {}

    threads = [threading.Thread(target=write_and_read, args=(n,)) for n in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    for client in clients:
        client.close()
    assert stale == []
    with served.client(token) as client:
        line = client.get(f"/v1/execution/{LINE}").json()["data"]
    assert line["metrics"]["invocations_total"] == pairs
    assert line["open_runs"] == 0


def by_sigterm(served: Served) -> None:
    served.process.terminate()


def by_ctrl_c(served: Served) -> None:
    """Send SIGINT to every process of the group, as a terminal does."""
    os.killpg(served.process.pid, signal.SIGINT)


def by_a_hang_up(served: Served) -> None:
    """Send SIGHUP to every process of the group, as a closing terminal does."""
    os.killpg(served.process.pid, signal.SIGHUP)


@pytest.mark.parametrize("stop", [by_sigterm, pytest.param(by_a_hang_up, marks=pytest.mark.crash)])
def test_a_stop_under_load_lets_accepted_requests_finish_and_leaves_no_process(
    served: Served, conninfo: str, stop: Callable[[Served], None]
) -> None:
    token = served.token()
    with served.client(token) as client:
        assert post(client, activation(model="capacity")).status_code == 201
    with Load(served, token, threads=8, reads=False) as load:
        load.await_more(200)
        stop(served)
        assert served.process.wait(20) == 0
        assert served.processes() == []
    assert sorted(recorded(conninfo)) == sorted(load.acknowledged), (
        "a fact was recorded but never answered"
    )
    assert set(load.statuses) <= {201, 503}
    assert check(conninfo).findings == []
    assert "Traceback" not in served.output


def test_a_stop_refuses_new_connections_and_answers_requests_that_have_begun(
    served: Served,
) -> None:
    headers = {"authorization": f"Bearer {served.token()}", **STRUCTURED}
    body = encode(activation())
    with contextlib.closing(HTTPConnection("127.0.0.1", served.port, timeout=20)) as client:
        client.putrequest("POST", "/v1/facts")
        for name, value in (headers | {"content-length": str(len(body))}).items():
            client.putheader(name, value)
        client.endheaders(body[:-1])
        by_a_hang_up(served)
        until(lambda: is_refused(served), "refusals")
        client.send(body[-1:])
        assert client.getresponse().status == 201
    assert served.process.wait(20) == 0


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("name", "http://name:80")],
)
def test_the_printed_address_is_a_url(host: str, address: str) -> None:
    assert address_of(host, 80) == address


def children(served: Served) -> list[int]:
    """The supervisor's children that are at work: each has set its name by then."""
    return served.named(b"ledger-")


def is_ready(served: Served) -> bool:
    """True if a worker answers that the service can be used."""
    try:
        return httpx.get(f"{served.address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_supervisor_has_one_thread_and_its_children_hold_none_of_its_files(
    data_dir: Path,
) -> None:
    with Installed(data_dir, free_port()) as served:
        supervisor = served.process.pid
        held = descriptors(supervisor)
        sockets = {name for name in held if name.startswith("socket:")}
        (loops,) = served.named(b"ledger-loops")
        (listener,) = sockets - {*descriptors(served.writer()), *descriptors(loops)}
        (lock,) = {name for name in held if name.endswith("/owner.lock")}
        for _ in range(2):
            until(lambda: len(children(served)) == 6, "the children")
            assert len(os.listdir(f"/proc/{supervisor}/task")) == 1
            assert sockets == {n for n in descriptors(supervisor) if n.startswith("socket:")}
            workers = set(served.named(b"ledger-api"))
            assert len(workers) == 2
            first = children(served)
            for pid in first:
                assert lock not in descriptors(pid)
                assert (listener in descriptors(pid)) == (pid in workers)
                writes = pid in workers or pid == served.writer()
                assert (sockets - {listener} <= descriptors(pid)) == writes
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            until(lambda killed=first: not {*killed} & {*served.processes()}, "their end")
        until(lambda: len(children(served)) == 6 and is_ready(served), "answers")


def test_the_supervisor_loads_all_code_so_that_a_child_starts_at_once(
    conninfo: str, tmp_path: Path
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    service = Served(tmp_path / "data", free_port(), workers=1, **environment)
    service.command = (sys.executable, "-c", TELLING)
    with service, service.client(service.token()) as client:
        assert post(client, activation()).status_code == 201
        assert client.get(f"/v1/execution/{LINE}").status_code == 200
    assert [line for line in service.output.splitlines() if " loads " in line] == []


def test_a_killed_supervisors_processes_end_and_a_new_service_can_start_at_once(
    data_dir: Path,
) -> None:
    with serving_at(data_dir, workers=1) as served:
        left = {*children(served), served.postmaster()}
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        with serving_at(served.data_dir, workers=1) as following:
            assert is_ready(following)
            until(lambda: not left & {*served.processes()}, "the end of the old processes")


@pytest.mark.crash
def test_a_database_that_cannot_restart_is_tried_until_it_can(data_dir: Path) -> None:
    """As with a full disk: once there is room, the service recovers without an operator."""
    with serving_at(data_dir, workers=1) as served:
        control = served.data_dir / "postgres" / "global" / "pg_control"
        control.rename(control.with_name("away"))
        os.kill(served.postmaster(), signal.SIGKILL)
        until(lambda: "could not open file" in served.output, "the database's error")
        assert httpx.get(f"{served.address}/healthz").status_code == 200
        assert not is_ready(served)
        control.with_name("away").rename(control)
        until(lambda: is_ready(served), "answers")
    assert served.process.returncode == 0
    assert "Traceback" not in served.output


def test_the_metrics_add_up_the_counts_of_all_workers(served: Served) -> None:
    clients = clients_of_both_workers(served, served.token())
    requests = sum(
        client.get("/healthz").status_code == 200 for client in clients for _ in range(5)
    )
    assert {client.get("/v1/nothing").status_code for client in clients} == {404}
    metrics = clients[0].get("/metrics").text
    for client in clients:
        client.close()
    refused = 'ledger_http_request_seconds_count{method="GET",status="404"}'
    assert f"{refused} {float(len(clients))}" in metrics.splitlines()
    assert not re.search('route=[^}]*status="40[0145]"', metrics)
    counted = re.search(r'seconds_count\{[^}]*route="/healthz"[^}]*\} (\S+)', metrics)
    assert counted is not None, metrics
    # Each connection sent a first request when it was opened.
    assert float(counted[1]) == requests + len(clients)
    # The files are in memory: on a full disk, a write into a mapped file kills its process.
    held = {name for pid in served.api_workers() for name in descriptors(pid)}
    folders = {Path(name).parent for name in held if name.endswith(".db")}
    assert {folder.parent for folder in folders} == {Path("/dev/shm")}
    served.end()
    assert not any(folder.exists() for folder in folders)


def test_a_key_near_the_databases_files_is_reported_and_a_key_elsewhere_is_not(
    data_dir: Path, folder: Path
) -> None:
    elsewhere = folder / "key"
    elsewhere.write_text(MASTER_KEY)
    elsewhere.chmod(0o600)
    alone: dict[str, Any] = {"workers": 1, "role": "api"}
    with serving_at(data_dir, LEDGER_MASTER_KEY_FILE=str(elsewhere), **alone) as served:
        assert "master key" not in served.output
    key = data_dir / "key"
    key.write_text(MASTER_KEY)
    key.chmod(0o600)
    with serving_at(data_dir, LEDGER_MASTER_KEY_FILE=str(key), **alone) as served:
        warning = f"The master key {key} lies beside the database's files"
        assert served.output.count(warning) == 1


def refused(tmp_path: Path, port: int, **environment: str) -> str:
    """The only line that ``ledger serve`` prints if it does not start; it exits with 1."""
    environment = {"LEDGER_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin"} | environment
    done = run_ledger(environment, "serve", "--port", str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("ledger: ")
    return lines[0]


def test_an_unreachable_database_is_one_line(tmp_path: Path) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/ledger"
    line = refused(tmp_path, free_port(), LEDGER_DATABASE_URL=url, LEDGER_MASTER_KEY=MASTER_KEY)
    assert "The database cannot be used" in line


def test_another_master_key_on_existing_data_is_one_line(tmp_path: Path, conninfo: str) -> None:
    other = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": "ab" * 32}
    assert "LEDGER_MASTER_KEY" in refused(tmp_path, free_port(), **other)


def test_a_lost_key_file_on_existing_data_is_one_line(tmp_path: Path, conninfo: str) -> None:
    assert "master key" in refused(tmp_path, free_port(), LEDGER_DATABASE_URL=conninfo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[grant", "is no TOML in UTF-8"),
        ("[[grant]]\nclaim = 'a'\nvalue = 'b'\npermissions = ['reed']", "is wrong at grant.0"),
        (None, "is no file"),
    ],
    ids=["no TOML", "an unknown permission", "no file"],
)
def test_a_broken_file_of_grants_is_one_line(
    tmp_path: Path, conninfo: str, text: str | None, message: str
) -> None:
    file = tmp_path / "grants.toml"
    if text is not None:
        file.write_text(text)
    line = refused(
        tmp_path,
        free_port(),
        LEDGER_DATABASE_URL=conninfo,
        LEDGER_MASTER_KEY=MASTER_KEY,
        LEDGER_PUBLIC_URL="https://ledger.test",
        LEDGER_OIDC_ISSUER="https://id.test",
        LEDGER_OIDC_CLIENT_ID="ledger",
        LEDGER_OIDC_GRANTS=str(file),
    )
    assert "LEDGER_OIDC_GRANTS" in line
    assert message in line


def test_a_busy_port_is_one_line_and_starts_no_database(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(tmp_path, port)
    assert not (tmp_path / "data").exists()


def _give_up_soon(arguments: Sequence[str]) -> int:
    children_module.START_SECONDS = 3.0
    return main(arguments)


class Impatient(Served):
    """A service that soon gives up to start its children."""

    entry = staticmethod(_give_up_soon)


def test_a_service_with_a_worker_that_cannot_be_started_ends(conninfo: str, tmp_path: Path) -> None:
    """The service once tried for ever, while clients waited for their connections' acceptance."""
    with closing(Relay(conninfo)) as relay:
        environment = {"LEDGER_DATABASE_URL": relay.conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
        with Impatient(tmp_path / "data", free_port(), 1, **environment) as served:
            relay.accepts_connections = False
            relay.cut()
            os.kill(served.api_workers()[0], signal.SIGKILL)
            assert served.process.wait(30) == 1
            assert served.output.splitlines()[-1] == "ledger: api-1 could not be started for 3 s."
            assert served.processes() == []


@pytest.mark.crash
@pytest.mark.parametrize("stop", [by_sigterm, by_ctrl_c])
def test_the_last_writes_before_a_stop_are_shown_by_the_views(
    served: Served, conninfo: str, stop: Callable[[Served], None]
) -> None:
    token = served.token()
    with served.client(token) as client:
        assert post(client, activation(model="capacity")).status_code == 201
    with Load(served, token, threads=8, reads=False) as load:
        load.await_more(200)
        stop(served)
        assert served.process.wait(20) == 0
    last = max(load.acknowledged.values())
    positions = view_positions(conninfo)
    assert set(positions) == {view.name for view in projections()}
    assert min(position for position, _ in positions.values()) >= last


@pytest.mark.crash
def test_a_service_reports_that_it_serves_despite_a_proxy_in_its_environment(
    conninfo: str, tmp_path: Path
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    proxy = f"http://127.0.0.1:{free_port()}"
    with serving_at(tmp_path / "data", **environment, HTTP_PROXY=proxy, http_proxy=proxy):
        pass
