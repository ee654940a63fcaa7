"""Leaders by sessions: a rival waits for a leader that beats, and ends one that does not."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.engine.postgres import timing
from ledger.engine.postgres.clocks import skew
from ledger.engine.postgres.leadership import Candidate, LeadBeat, assert_alive, at_node
from tests.support.views import query, until

Session = psycopg.Connection[Any]

LOCK = 4_711_000_000_001
"""A key whose halves are both in use."""

ROW = "SELECT pid, node_id, beaten_at FROM ledger.leader WHERE loop = 'test'"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rivals and beats that wait for tenths of the usual time."""
    monkeypatch.setattr(timing, "FROZEN_SECONDS", 0.8)
    monkeypatch.setattr(timing, "BEAT_SECONDS", 0.1)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what a test has opened."""
    with ExitStack() as stack:
        yield stack


def session(opened: ExitStack, conninfo: str) -> Session:
    connection = psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row)
    return opened.enter_context(connection)


def candidate(**others: int) -> Candidate:
    """A process's attempts to lead the loop ``test``, and other loops."""
    return Candidate({"test": LOCK, **others})


def test_a_lead_that_is_left_is_not_taken_back_at_once(
    conninfo: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "LEFT_SECONDS", 0.5)
    ours, first = candidate(), session(opened, conninfo)
    assert ours.try_lead(first)
    ours.leave()
    began = time.monotonic()
    first.close()
    second = session(opened, conninfo)
    until(lambda: ours.try_lead(second), "the lead", 5.0)
    assert time.monotonic() - began >= 0.5


def test_the_next_session_leads_as_soon_as_the_leader_has_ended(
    conninfo: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "FROZEN_SECONDS", 3600.0)
    first, second = session(opened, at_node(conninfo, "a")), session(opened, conninfo)
    assert candidate().try_lead(first)
    assert query(conninfo, ROW)[0][:2] == (first.info.backend_pid, "a")
    rival = candidate()
    assert not rival.try_lead(second)
    first.close()
    until(lambda: rival.try_lead(second), "the lead")
    assert query(conninfo, ROW)[0][:2] == (second.info.backend_pid, "")


