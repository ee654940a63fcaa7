"""Rows of the log that are older than the constraint on ``recorded_at`` (contract, Health)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import psycopg
import pytest

from ledger.application.log_check import LogCheck
from ledger.postgres.session import RoundConnection
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.support.edge import edge_of
from tests.support.ledger import Ledger
from tests.support.sealing import vandalize
from tests.support.stored import DROP_CHECK
from tests.support.views import query, until

NAME = "ledger_events_recorded_at_as_stored"

CHECKED = f"SELECT convalidated FROM pg_constraint WHERE conname = '{NAME}'"


def upgrade(ledger: Ledger) -> None:
    """Add the constraint beside the rows that exist, as the migration did."""
    migration = (files("ledger.log") / "migrations" / "0017_recorded_at.sql").read_text()
    found = re.search(r"ALTER TABLE .*? NOT VALID;", migration, re.DOTALL)
    assert found is not None
    with psycopg.connect(ledger.conninfo) as connection:
        connection.execute(DROP_CHECK)
        connection.execute(found[0].encode())


def start(ledger: Ledger) -> None:
    """Check the older rows, as a service that starts."""
    LogCheck(ledger.conninfo).run_once()


@contextmanager
def delayed(ledger: Ledger) -> Iterator[None]:
    """Within the block, a check of the rows waits for a lock, as long as on a large log."""
    with psycopg.connect(ledger.conninfo) as connection:
        connection.execute("LOCK TABLE ledger.ledger_events IN SHARE UPDATE EXCLUSIVE MODE")
        yield


WAITS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE '%VALIDATE CONSTRAINT%' AND wait_event_type = 'Lock'
"""


def ready(ledger: Ledger) -> tuple[str, bool]:
    """The status that the service tells, and whether the log's rows differ."""
    with edge_of(Settings(master_key=MASTER_KEY), ledger.conninfo) as edge:
        answer = edge.get("/readyz")
    assert answer.status_code == 200
    return answer.json()["status"], answer.json()["log"]["differs"]


def test_older_rows_are_checked_at_the_first_start_after_an_upgrade(own_ledger: Ledger) -> None:
    own_ledger.line()
    upgrade(own_ledger)
    assert own_ledger.rows(CHECKED) == [{"convalidated": False}]
    start(own_ledger)
    assert own_ledger.rows(CHECKED) == [{"convalidated": True}]
    assert ready(own_ledger) == ("ok", False)


def test_a_moved_row_degrades_the_service_until_a_start_finds_it_restored(
    own_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    own_ledger.line()
    move = (
        "UPDATE ledger.ledger_events SET recorded_at = recorded_at {} interval '1 hour'"
        f" WHERE notification_id = {own_ledger.head()}"
    )
    vandalize(own_ledger.conninfo, move.format("+"))
    upgrade(own_ledger)
    start(own_ledger)
    assert "rows of the log differ from their events" in caplog.text
    assert ready(own_ledger) == ("degraded", True)
    vandalize(own_ledger.conninfo, move.format("-"))
    upgrade(own_ledger)
    start(own_ledger)
    assert ready(own_ledger) == ("ok", False)


def test_a_check_that_lasts_long_comes_to_its_end(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_ledger.line()
    upgrade(own_ledger)
    # The time limit of the loops' statements, far below the duration of this one.
    monkeypatch.setattr(RoundConnection, "patience", 0.001)
    check = LogCheck(own_ledger.conninfo)
    with delayed(own_ledger):
        check.start()
        until(lambda: query(own_ledger.conninfo, WAITS), "the check")
    until(lambda: own_ledger.rows(CHECKED) == [{"convalidated": True}], "the end of the check")
    check.stop()


def test_a_service_that_stops_does_not_wait_for_the_check(own_ledger: Ledger) -> None:
    own_ledger.line()
    upgrade(own_ledger)
    check = LogCheck(own_ledger.conninfo)
    with delayed(own_ledger):
        check.start()
        until(lambda: query(own_ledger.conninfo, WAITS), "the check")
        check.stop()
        assert query(own_ledger.conninfo, WAITS) == []
    assert own_ledger.rows(CHECKED) == [{"convalidated": False}]
    assert own_ledger.rows("SELECT * FROM ledger.verification") == []
