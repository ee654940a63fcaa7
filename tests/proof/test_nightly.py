"""The service compares stored data with the log each night (contract, Proof)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import psycopg
import pytest

from ledger.app.composition.database import prepare_database
from ledger.app.composition.verification import nightly_verification
from ledger.app.settings import Settings
from ledger.engine.log.nodes import beat
from ledger.engine.postgres import locks
from ledger.features.proof.tables import NEW, OLD, SCHEMA, TABLES, Finding, findings
from ledger.features.proof.verification import nightly
from ledger.features.proof.verification.nightly import NightlyVerification
from tests.proof.conftest import report
from tests.proof.test_check import position_at
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.ledger import Ledger
from tests.support.sealing import VAULT, seal, vandalize
from tests.support.service import Clock
from tests.support.views import led

THREE = time(3, tzinfo=None)
FIRST = datetime(2040, 1, 1, 3, 0, 1, tzinfo=UTC)
"""A second after the time of the first night."""


def night(number: int) -> datetime:
    return FIRST + timedelta(days=number)


def seventh(number: int) -> str:
    """The part of the old events that this night verifies."""
    return OLD[night(number).toordinal() % 7]


@contextmanager
def service(ledger: Ledger, folder: Path, now: datetime) -> Iterator[NightlyVerification]:
    """The loop of a service that was started, without its thread."""
    loop = nightly_verification(
        led(ledger.conninfo, "verification"), VAULT, folder, THREE, Clock(now)
    )
    try:
        yield loop
    finally:
        loop.disconnect()


def verify(ledger: Ledger, folder: Path, now: datetime) -> int:
    """One round of a service; return how many parts were compared."""
    with service(ledger, folder, now) as loop:
        return loop.run_once()


def stored(ledger: Ledger) -> dict[str, Finding]:
    with psycopg.connect(ledger.conninfo) as connection:
        return findings(connection)


@pytest.fixture
def edge(full: Ledger) -> Iterator[Edge]:
    """A service on the ledger; only the test verifies."""
    with edge_of(Settings(master_key=MASTER_KEY), full.conninfo) as edge:
        yield edge


def reported(edge: Edge) -> tuple[str, bool, float]:
    """The status, True if the log differs, and the number of differences in the metrics."""
    ready, metrics = edge.get("/readyz").json(), edge.get("/metrics").text
    (line,) = [row for row in metrics.splitlines() if row.startswith("ledger_verify_differences ")]
    return ready["status"], ready["log"]["differs"], float(line.split()[1])


def test_a_night_compares_what_is_new_a_seventh_of_the_old_the_tables_and_the_schema_once(
    full: Ledger, folder: Path
) -> None:
    assert verify(full, folder, night(0)) == 4
    found = stored(full)
    assert found.keys() == {NEW, seventh(0), TABLES, SCHEMA}
    new = found[NEW]
    assert (new.first, new.last, new.compared) == (
        position_at(full, 0),
        position_at(full, 600),
        601,
    )
    assert (new.started_at, new.ended_at) == (night(0), night(0))
    assert found[TABLES].last == position_at(full, 600)
    assert {finding.differences for finding in found.values()} == {0}
    assert verify(full, folder, night(0) + timedelta(hours=23)) == 0, "also after a restart"
    assert verify(full, folder, night(1)) == 4
    assert stored(full).keys() == {NEW, seventh(0), seventh(1), TABLES, SCHEMA}


def test_a_ledger_waits_for_its_first_night(full: Ledger, folder: Path) -> None:
    (row,) = full.rows("SELECT applied_at FROM ledger.migration WHERE name = '0001_ledger.sql'")
    started = row["applied_at"]
    before = (started - timedelta(hours=1)).time().replace(tzinfo=None)
    loop = nightly_verification(
        led(full.conninfo, "verification"),
        VAULT,
        folder,
        before,
        Clock(started),
    )
    assert loop.run_once() == 0
    loop.disconnect()
    assert stored(full) == {}
    assert verify(full, folder, started + timedelta(days=1)) == 4


def test_later_nights_compare_only_the_new_events_and_the_tile_that_has_the_last_one(
    full: Ledger, folder: Path
) -> None:
    verify(full, folder, night(0))
    report(full, full.line("capacity"), 10)
    seal(full.conninfo, folder)
    verify(full, folder, night(1))
    new = stored(full)[NEW]
    assert (new.first, new.compared) == (position_at(full, 512), 612 - 512)


def test_the_older_events_are_compared_within_seven_nights(
    full: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "_TOGETHER", 1)
    verify(full, folder, night(0))
    at = position_at(full, 300)
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET topic = 'execution.idle/1' WHERE notification_id = {at}",
    )
    compared = 0
    for number in range(1, 8):
        verify(full, folder, night(number))
        compared += stored(full)[seventh(number)].compared
    assert compared == 601
    (differs,) = [
        part for part, finding in stored(full).items() if part in OLD and finding.differences
    ]
    assert differs == OLD[1], "the events 256 to 511 are the second tile"
    assert stored(full)[differs].named == [
        {"table": "ledger_events", "key": f"notification_id={at}", "column": "topic"}
    ]


def test_a_difference_degrades_the_service_until_the_part_is_compared_without_one(
    full: Ledger, folder: Path, edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    assert reported(edge) == ("ok", False, 0)
    moved = "UPDATE ledger.line_activity SET open_runs = open_runs {} 1"
    vandalize(full.conninfo, moved.format("+"))
    verify(full, folder, night(0))
    assert reported(edge) == ("degraded", True, 1)
    assert "stored data differ from the log, 1 times (tables)" in caplog.text
    (line,) = full.rows("SELECT line_id FROM ledger.line_activity")
    assert stored(full)[TABLES].named == [
        {"table": "line_activity", "key": f"line_id={line['line_id']}", "column": "open_runs"}
    ]
    vandalize(full.conninfo, moved.format("-"))
    assert reported(edge) == ("degraded", True, 1)
    verify(full, folder, night(1))
    assert reported(edge) == ("ok", False, 0)


def test_an_altered_function_degrades_the_service_until_it_is_mended(
    full: Ledger, folder: Path, edge: Edge
) -> None:
    vandalize(full.conninfo, "ALTER FUNCTION ledger.log_end() RESET ALL")
    verify(full, folder, night(0))
    assert stored(full)[SCHEMA].named == [{"table": "function", "key": "log_end()", "column": None}]
    assert reported(edge) == ("degraded", True, 1)
    prepare_database(Settings(master_key=MASTER_KEY), full.conninfo)
    assert reported(edge) == ("ok", False, 0)


def test_the_schema_waits_while_a_node_of_another_version_runs(full: Ledger, folder: Path) -> None:
    with psycopg.connect(full.conninfo, autocommit=True) as connection:
        beat(connection, "0" * 16, "0.0.9", "all", None)
    assert verify(full, folder, night(0)) == 3
    assert SCHEMA not in stored(full)
    # A beat of the future is of no node.
    vandalize(full.conninfo, "UPDATE ledger.node SET beaten_at = now() + interval '1 year'")
    assert verify(full, folder, night(0)) == 1
    assert stored(full)[SCHEMA].differences == 0


def test_a_part_that_differs_is_compared_again_at_the_next_start(
    full: Ledger, folder: Path, edge: Edge
) -> None:
    moved = "UPDATE ledger.line_activity SET open_runs = open_runs {} 1"
    vandalize(full.conninfo, moved.format("+"))
    noon = night(0) + timedelta(hours=9)
    with service(full, folder, noon) as loop:
        assert loop.run_once() == 4
        vandalize(full.conninfo, moved.format("-"))
        assert loop.run_once() == 0, "the service goes on"
    assert reported(edge)[1]
    assert verify(full, folder, noon) == 1
    assert not reported(edge)[1]


def test_new_events_that_differ_stay_new(full: Ledger, folder: Path) -> None:
    vandalize(full.conninfo, "UPDATE ledger.checkpoint SET number = 7 WHERE size = 601")
    verify(full, folder, night(0))
    report(full, full.line("capacity"), 10)
    verify(full, folder, night(1))
    assert stored(full)[NEW].first == position_at(full, 0)
    vandalize(full.conninfo, "UPDATE ledger.checkpoint SET number = 3 WHERE size = 601")
    verify(full, folder, night(2))
    assert (stored(full)[NEW].first, stored(full)[NEW].differences) == (position_at(full, 0), 0)
    verify(full, folder, night(3))
    assert stored(full)[NEW].first > position_at(full, 0)


def test_all_differences_are_counted_and_the_first_hundred_are_named(
    full: Ledger, folder: Path
) -> None:
    vandalize(full.conninfo, "DELETE FROM ledger.identity")
    verify(full, folder, night(0))
    found = stored(full)[TABLES]
    assert (found.differences, len(found.named)) == (601, 100)


def test_a_damaged_key_of_the_log_is_a_difference(full: Ledger, folder: Path) -> None:
    vandalize(full.conninfo, "UPDATE ledger.signer SET vkey = 'a+b+c'")
    verify(full, folder, night(0))
    assert stored(full)[NEW].named == [{"table": "signer", "key": "is_only=true", "column": "vkey"}]


def test_a_service_that_stops_leaves_the_part_in_hand_for_its_next_start(
    full: Ledger, folder: Path
) -> None:
    with service(full, folder, night(0)) as loop:
        loop.start()
        loop.stop()
        assert loop.run_once() == 0
    assert stored(full) == {}
    assert verify(full, folder, night(0)) == 4


def test_two_services_on_a_database_do_not_verify_at_the_same_time(
    full: Ledger, folder: Path
) -> None:
    with psycopg.connect(full.conninfo, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (locks.SEALING["verification"],))
        assert verify(full, folder, night(0)) == 0
    assert stored(full) == {}


def test_without_a_time_of_day_nothing_is_verified(full: Ledger, folder: Path) -> None:
    loop = nightly_verification(
        led(full.conninfo, "verification"), VAULT, folder, None, Clock(night(0))
    )
    assert loop.run_once() == 0
    loop.disconnect()
    assert stored(full) == {}
