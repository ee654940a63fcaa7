"""A periodic loop: one session leads it, and a round that fails does not end it."""

import threading
from typing import Any

import psycopg
import pytest

from ledger.engine.log import nodes
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.values.errors import ClockSkew, Unavailable
from ledger.engine.writer.periodic import LeaderSession, Periodic, present, sweepers_paused
from tests.support.views import led, query, until


class Stumbling(Periodic):
    """A loop whose first round fails."""

    def __init__(self, conninfo: str, error: Exception) -> None:
        super().__init__(led(conninfo, "leases"), "stumbling", 0.01)
        self._errors = [error]
        self.went_on = threading.Event()

    def work(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        if self._errors:
            raise self._errors.pop()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        self.went_on.set()
        return 0, False


class Counting(Periodic):
    """A loop that counts its rounds."""

    def __init__(self, conninfo: str, every_seconds: float = 0.05) -> None:
        super().__init__(led(conninfo, "sweeper"), "counting", every_seconds)
        self.rounds = 0

    def work(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        self.rounds += 1
        return 1, False


class Skewed(Counting):
    """A loop whose writer refuses its commands, but for the first round, because of the clock."""

    def work(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        if super().work(connection) and self.rounds > 1:
            raise ClockSkew
        return 0, False


class Timed(Counting):
    """A loop whose rounds decide by the present time."""

    def work(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        with present(connection) as is_now:
            return super().work(connection) if is_now else (0, False)


@pytest.mark.parametrize(
    "error", [OverflowError("date"), KeyError("bug"), Unavailable("busy"), psycopg.Error("lost")]
)
def test_the_loop_goes_on_after_a_round_that_fails(conninfo: str, error: Exception) -> None:
    loop = Stumbling(conninfo, error)
    loop.start()
    try:
        assert loop.went_on.wait(10)
    finally:
        loop.stop()


def test_a_loop_is_led_by_one_session_until_that_ends(conninfo: str) -> None:
    first, second = Counting(conninfo), Counting(conninfo)
    try:
        assert (first.run_once(), second.run_once(), first.run_once()) == (1, 0, 1)
        first.disconnect()
        until(lambda: second.run_once() == 1, "the lead", 5.0)
        assert first.run_once() == 0
    finally:
        first.disconnect()
        second.disconnect()


def test_a_leader_whose_session_was_ended_does_no_round_on_it(conninfo: str) -> None:
    first, second = Counting(conninfo), Counting(conninfo)
    try:
        assert first.run_once() == 1
        query(conninfo, "SELECT pg_terminate_backend(pid, 5000) FROM ledger.leader")
        assert second.run_once() == 1
        with pytest.raises(psycopg.OperationalError):
            first.run_once()
        assert first.rounds == 1
    finally:
        first.disconnect()
        second.disconnect()


def test_a_loop_whose_node_has_a_wrong_clock_leaves_the_lead_to_another(conninfo: str) -> None:
    wrong, right = Skewed(conninfo), Counting(conninfo, 1.0)
    assert wrong.run_once() == 0
    with psycopg.connect(conninfo, autocommit=True) as connection:
        nodes.beat(connection, "ab" * 8, "1", "loops", None)
    wrong.start()
    right.start()
    try:
        until(lambda: right.rounds > 0, "the other loop", 8.0)
        assert wrong.rounds == 2, "the lead was given up at once, and not taken back"
    finally:
        wrong.stop()
        right.stop()


def test_no_round_decides_by_time_during_a_story(conninfo: str) -> None:
    timed, other = Timed(conninfo), Counting(conninfo)
    try:
        with sweepers_paused(conninfo):
            assert timed.run_once() == 0
            timed.disconnect()
            until(lambda: other.run_once() == 1, "a loop that does not decide by time", 5.0)
            other.disconnect()
        until(lambda: timed.run_once() == 1, "the rounds to go on", 5.0)
    finally:
        timed.disconnect()
        other.disconnect()


def test_a_loop_whose_node_alone_may_lead_keeps_the_lead_although_its_clock_is_wrong(
    conninfo: str,
) -> None:
    """Other loops of its process need no right clock. A node of the role api leads nothing."""
    wrong = Skewed(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        nodes.beat(connection, "ab" * 8, "1", "api", None)
    assert wrong.run_once() == 0
    led_since = query(conninfo, "SELECT led_since FROM ledger.leader")
    wrong.start()
    try:
        until(lambda: wrong.rounds > 3, "more rounds")
        assert query(conninfo, "SELECT led_since FROM ledger.leader") == led_since
    finally:
        wrong.stop()


def test_the_loops_of_a_process_work_while_one_of_them_has_its_lead(conninfo: str) -> None:
    candidate = Candidate({"leading": 1, "following": 2, "beside": 3})
    leading, following, third = Counting(conninfo), Counting(conninfo), Counting(conninfo, 0.1)
    leading.session = LeaderSession(conninfo, "leading", candidate)
    following.session = LeaderSession(conninfo, "following", candidate, competes=False)
    third.session = following.session
    following.attached = (third,)
    assert following.run_once() == 0, "nobody leads"
    assert leading.run_once() == 1
    following.start()
    try:
        until(lambda: min(following.rounds, third.rounds) > 2, "their rounds")
        opened = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert query(conninfo, f"{opened} AND application_name = 'ledger following'") == [(1,)]
        leading.disconnect()
        until(
            lambda: query(conninfo, f"{opened} AND application_name ~ 'ing$'") == [(0,)], "the end"
        )
    finally:
        following.stop()


def test_a_session_between_rare_rounds_is_closed_unless_it_has_the_lead(conninfo: str) -> None:
    candidate = Candidate({"leading": 1, "following": 2})
    leading, following = Counting(conninfo, 3600), Counting(conninfo, 3600)
    leading.session = LeaderSession(conninfo, "leading", candidate)
    following.session = LeaderSession(conninfo, "following", candidate, competes=False)
    assert [leading.run_once(), following.run_once(), following.run_once()] == [1, 1, 1]
    names = "SELECT application_name FROM pg_stat_activity WHERE application_name ~ 'ing$'"
    ours = f"{names} AND datname = current_database()"
    until(lambda: query(conninfo, ours) == [("ledger leading",)], "the end of the session")
    assert candidate.leads
    leading.disconnect()