def test_a_leader_whose_process_beats_is_left_alone(
    conninfo: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twenty beats: on a machine that is busy, several come late.
    monkeypatch.setattr(timing, "FROZEN_SECONDS", 2.0)
    beat = LeadBeat(conninfo)
    beat.start()
    try:
        leader, rival = session(opened, beat.conninfo), candidate()
        assert candidate().try_lead(leader)
        second, end = session(opened, conninfo), time.monotonic() + 3.0
        # The leader waits for its statement, as in a rebuild, and its process beats.
        with psycopg.connect(conninfo) as other:
            other.execute("SELECT pg_advisory_xact_lock(1)")
            waiting = opened.enter_context(_Waiting(leader))
            while time.monotonic() < end:
                assert not rival.try_lead(second)
                waiting.thread.join(0.02)
        waiting.thread.join(5)
        assert waiting.done
        assert_alive(leader)
    finally:
        beat.stop()


class _Waiting:
    """A thread that executes a statement which waits for a lock."""

    def __init__(self, connection: Session) -> None:
        self._connection, self.done = connection, False
        self.thread = threading.Thread(target=self._wait)

    def _wait(self) -> None:
        self._connection.execute("SELECT pg_advisory_lock(1)")
        self.done = True

    def __enter__(self) -> "_Waiting":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(5)


def test_a_leader_that_does_not_beat_is_ended_and_finds_that_out(
    conninfo: str, opened: ExitStack
) -> None:
    frozen, rival, second = session(opened, conninfo), candidate(), session(opened, conninfo)
    assert candidate().try_lead(frozen)
    began = time.monotonic()
    until(lambda: rival.try_lead(second), "the lead", 5.0)
    assert time.monotonic() - began >= 0.8
    assert query(conninfo, ROW)[0][0] == second.info.backend_pid
    until(lambda: has_ended(frozen), "the end of the session")
    with pytest.raises(psycopg.OperationalError):
        frozen.execute("SELECT 1")


def has_ended(connection: Session) -> bool:
    try:
        assert_alive(connection)
    except psycopg.OperationalError:
        return True
    return False


def test_a_rival_on_an_event_loop_ends_a_frozen_leader_too(
    conninfo: str, opened: ExitStack
) -> None:
    frozen = session(opened, conninfo)
    assert candidate().try_lead(frozen)

    async def take_lead() -> bool:
        rival, end = candidate(), time.monotonic() + 5
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as second:
            while time.monotonic() < end:
                if await rival.try_lead_async(second):
                    return True
        return False

    assert asyncio.run(take_lead())
    until(lambda: has_ended(frozen), "the end of the session")


def test_reads_that_are_far_apart_prove_nothing(
    conninfo: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database may have stood still, and the leader could not beat."""
    monkeypatch.setattr(timing, "APART_SECONDS", 0.0)
    leader, rival, second = session(opened, conninfo), candidate(), session(opened, conninfo)
    assert candidate().try_lead(leader)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert not rival.try_lead(second)
    assert_alive(leader)


def test_only_the_session_of_the_row_that_holds_the_lock_is_ended(
    conninfo: str, opened: ExitStack
) -> None:
    holder, named = session(opened, conninfo), session(opened, conninfo)
    assert candidate().try_lead(named)
    named.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    # The row's session holds a lock, but not this one: a version without rows holds it.
    named.execute("SELECT pg_advisory_lock(%s)", (LOCK + 1,))
    holder.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    rival, second, end = candidate(), session(opened, conninfo), time.monotonic() + 2.0
    while time.monotonic() < end:
        assert not rival.try_lead(second)
    assert_alive(holder)
    assert_alive(named)


def test_all_loops_are_led_or_none_while_an_older_node_leads_one_of_them(
    conninfo: str, opened: ExitStack
) -> None:
    """Another version may take each loop's lock by a session of its own, and know no other."""
    old, second = session(opened, conninfo), session(opened, conninfo)
    old.execute("SELECT pg_advisory_lock(%s)", (LOCK + 1,))
    ours = candidate(other=LOCK + 1, last=LOCK + 2)
    assert not ours.try_lead(second)
    free = "SELECT pg_try_advisory_xact_lock(%s)"
    for lock, is_free in ((LOCK, True), (LOCK + 1, False), (LOCK + 2, True)):
        assert query(conninfo, free, lock) == [(is_free,)]
    assert query(conninfo, "SELECT 1 FROM ledger.leader") == []
    old.close()
    until(lambda: ours.try_lead(second), "the lead")
    led = "SELECT loop FROM ledger.leader WHERE pid = %s ORDER BY loop"
    assert query(conninfo, led, second.info.backend_pid) == [("last",), ("other",), ("test",)]
    for lock in (LOCK, LOCK + 1, LOCK + 2):
        assert query(conninfo, free, lock) == [(False,)]


def test_all_sessions_by_which_a_frozen_process_leads_are_ended_at_once(
    conninfo: str, opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version may lead each loop by a session of its own."""
    beat = LeadBeat(conninfo)
    sessions = [session(opened, beat.conninfo) for _ in range(3)]
    for number, each in enumerate(sessions):
        assert Candidate({f"test {number}": LOCK + number}).try_lead(each)
    idle, second = session(opened, beat.conninfo), session(opened, conninfo)
    rival = Candidate({f"test {number}": LOCK + number for number in range(3)})
    until(lambda: rival.try_lead(second), "the lead", 10.0)
    assert caplog.text.count("was frozen") == 1
    until(lambda: all(has_ended(each) for each in sessions), "the end of the sessions")
    assert_alive(idle)


class FrozenBeat(LeadBeat):
    """A beat whose process freezes when it has written the rows, and not committed."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo)
        self.freezes, self.thaws = threading.Event(), threading.Event()

    def beat(self, connection: Session) -> None:
        with connection.transaction():
            super().beat(connection)
            self.freezes.set()
            self.thaws.wait(30)


def test_a_process_that_freezes_within_a_beat_keeps_no_rival_from_the_lead(
    conninfo: str, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "HELD_SECONDS", 1)
    monkeypatch.setattr(timing, "FROZEN_SECONDS", 1.5)
    beat, rival, second = FrozenBeat(conninfo), candidate(), session(opened, conninfo)
    second.execute("SET lock_timeout = '8s'")
    assert candidate().try_lead(session(opened, beat.conninfo))
    beat.start()
    try:
        assert beat.freezes.wait(10)
        until(lambda: rival.try_lead(second), "the lead", 10.0)
    finally:
        beat.thaws.set()
        beat.stop()


def test_a_beat_is_of_living_sessions_of_the_own_process_only(
    conninfo: str, opened: ExitStack
) -> None:
    beat = LeadBeat(conninfo)
    ours, ended, theirs = (
        session(opened, where) for where in (beat.conninfo, beat.conninfo, conninfo)
    )
    for number, connection in enumerate((ours, ended, theirs)):
        assert Candidate({f"test {number}": LOCK + number}).try_lead(connection)
    rows = "SELECT beaten_at FROM ledger.leader WHERE loop LIKE 'test %' ORDER BY loop"
    ended.close()
    gone = f"SELECT 1 FROM pg_locks WHERE objid = {(LOCK + 1) & 0xFFFFFFFF}"
    until(lambda: not query(conninfo, gone), "the end of the session")
    before = query(conninfo, rows)
    beat.start()
    try:
        until(lambda: query(conninfo, rows)[0] > before[0], "a beat")
        assert query(conninfo, rows)[1:] == before[1:]
    finally:
        beat.stop()


def test_a_beat_goes_on_after_its_connection_was_lost(conninfo: str, opened: ExitStack) -> None:
    beat = LeadBeat(conninfo)
    assert candidate().try_lead(session(opened, beat.conninfo))
    beat.start()
    try:
        end = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE application_name = 'ledger beat' AND datname = current_database()"""
        until(lambda: query(conninfo, end) == [(True,)], "the end of the connection")
        before = query(conninfo, ROW)[0][2]
        until(lambda: query(conninfo, ROW)[0][2] > before, "a beat")
    finally:
        beat.stop()


def test_a_clock_that_is_wrong_is_corrected_by_that_of_the_database(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, right = LeadBeat(conninfo), datetime(2026, 4, 15, tzinfo=UTC)
    corrected = beat.corrected(lambda: right)
    assert corrected() == right
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    beat.start()
    try:
        until(lambda: abs(corrected() - (right - timedelta(hours=1))) < timedelta(seconds=1), "it")
        monkeypatch.setattr(time, "time", real)
        until(lambda: corrected() == right, "the right clock")
    finally:
        beat.stop()


@pytest.mark.parametrize(
    ("sent_at", "at", "answered_at", "ahead"),
    [(10, 10, 11, 0), (10, 11, 11, 0), (10, 7, 11, 3), (10, 15, 11, -4), (70, 40, 10, 0)],
)
def test_the_skew_is_what_the_instants_around_a_statement_prove(
    sent_at: float, at: float, answered_at: float, ahead: float
) -> None:
    assert skew(sent_at, at, answered_at) == ahead
