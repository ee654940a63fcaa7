"""Processes of a pool: how a client ends with them."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import Ledger, _forks, reporter

from tests.client.background import Switch, numbers, report
from tests.client.support import Reply, Request, StandIn, accept

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let tests fork while threads run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def ledger_at(address: str, spool: Path | None = None) -> Ledger:
    return Ledger(address, "elk_test", source="/tests", spool=spool)


_shared: list[Ledger] = []


def _job(address: str, number: int) -> None:
    """A job of a pool: the client is the process's own."""
    if not _shared:
        _shared.append(Ledger(address, "elk_test", source=f"/worker-{os.getpid()}"))
    report(_shared[0], number)


def test_the_workers_of_a_pool_that_is_terminated_lose_nothing(
    stand_in: StandIn, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_ids: set[str] = set()

    def lost_at_first(request: Request) -> Reply:
        """Lose the first request of each process."""
        worker = request.json[0]["source"]
        is_new = worker not in seen_ids
        seen_ids.add(worker)
        return Reply(0) if is_new else accept(request)

    switch.answer = lost_at_first
    monkeypatch.setattr(reporter, "FIRST_PAUSE", 120.0)
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 120.0)
    with FORK.Pool(2) as pool:
        pool.starmap(_job, [(stand_in.address, number) for number in range(8)])
    assert sorted(set(numbers(stand_in))) == list(range(8))
    assert len(numbers(stand_in)) > 8


def stay() -> None:
    """Wait for a signal, and end without one as a process that is killed."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.01)
    os._exit(1)


def _handled(address: str, spool: Path, pipe: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    _left_alone(address, spool, pipe)


def _left_alone(address: str, spool: Path, pipe: Any) -> None:
    report(ledger_at(address, spool), 1, 2, 3)
    pipe.send("reported")
    stay()


def _within_c(address: str, spool: Path, pipe: Any) -> None:
    report(ledger_at(address, spool), 1, 2, 3)
    pipe.send("reported")
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(endless).fetchone()


def _within_a_fork(address: str, spool: Path, pipe: Any) -> None:
    report(ledger_at(address, spool), 1, 2, 3)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writes, b"r")
        stay()
    os.read(reads, 1)
    os.kill(child, signal.SIGTERM)
    pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stay()


@pytest.mark.parametrize(
    ("job", "errors", "code"),
    [
        (_left_alone, "reported", -signal.SIGTERM),
        (_within_c, "reported", -signal.SIGTERM),
        (_within_a_fork, -signal.SIGTERM, -signal.SIGTERM),
        (_handled, "reported", 7),
    ],
)
def test_a_terminated_child_ends_by_the_signal_after_a_bounded_flush(
    stand_in: StandIn,
    switch: Switch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Any,
    errors: Any,
    code: int,
) -> None:
    monkeypatch.setattr(_forks, "TERMINATED_SECONDS", 0.2)
    switch.away()
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=job, args=(stand_in.address, tmp_path, theirs))
    child.start()
    assert ours.poll(20)
    assert ours.recv() == errors
    child.terminate()
    child.join(20)
    assert child.exitcode == code
    if code != 7:
        (file,) = tmp_path.glob("*.spool")
        with closing(sqlite3.connect(file)) as database:
            assert database.execute("SELECT count(*) FROM fact").fetchone() == (3,)


def _handlers(address: str, pipe: Any) -> None:
    ledger = ledger_at(address)
    thread = threading.Thread(target=report, args=(ledger, 1))
    thread.start()
    thread.join()
    is_left_by_threads = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    report(ledger_at(address), 2)
    pipe.send([is_left_by_threads, signal.getsignal(signal.SIGTERM) is _forks._on_sigterm])


def test_the_signal_is_handled_only_in_the_main_thread_of_such_a_child(stand_in: StandIn) -> None:
    with ledger_at(stand_in.address) as ledger:
        report(ledger, 0)
        assert signal.getsignal(signal.SIGTERM) is not _forks._on_sigterm
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=_handlers, args=(stand_in.address, theirs))
    child.start()
    child.join(20)
    assert (ours.recv(), child.exitcode) == ([True, True], 0)
    assert sorted(numbers(stand_in)) == [0, 1, 2]
