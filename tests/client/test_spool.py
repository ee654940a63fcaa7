"""A spool: facts on the disk, which outlive the process that reported them."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from execution_ledger import Ledger, reporter
from execution_ledger.cli import spooling

from tests.client.background import LINE, Switch, even_ones, numbers, report
from tests.client.elk_program import Elk
from tests.client.support import ENVIRONMENT, Refusals, StandIn, problem
from tests.support.views import until


def spooled(stand_in: StandIn, folder: Path, **more: Any) -> Ledger:
    return Ledger(stand_in.address, "elk_test", source="/tests", spool=folder, **more)


def test_a_spool_keeps_what_a_closed_client_could_not_send(
    stand_in: StandIn, switch: Switch, tmp_path: Path, caplog: Any
) -> None:
    switch.away()
    first = spooled(stand_in, tmp_path / "spool")
    report(first, *range(100))
    assert not first.close(0.0)
    assert "100 facts were not judged by the ledger, and stay in the spool." in caplog.text
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 1
    switch.back()
    stand_in.requests.clear()
    with spooled(stand_in, tmp_path / "spool") as second:
        report(second, 100)
        assert second.flush(10.0)
    assert numbers(stand_in) == list(range(101))
    assert list((tmp_path / "spool").iterdir()) == []


def test_two_processes_share_the_directory_of_a_spool(stand_in: StandIn, tmp_path: Path) -> None:
    with spooled(stand_in, tmp_path) as one, spooled(stand_in, tmp_path) as other:
        report(one, 1)
        report(other, 2)
        assert one.flush(10.0)
        assert other.flush(10.0)
        report(one, 3)
    assert sorted(numbers(stand_in)) == [1, 2, 3]


def test_a_refused_token_leaves_facts_in_the_spool(
    stand_in: StandIn, switch: Switch, tmp_path: Path, refusals: Refusals
) -> None:
    switch.answer = lambda _: problem(401, "unauthorized")
    with spooled(stand_in, tmp_path, on_refused=refusals) as ledger:
        report(ledger, 1)
        until(lambda: len(stand_in.requests) > 0, "an attempt")
        switch.back()
        assert ledger.flush(10.0)
    assert refusals == []
    assert numbers(stand_in)[-1] == 1


def test_a_spool_that_stores_nothing_refuses(
    stand_in: StandIn, tmp_path: Path, refusals: Refusals
) -> None:
    (tmp_path / "file").touch()
    with spooled(stand_in, tmp_path / "file", on_refused=refusals) as ledger:
        report(ledger, 1)
        assert ledger.flush(10.0) == (0, 1, 0)
    assert refusals.codes == ["spool_failed"]


KILLED = """
import os, sys
from execution_ledger import Ledger
ledger = Ledger(sys.argv[1], "elk_test", source="/tests", spool=sys.argv[2])
for number in range(100):
    ledger.report("execution.checked_in", "LIN-26-000001", {"n": number})
with ledger._reporter._changed:
    ledger._reporter._changed.wait_for(lambda: not len(ledger._reporter._memory))
