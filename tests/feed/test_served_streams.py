"""Streams of a real ``ledger serve``: workers that die, and a service that is stopped."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.app.processes import GRACE_SECONDS
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import LINE, activation, fact
from tests.support.served import Served, post, serving_at
from tests.support.streaming import Address, Listener
from tests.support.views import until

COUNT = 24


@pytest.fixture
def served(conninfo: str, tmp_path: Path) -> Iterator[Served]:
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", **environment) as service:
        yield service


def test_streams_survive_a_worker_by_resuming_and_end_with_the_service(served: Served) -> None:
    token = served.token()
    address = Address("127.0.0.1", served.port)
    with served.client(token) as client:
        assert post(client, activation()).status_code == 201
    listeners = [Listener(address, token).opened() for _ in range(COUNT)]
    assert open_streams(served, token) == COUNT

    # Any idle worker accepts a connection, so sometimes one worker accepts all of them.
    other, killed = sorted(served.api_workers(), key=open_files)
    os.kill(killed, signal.SIGKILL)
    # The killed worker is listed for a moment longer.
    until(lambda: len({*served.api_workers()} - {killed, other}) == 1, "a new worker")
    with served.client(token) as client:
        until(lambda: post(client, check_in()).status_code == 201, "an answer")
    broken = [listener for listener in listeners if listener.rest(1) == []]
    assert broken
    # The streams of the dead worker are no longer counted.
    assert open_streams(served, token) == COUNT - len(broken)
    for listener in broken:
        listener.close()
        again = Listener(address, token, last_event_id=listener.last_event_id)
        assert len(again.take(1)) == 1
        listeners[listeners.index(listener)] = again

    served.process.send_signal(signal.SIGTERM)
    # A clean end, not a reset; and no worker waits for its grace to pass.
    assert [listener.message() for listener in listeners] == [None] * COUNT
    assert served.process.wait(GRACE_SECONDS) == 0
    assert "graceful shutdown exceeded" not in served.output
    for listener in listeners:
        listener.close()


def open_files(pid: int) -> int:
    """The number of a process's open files; most are its streams."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def check_in() -> dict[str, object]:
    return fact("execution.checked_in", LINE, {"hours": 1})


def open_streams(served: Served, token: str) -> int:
    """The metric of open streams, over all workers."""
    with served.client(token) as client:
        text = client.get("/metrics").text
    return int(float(re.findall(r"^ledger_feed_streams (\S+)$", text, re.MULTILINE)[0]))
