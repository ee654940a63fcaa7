"""A verification while others write: it names nothing that is sound, and holds no long snapshot."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from ledger.app.composition.verification import compare
from ledger.features.proof.tables import Difference
from ledger.features.proof.verification import derived, derived_pages
from ledger.features.proof.verification.check import check
from ledger.features.proof.verification.derived import TABLES
from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id
from tests.support.sealing import seal
from tests.support.views import query, until

# Sessions of this database that hold a snapshot now, but for this one.
HOLDING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "_NEAR", 20)
    monkeypatch.setattr(derived_pages, "_PAGE", 3)


@contextmanager
def writing(ledger: Ledger, folder: Path) -> Iterator[None]:
    """Within the block, lines, runs, ends and checkpoints are written without a pause."""
    done, written = threading.Event(), threading.Event()

    def write() -> None:
        while not done.is_set():
            line, run = new_id("LIN"), new_id("RUN")
            ledger.line(line=line)
            started = fact("run.started", run, {"service_line_id": line, "lease_seconds": 60})
            ledger.accept(started)
            ledger.accept(fact("run.completed", run))
            ledger.run(line)
            seal(ledger.conninfo, folder)
            written.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert written.wait(30)
        yield
    finally:
        done.set()
        thread.join()


def position(ledger: Ledger) -> int:
    return int(
        query(ledger.conninfo, "SELECT max(notification_id) FROM ledger.ledger_events")[0][0]
    )


def test_a_verification_among_writers_names_nothing(ledger: Ledger, folder: Path) -> None:
    for _ in range(10):
        ledger.run(ledger.line())
    seal(ledger.conninfo, folder)
    heads: list[int] = []
    found: list[Difference] = []

    def wait_for_more() -> None:
        """Between two slices the log grows, so no two pages have the same position."""
        heads.append(position(ledger))
        until(lambda: position(ledger) > heads[-1], "more events", 30.0)

    with writing(ledger, folder):
        compare(ledger.conninfo, found.append, lambda *_: None, wait_for_more)
        check(ledger.conninfo, folder, found.append, lambda *_: None)
    assert found == []
    assert len(set(heads)) > len(TABLES)


def test_no_snapshot_outlasts_a_slice(full: Ledger, folder: Path) -> None:
    held = []

    def note() -> None:
        with psycopg.connect(full.conninfo, autocommit=True) as other:
            held.extend(other.execute(HOLDING).fetchall())

    compare(full.conninfo, pytest.fail, lambda *_: None, note)
    check(full.conninfo, folder, pytest.fail, lambda *_: None, breathe=note)
    assert len(held) > len(TABLES)
    assert set(held) == {(0,)}