os.kill(os.getpid(), 9)
"""


def test_a_new_client_sends_at_once_what_a_killed_process_has_left(
    stand_in: StandIn, switch: Switch, tmp_path: Path
) -> None:
    switch.away()
    command = (sys.executable, "-c", KILLED, stand_in.address, tmp_path)
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == -signal.SIGKILL
    with spooled(stand_in, tmp_path) as first, spooled(stand_in, tmp_path) as second:
        assert (first.waiting, second.waiting) == (100, 0)  # one of them takes the file
        report(first, 100)
        assert (second.flush(10.0), first.flush(0.0)) == ((0, 0, 0), (0, 0, 101))
        switch.back()
        assert first.flush(10.0) == (101, 0, 0)
    assert list(dict.fromkeys(numbers(stand_in))) == list(range(101))  # before its own
    assert list(tmp_path.iterdir()) == []


def test_the_child_of_a_fork_leaves_its_parents_files_alone(
    stand_in: StandIn, switch: Switch, tmp_path: Path
) -> None:
    left(stand_in, switch, tmp_path, *range(3))
    with spooled(stand_in, tmp_path) as ledger:
        assert ledger.waiting == 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if child == 0:
            is_new = (ledger.waiting, ledger.refused) == (0, 0)
            report(ledger, 3)
            os._exit(0 if is_new and ledger.waiting == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        switch.back()
        assert ledger.flush(10.0) == (4, 0, 0)
    assert list(dict.fromkeys(numbers(stand_in))) == [0, 1, 2, 99]


def left(stand_in: StandIn, switch: Switch, folder: Path, *of: int) -> None:
    """Leave numbered facts in a spool."""
    switch.away()
    ledger = spooled(stand_in, folder)
    report(ledger, *of)
    ledger.report("execution.checked_in", LINE, {"n": 99})
    assert not ledger.close(0.0)


def test_elk_shows_and_sends_what_is_left(
    anyone: Elk, stand_in: StandIn, switch: Switch, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(spooling, "CONNECT_SECONDS", 0.1)
    folder = tmp_path / "spool"
    assert anyone("spool", folder).code == 2
    left(stand_in, switch, folder, 1)
    left(stand_in, switch, folder)
    with spooled(stand_in, folder) as ledger:  # takes both, and keeps them
        assert [row["state"] for row in json.loads(anyone("spool", folder, "--json").out)] == [
            "in_use", "in_use",
        ]  # fmt: skip
        ledger.close(0.0)
    (first, second) = anyone("spool", folder).rows
    assert [first[1], second[1], first[3], second[3]] == ["2", "1", "left", "left"]
    assert first[0] < second[0]
    for row in (first, second):  # without a time of its own, and with one
        assert abs(datetime.fromisoformat(row[2]) - datetime.now(UTC)) < timedelta(minutes=5)
    elk = anyone.having(ELK_URL=stand_in.address, ELK_TOKEN="elk_test")
    sent = ("spool", folder, "--send")
    assert anyone(*sent).code == 4
    switch.answer = lambda _: problem(401, "unauthorized")
    assert elk(*sent).code == 4
    assert elk.having(ELK_URL="http://127.0.0.1:9")(*sent).code == 5
    switch.answer = even_ones
    with spooled(stand_in, tmp_path / "other"):
        done = elk(*sent)
    assert (done.code, done.err) == (1, "0 recorded, 0 duplicate, 3 refused\n")
    assert [row[4:] for row in done.rows] == [["invalid_state", "Odd."]] * 3
    assert done.rows[0][1:4] == ["fact-1", "execution.checked_in", LINE]
    assert elk(*sent)[:2] == (0, "")
    assert list(folder.iterdir()) == []


def test_a_damaged_file_in_the_spool_stops_nothing(
    stand_in: StandIn, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "1.spool").write_bytes(b"no database" * 1_000)
    with spooled(stand_in, tmp_path) as first:
        report(first, 1)
        assert first.flush(10.0)
        path = tmp_path / "2.spool"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE fact (number INTEGER PRIMARY KEY, other TEXT)")
        database.execute("INSERT INTO fact VALUES (1, 'text')")
    database.close()
    with spooled(stand_in, tmp_path) as second:
        report(second, 2)
        assert second.flush(10.0)
    assert numbers(stand_in) == [1, 2]
    assert path.exists()


def test_memory_stays_free_while_a_spool_waits(
    stand_in: StandIn, switch: Switch, tmp_path: Path, monkeypatch: Any, refusals: Refusals
) -> None:
    monkeypatch.setattr(reporter, "MAX_FACTS", 500)
    switch.away()
    ledger = spooled(stand_in, tmp_path, on_refused=refusals)
    for first in range(0, 2_000, 100):
        report(ledger, *range(first, first + 100))
        until(lambda: len(ledger._reporter._memory) == 0, "the spool to take facts")
    assert refusals == []
    switch.back()
    assert ledger.close(30.0)
    assert list(dict.fromkeys(numbers(stand_in))) == list(range(2_000))
