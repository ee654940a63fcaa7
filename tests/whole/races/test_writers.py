"""Writers in several processes race on the same few lines; then the raw log is checked.

Each sabotage test removes a guard, and demands that the checker or the database finds the damage.
So the race does reach the errors that the guards prevent, and the checker does see them.
"""

from collections import Counter
from itertools import groupby

import psycopg
import pytest

from ledger.engine.log.event_log import Log
from tests.support.log_checker import LogChecker, check
from tests.support.racing_writers import ForgetfulLog, StaleLog, UnlockedLog, race


def raced(conninfo: str, kind: type[Log], commands: int = 1200) -> tuple[Counter[str], LogChecker]:
    counts = race(conninfo, racers=2, commands=commands, kind=kind)
    return counts, check(conninfo)


@pytest.mark.parametrize(
    ("commands", "started", "refused", "switches"),
    [(1200, 200, 60, 30), pytest.param(4000, 1500, 300, 100, marks=pytest.mark.soak)],
)
def test_the_log_stays_sound_when_many_starts_race_events_that_forbid_them(
    conninfo: str, commands: int, started: int, refused: int, switches: int
) -> None:
    counts = race(conninfo, racers=3, commands=commands)
    log = check(conninfo)
    assert log.findings == []
    # The writers did race: writers alternated, and many starts were recorded and many refused.
    assert counts["unavailable"] == 0
    assert counts["run.started done"] > started
    assert counts["run.started invalid_state"] > refused
    assert len(list(groupby(log.reporters))) > switches
    # Every type of event that forbids or follows a start took part in it.
    for topic in ("paused", "resumed", "blocked", "unblocked", "idle", "active", "closed"):
        assert log.topics[f"execution.{topic}/1"] > 0, topic
    assert counts["service_line.closed done"] == log.topics["execution.closed/1"]


@pytest.mark.soak
def test_without_the_append_lock_the_database_refuses_positions_given_twice(conninfo: str) -> None:
    counts, log = raced(conninfo, UnlockedLog)
    assert counts["unavailable"] > 0 or log.findings


@pytest.mark.soak
def test_without_the_append_lock_and_unique_positions_the_checker_finds_the_damage(
    conninfo: str,
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP INDEX ledger.ledger_events_notification_id_idx")
    counts, log = raced(conninfo, UnlockedLog)
    assert log.findings, counts


def test_the_checker_finds_a_closing_that_ignores_open_runs(conninfo: str) -> None:
    _, log = raced(conninfo, ForgetfulLog)
    assert any("the line closes with" in finding for finding in log.findings), log.findings[:5]


@pytest.mark.soak
def test_the_checker_finds_starts_on_held_lines_by_a_writer_with_stale_memory(
    conninfo: str,
) -> None:
    _, log = raced(conninfo, StaleLog)
    assert any("starts on a held or blocked line" in finding for finding in log.findings)
