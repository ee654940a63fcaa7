"""A spool: facts on the disk, which outlive the process that reported them."""

import sqlite3
from pathlib import Path
from typing import Any

from execution_ledger import Ledger, reporter

from tests.client.background import Switch, numbers, report
from tests.client.support import Refusals, StandIn, problem
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
    stand_in.asked.clear()
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
        until(lambda: len(stand_in.asked) > 0, "an attempt")
        switch.back()
        assert ledger.flush(10.0)
    assert refusals == []
    assert numbers(stand_in)[-1] == 1


def test_a_spool_that_takes_nothing_refuses(
    stand_in: StandIn, tmp_path: Path, refusals: Refusals
) -> None:
    (tmp_path / "file").touch()
    with spooled(stand_in, tmp_path / "file", on_refused=refusals) as ledger:
        report(ledger, 1)
        assert ledger.flush(10.0) == (0, 1, 0)
    assert refusals.codes == ["spool_failed"]


def test_a_damaged_file_in_the_spool_stops_nothing(
    stand_in: StandIn, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "1.spool").write_bytes(b"no database" * 1_000)
    with spooled(stand_in, tmp_path) as first:
        report(first, 1)
        assert first.flush(10.0)
        kept = tmp_path / "2.spool"
    with sqlite3.connect(kept) as database:
        database.execute("CREATE TABLE fact (number INTEGER PRIMARY KEY, other TEXT)")
        database.execute("INSERT INTO fact VALUES (1, 'text')")
    database.close()
    with spooled(stand_in, tmp_path) as second:
        report(second, 2)
        assert second.flush(10.0)
    assert numbers(stand_in) == [1, 2]
    assert kept.exists()


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
