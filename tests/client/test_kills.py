"""Kills of the service, of a reporter and of a follower lose nothing and double nothing."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import Ledger, SqliteCursor, reporter

from tests.client.support import ENVIRONMENT, Refusals
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation
from tests.support.served import Served, is_refused
from tests.support.views import until

LINES = [f"LIN-26-{number:06}" for number in range(1, 6)]
PER_SECOND = 1_000
PER_ROUND = 1_200
"""How many facts are offered for each kill: 60,000 in the long form, in a minute."""


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often to kill; a long form gives the number by the marker."""
    return int(request.param)


def forms(short: int) -> Any:
    """The short form, and the one of ``make crash``."""
    long = pytest.param(50, marks=pytest.mark.crash)
    return pytest.mark.parametrize("rounds", [short, long], indirect=True)


def quiet_port() -> int:
    """A free port below those of outgoing connections.

    A client that comes back to any other port, while nobody listens there, may connect to itself.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError("no port is free")


@pytest.fixture
def served(conninfo: str, tmp_path: Path) -> Iterator[Served]:
    """A service that can be killed and started again, on a database that outlives it."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with Served(tmp_path / "data", quiet_port(), workers=1, **environment) as served:
        yield served


@pytest.fixture
def token(served: Served) -> str:
    token = served.token()
    with Ledger(served.address, token) as ledger:
        items = ledger.send([activation(line) for line in LINES])
    assert {item.outcome for item in items} == {"recorded"}
    return token


def is_gone(served: Served) -> bool:
    """True if all processes of the service have ended."""
    try:
        return is_refused(served) and not served.processes()
    except ConnectionResetError:
        return False


def kill(served: Served) -> None:
    """Kill all processes of the service, and start it again."""
    for pid in [served.process.pid, *served.processes()]:
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    until(lambda: is_gone(served), "the end of all processes")
    served.log.unlink()
    served.begin()
    served.await_ready()


def notes(served: Served, token: str) -> dict[str, list[int]]:
    """The numbers of the check-ins of each line, in the order of the log."""
    with Ledger(served.address, token) as ledger:
        return {
            line: [
                json.loads(row)["payload"]["note"]
                for row in ledger.events.export(service_line_id=line, type="execution.checked_in")
            ]
            for line in LINES
        }


def expected(count: int) -> dict[str, list[str]]:
    return {line: list(map(str, range(count)))[n :: len(LINES)] for n, line in enumerate(LINES)}


@forms(short=1)
def test_kills_of_the_service_lose_no_reported_fact(
    served: Served, token: str, tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 0.2)
    refusals = Refusals()
    options: dict[str, Any] = {"spool": tmp_path / "spool", "on_refused": refusals}
    clock, is_over, numbers = threading.Event(), threading.Event(), itertools.count()

    def offer(ledger: Ledger) -> None:
        """Offer facts until all kills are done, and at least so many."""
        begun = time.monotonic()
        while (number := next(numbers)) < PER_ROUND * rounds or not is_over.is_set():
            line = LINES[number % len(LINES)]
            ledger.report("execution.checked_in", line, {"note": str(number)})
            if number % 10 == 9:
                clock.wait(begun + number / PER_SECOND - time.monotonic())

    with Ledger(served.address, token, **options) as ledger:
        offering = threading.Thread(target=offer, args=(ledger,))
        offering.start()
        try:
            for _ in range(rounds):
                judged = ledger._reporter._outcomes._judged
                until(lambda judged=judged: ledger._reporter._outcomes._judged > judged, "facts")  # type: ignore[misc]
                kill(served)
        finally:
            is_over.set()
            offering.join()
        assert ledger.flush(120.0)
    assert refusals == []
    offered = next(numbers) - 1
    assert offered >= PER_ROUND * rounds
    assert notes(served, token) == expected(offered)


REPORTING = """
import sys
from execution_ledger import Ledger
address, token, spool, first = sys.argv[1:]
with Ledger(address, token, source="/killed", spool=spool) as ledger:
    number = int(first)
    while True:
        ledger.report("execution.checked_in", "LIN-26-000001", {"note": str(number)})
        number += 1
        if number % 100 == 0 and ledger.flush(60):
            print(number, flush=True)
"""


@forms(short=1)
def test_a_killed_reporter_loses_at_most_what_flush_had_not_confirmed(
    served: Served, token: str, tmp_path: Path, rounds: int
) -> None:
    first, confirmed = 0, list[int]()
    for _ in range(rounds):
        command = (sys.executable, "-c", REPORTING, served.address, token, tmp_path, str(first))
        argv = list(map(str, command))
        with (
            subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as job,
            ended(job),
        ):
            assert job.stdout is not None
            last = max(map(int, itertools.islice(job.stdout, random.randint(1, 5))))
        confirmed += range(first, last)
        first += 1_000_000
    with Ledger(served.address, token, spool=tmp_path) as ledger:
        ledger.report("execution.checked_in", LINES[0], {"note": "last"})
        assert ledger.flush(60.0)
    *noted, end = notes(served, token)[LINES[0]]
    assert end == "last"
    assert len(set(noted)) == len(noted)
    numbers = list(map(int, noted))
    assert numbers == sorted(numbers)
    assert set(confirmed) <= set(numbers)
    assert len(confirmed) >= 100 * rounds


@contextmanager
def ended(job: "subprocess.Popen[Any]") -> Iterator[None]:
    """Kill a program at the end, whatever happens."""
    try:
        yield
    finally:
        job.kill()


FOLLOWING = """
import sys
from execution_ledger import Ledger, SqliteCursor
address, token, path = sys.argv[1:]
store = SqliteCursor(path)
store.connection.execute("CREATE TABLE IF NOT EXISTS taken (id TEXT)")
with Ledger(address, token) as ledger:
    for event in ledger.events.follow(store, type="execution.checked_in"):
        store.connection.execute("INSERT INTO taken VALUES (?)", (event.id,))
"""


@forms(short=1)
def test_a_follower_gets_each_event_once_over_kills_of_either_side(
    served: Served, token: str, tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 0.2)
    path = tmp_path / "copy.db"
    sender, numbers = Ledger(served.address, token), itertools.count()
    cursor = SqliteCursor(path)

    def count_rows() -> int:
        found = cursor.connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'taken'"
        ).fetchone()[0]
        rows = "SELECT count(*) FROM taken"
        return int(cursor.connection.execute(rows).fetchone()[0]) if found else 0

    command = [sys.executable, "-c", FOLLOWING, served.address, token, str(path)]
    for number in range(rounds):
        for each in itertools.islice(numbers, 200):
            sender.report("execution.checked_in", LINES[0], {"note": str(each)})
        with subprocess.Popen(command, env=ENVIRONMENT) as follower, ended(follower):
            before = count_rows()
            until(lambda before=before: count_rows() > before, "the follower", 60.0)  # type: ignore[misc]
            if number % 2 == 0:
                kill(served)
                until(lambda before=before: count_rows() > before + 50, "the follower", 60.0)  # type: ignore[misc]
    assert sender.flush(60.0)
    ids = [event.id for event in sender.events.list(type="execution.checked_in", limit=100)]
    for event in sender.events.follow(cursor, type="execution.checked_in").up_to_now():
        cursor.connection.execute("INSERT INTO taken VALUES (?)", (event.id,))
    stored = [row for (row,) in cursor.connection.execute("SELECT id FROM taken ORDER BY rowid")]
    cursor.close()
    sender.close()
    assert stored == ids
    assert len(ids) == 200 * rounds
