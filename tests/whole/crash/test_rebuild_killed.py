"""Rebuilds of a real service's views are killed half-way; reads and writes go on unharmed."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation
from tests.support.load import Load, total_hours
from tests.support.rebuilding import (
    NAMES,
    leftover_tables,
    tracking,
    verify_all,
    view,
)
from tests.support.served import LEDGER, Served, post, run_ledger, serving_at
from tests.support.views import head, query, until

_BUILDERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ledger rebuild'"


pytestmark = pytest.mark.crash


@pytest.fixture
def served(conninfo: str, tmp_path: Path) -> Iterator[Served]:
    """A service of two workers on a database that outlives it."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", **environment) as service:
        yield service


def builders(conninfo: str) -> int:
    return int(query(conninfo, _BUILDERS)[0][0])


def start_rebuild(served: Served, name: str, conninfo: str) -> "subprocess.Popen[bytes]":
    """Start a rebuild, and wait until it has connected."""
    until(lambda: builders(conninfo) == 0, "the end of the last builder")
    process = subprocess.Popen(
        [LEDGER, "projections", "rebuild", name],
        env=served.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(lambda: builders(conninfo) > 0 or process.poll() is not None, "the rebuild")
    return process


def fill(served: Served, token: str, rounds: int) -> None:
    """Make the log long enough for a kill to come half-way through a rebuild."""
    with served.client(token) as client:
        for number in range(rounds):
            lines = [activation(f"LIN-26-{number:02d}{n:04d}") for n in range(1000)]
            kind = "application/cloudevents-batch+json"
            answer = client.post("/v1/facts", json=lines, headers={"content-type": kind})
            assert answer.status_code == 200


def kill_rebuilds(served: Served, conninfo: str, token: str, rounds: int) -> None:
    with served.client(token) as client:
        assert post(client, activation(model="capacity")).status_code == 201
    fill(served, token, 4)
    seconds = {}
    for name in NAMES:
        process = start_rebuild(served, name, conninfo)
        began = time.monotonic()
        assert process.wait(60) == 0
        seconds[name] = time.monotonic() - began
    dice, halfway, pause = random.Random(), 0, threading.Event()
    with Load(served, token, name="kills") as load:
        load.await_more(20)
        for number in range(rounds):
            name = NAMES[number % len(NAMES)]
            before = tracking(conninfo)[name]
            process = start_rebuild(served, name, conninfo)
            # The kill must come at a random moment.
            pause.wait(dice.uniform(0, seconds[name]))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            halfway += process.wait(20) != 0
            load.await_more(20)
            after = tracking(conninfo)[name]
            assert after[1] in (before[1], before[1] + 1)
            assert (after[0], after[3]) == (view(name).version, False)
            until(lambda: builders(conninfo) == 0, "the end of the killed rebuild's session")
            done = run_ledger(served.environment, "projections", "rebuild", name)
            assert done.returncode == 0, done.stderr
            assert "; 0 had differed from the log." in done.stdout
            assert leftover_tables(conninfo) == []
            load.await_more(20)
    assert halfway > 0, "every rebuild had ended before its kill"
    assert set(load.statuses) <= {200, 201}, load.statuses
    assert (load.outages, load.timed_out, load.without_retry_after) == (0, 0, 0)
    assert verify_all(conninfo) == []
    with served.client(token) as client:
        assert total_hours(client) == len(load.acknowledged)


def test_rebuilds_that_are_killed_many_times_leave_views_and_service_unharmed(
    served: Served, conninfo: str, pytestconfig: pytest.Config
) -> None:
    kill_rebuilds(served, conninfo, served.token(), pytestconfig.getoption("--crash-rounds"))


def living(session: int) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if os.getsid(pid) == session and Path(f"/proc/{pid}/cmdline").read_bytes() != b"":
                found.append(pid)
    return found


def test_no_process_lives_on_when_the_command_alone_is_killed(
    served: Served, conninfo: str
) -> None:
    fill(served, served.token(), 2)
    process = start_rebuild(served, "run", conninfo)
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: builders(conninfo) == 0, "the end of the build", 30.0)
        until(lambda: living(process.pid) == [], "the end of its processes", 10.0)
    finally:
        for pid in living(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert run_ledger(served.environment, "projections", "rebuild", "run").returncode == 0
    assert leftover_tables(conninfo) == []


@pytest.mark.parametrize("name", NAMES)
def test_loops_killed_during_a_views_build_build_it_after_their_restart(
    conninfo: str, tmp_path: Path, name: str
) -> None:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", **environment) as served:
        token = served.token()
        with served.client(token) as client:
            assert post(client, activation(model="capacity")).status_code == 201
        fill(served, token, 6)
    query(conninfo, "UPDATE ledger.projection SET version = 0 WHERE name = %s", name)
    with serving_at(tmp_path / "data", **environment) as served, Load(served, token) as load:
        until(lambda: leftover_tables(conninfo) or tracking(conninfo)[name][1] == 2, "its tables")
        os.kill(served.loops(), signal.SIGKILL)
        load.await_more(50)
        until(lambda: tracking(conninfo)[name][0] == view(name).version, "the view", 30.0)
        until(lambda: leftover_tables(conninfo) == [], "the removal of the abandoned tables", 10.0)
        load.await_more(50)
        load.stop()
        assert set(load.statuses) <= {200, 201}
        assert (load.outages, load.timed_out) == (0, 0)
        done = run_ledger(served.environment, "projections", "verify")
        assert done.returncode == 0, done.stdout
    assert tracking(conninfo)[name][2] == head(conninfo)
