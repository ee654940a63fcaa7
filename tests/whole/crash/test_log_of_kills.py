"""The log while database and processes are killed: at most one line a fault a minute."""

import json
import os
import re
import signal
from collections import defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.facts import activation
from tests.support.load import Load
from tests.support.served import Served, post, serving_at
from tests.support.views import until

_ENDS = re.compile(r"^over since \S+ | \((?:repetitions|times) since .*\)$")
"""The words that the log puts around a repeated fault."""


def faults_of(served: Served) -> dict[tuple[str, ...], list[float]]:
    """The instants of the lines about each fault: of a process and a logger, by its message.

    The announcements of the start are no faults.
    """
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    lines = [json.loads(text) for text in served.output.splitlines()]
    start = [line["message"].startswith("Serving on") for line in lines].index(True)
    for line in lines[start + 1 :]:
        message = _ENDS.sub("", line["message"])
        # Before the error, whose text varies, the message names the fault.
        name = re.split(r": | \(", message)
        fault = name[0] if "postponed" not in message else " ".join(name[:2])
        instant = datetime.fromisoformat(line["time"]).timestamp()
        found[line["process"], line["logger"], fault].append(instant)
    return found


def kill_and_let_recover(served: Served, load: Load, target: str) -> None:
    """Kill a process under load, and wait until facts are acknowledged again."""
    if target == "postmaster":
        os.kill(served.postmaster(), signal.SIGKILL)
    else:
        os.kill(served.api_workers()[0], signal.SIGKILL)
        until(lambda: len(served.api_workers()) == served.workers, "the worker's successor", 20.0)
    load.await_more(20)


def log_of(kills: int, data_dir: Path) -> dict[tuple[str, ...], list[float]]:
    """The lines of a service under load whose database, mostly, is killed again and again."""
    with serving_at(data_dir, LEDGER_LOG_FORMAT="json") as served:
        token = served.token()
        with served.client(token) as client:
            assert post(client, activation(model="capacity")).status_code == 201
        with Load(served, token) as load:
            for number in range(kills):
                target = "worker" if number % 3 == 1 else "postmaster"
                kill_and_let_recover(served, load, target)
    return faults_of(served)


def assert_logged_once_a_minute(faults: dict[tuple[str, ...], list[float]]) -> None:
    often = {
        fault: instants
        for fault, instants in faults.items()
        if any(later - earlier < 59 for earlier, later in pairwise(instants))
    }
    assert often == {}


def test_the_log_has_a_line_a_fault_a_minute_while_the_database_is_killed(data_dir: Path) -> None:
    faults = log_of(3, data_dir)
    logged = {(process, fault) for process, _, fault in faults}
    assert ("supervisor", "PostgreSQL ended; starting it again") in logged
    # An append may have waited until the database was back; a listener always loses it.
    assert {("api-1", "cannot follow the views"), ("api-2", "cannot follow the views")} <= logged
    assert_logged_once_a_minute(faults)


@pytest.mark.crash
def test_thirty_kills_leave_at_most_a_line_a_fault_a_minute(data_dir: Path) -> None:
    faults = log_of(30, data_dir)
    assert_logged_once_a_minute(faults)
    assert sum(map(len, faults.values())) < 200
