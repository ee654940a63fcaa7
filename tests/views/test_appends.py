"""Appends that come close together share a round; an append that comes alone is not delayed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ledger.postgres.pipeline import Pipeline, Statement
from ledger.views import appends
from ledger.views.appends import Appends


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that last so long that a test which meets one to its end is seen to hang."""
    for name in ("_IDLE_SECONDS", "_GATHER_SECONDS", "_QUIET_SECONDS"):
        monkeypatch.setattr(appends, name, 600)


class Log:
    """Appends on one connection, heard on another."""

    def __init__(self, listening: psycopg.Connection, appending: psycopg.Connection) -> None:
        self._pipeline, self._appending = Pipeline(listening), appending
        self.heard = Appends(self._pipeline)

    def append(self, times: int = 1) -> None:
        """Notify of appends, which arrive together."""
        self._appending.execute(
            "SELECT pg_notify('ledger_events', n::text) FROM generate_series(1, %s) AS n", (times,)
        )

    def work(self) -> None:
        """A round, after which every notification has arrived that was sent before."""
        self._pipeline.run(Statement(b"SELECT 1"))


@pytest.fixture
def log(conninfo: str) -> Iterator[Log]:
    with (
        psycopg.connect(conninfo, autocommit=True) as listening,
        psycopg.connect(conninfo, autocommit=True) as appending,
    ):
        listening.execute("LISTEN ledger_events")
        yield Log(listening, appending)


def test_an_append_that_comes_alone_is_not_delayed(log: Log) -> None:
    with ThreadPoolExecutor(1) as beside:
        for _ in range(3):
            waiting = beside.submit(log.heard.wait)
            with pytest.raises(TimeoutError):
                waiting.result(0.1)
            log.append()
            assert waiting.result() == 1


def test_as_many_appends_are_awaited_as_a_round_took_and_as_came_during_it(log: Log) -> None:
    log.append()
    assert log.heard.wait() == 1
    log.append()
    log.work()
    with ThreadPoolExecutor(1) as beside:
        gathering = beside.submit(log.heard.wait)
        with pytest.raises(TimeoutError):
            gathering.result(0.1)
        log.append()
        assert gathering.result() == 2
        gathering = beside.submit(log.heard.wait)
        log.append()
        with pytest.raises(TimeoutError):
            gathering.result(0.1)
        log.append()
        assert gathering.result() == 2


def test_appends_are_not_awaited_when_none_comes_for_a_moment(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append(times=3)
    log.work()
    assert log.heard.wait() == 3
    monkeypatch.setattr(appends, "_QUIET_SECONDS", 0.001)
    log.append()
    assert log.heard.wait() == 1


def test_appends_are_not_gathered_for_ever(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(times=3)
    log.work()
    assert log.heard.wait() == 3
    monkeypatch.setattr(appends, "_GATHER_SECONDS", 0)
    log.append()
    assert log.heard.wait() == 1
