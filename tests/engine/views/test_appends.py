"""Appends that come close together share a round; an append that comes alone is not delayed."""

from collections import deque
from collections.abc import Iterator

import psycopg
import pytest

from ledger.engine.postgres.pipeline import Pipeline
from ledger.engine.views import projector
from ledger.engine.views.projector import Appends

APPEND = "SELECT pg_notify('ledger_events', n::text) FROM generate_series(1, %s) AS n"


class Log(Pipeline):
    """A pipeline that receives appends; ``coming`` has the number of appends for each wait."""

    def __init__(self, listening: psycopg.Connection, appending: psycopg.Connection) -> None:
        super().__init__(listening)
        self._appending = appending
        self.coming = deque[int]()

    def wait(self, seconds: float) -> int:
        """Make the next number of appends, and receive them. A wait without a number fails."""
        times = self.coming.popleft()
        self._appending.execute(APPEND, (times,))
        return super().wait(60 if times else 0)


@pytest.fixture
def log(conninfo: str) -> Iterator[Log]:
    with (
        psycopg.connect(conninfo, autocommit=True) as listening,
        psycopg.connect(conninfo, autocommit=True) as appending,
    ):
        listening.execute("LISTEN ledger_events")
        yield Log(listening, appending)


def count_appends(waiting: Appends, log: Log, *coming: int) -> int:
    """The number of appends that one call receives, in a wait for each number of ``coming``."""
    log.coming.extend(coming)
    count = waiting.wait()
    assert not log.coming
    return count


@pytest.fixture(autouse=True)
def long_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "_GATHER_SECONDS", 600)


def test_an_append_that_comes_alone_is_not_delayed(log: Log) -> None:
    waiting = Appends(log)
    for _ in range(3):
        assert count_appends(waiting, log, 0, 1) == 1


def test_as_many_appends_are_awaited_as_a_round_took_and_as_came_during_it(log: Log) -> None:
    waiting = Appends(log)
    assert count_appends(waiting, log, 0, 1) == 1
    assert count_appends(waiting, log, 1, 1) == 2
    assert count_appends(waiting, log, 0, 1, 1) == 2
    assert count_appends(waiting, log, 1, 1, 1) == 3


def test_appends_are_not_awaited_when_none_comes_for_a_moment(log: Log) -> None:
    waiting = Appends(log)
    assert count_appends(waiting, log, 3) == 3
    assert count_appends(waiting, log, 0, 1, 0) == 1
    assert count_appends(waiting, log, 0, 1) == 1


def test_appends_are_not_gathered_for_ever(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Appends(log)
    assert count_appends(waiting, log, 3) == 3
    monkeypatch.setattr(projector, "_GATHER_SECONDS", 0)
    assert count_appends(waiting, log, 0, 1) == 1


def test_nothing_is_gathered_while_no_append_comes(log: Log) -> None:
    assert count_appends(Appends(log), log, 0, 0) == 0
