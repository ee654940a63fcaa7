"""Writers in several processes race on the same few lines; the raw log is judged afterwards.

The sabotage tests take one guard away each and demand that the judge, or the database, notices:
so the race really reaches what the guard prevents, and the judge can really see it.
"""

from collections import Counter
from itertools import groupby

import psycopg

from ledger.log.recorder import LedgerRecorder
from tests.support.log_checker import LogChecker, check
from tests.support.racers import ForgetfulRecorder, StaleRecorder, UnlockedRecorder, race


def raced(
    conninfo: str, recorder: type[LedgerRecorder], commands: int = 1200
) -> tuple[Counter[str], LogChecker]:
    counts = race(conninfo, racers=2, commands=commands, recorder=recorder)
    return counts, check(conninfo)


def test_thousands_of_starts_race_everything_that_forbids_them_and_the_log_stays_sound(
    conninfo: str,
) -> None:
    counts = race(conninfo, racers=3, commands=4000)
    log = check(conninfo)
    assert log.findings == []
    # The race was one: much was recorded and much refused, by writers that took turns …
    assert counts["unavailable"] == 0
    assert counts["run.started done"] > 1500
    assert counts["run.started invalid_state"] > 300
    assert len(list(groupby(log.reporters))) > 100
    # … and every kind of event that a start must not coincide with was among it.
    for topic in ("paused", "resumed", "blocked", "unblocked", "idle", "active", "closed"):
        assert log.topics[f"execution.{topic}/1"] > 2, topic
    assert counts["service_line.closed done"] == log.topics["execution.closed/1"]


def test_without_the_append_lock_the_database_refuses_positions_given_twice(conninfo: str) -> None:
    counts, log = raced(conninfo, UnlockedRecorder)
    assert counts["unavailable"] > 0 or log.findings


def test_without_the_append_lock_and_unique_positions_the_judge_finds_the_damage(
    conninfo: str,
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP INDEX ledger.ledger_events_notification_id_idx")
    counts, log = raced(conninfo, UnlockedRecorder)
    assert log.findings, counts


def test_a_closing_that_does_not_look_for_open_runs_is_found(conninfo: str) -> None:
    _, log = raced(conninfo, ForgetfulRecorder)
    assert any("the line closes with" in finding for finding in log.findings), log.findings[:5]


def test_a_writer_that_trusts_its_memory_starts_runs_on_held_lines(conninfo: str) -> None:
    _, log = raced(conninfo, StaleRecorder)
    assert any("starts on a held or blocked line" in finding for finding in log.findings)
