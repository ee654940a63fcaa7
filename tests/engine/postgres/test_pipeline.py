"""Statements in one round trip: their rows, their errors, and waits that end."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import errors

from ledger.engine.postgres.binary import array
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pipeline import Pipeline, Statement, named
from ledger.engine.postgres.session import RoundConnection
from tests.support.embedded import folder_in_tmp
from tests.support.relay import Relay
from tests.support.views import until

TABLE = "CREATE TABLE note (number int PRIMARY KEY, word text)"
WRITE = "INSERT INTO note SELECT %(number)s::int, %(word)s::text"
ALL = Statement(b"SELECT number, word FROM note ORDER BY number")
PREPARED = Statement(
    b"SELECT count(*), min(name) FILTER (WHERE statement ~ 'FILTER') FROM pg_prepared_statements"
)


class Hasty(RoundConnection):
    """A connection that soon gives up a silent server."""

    max_wait = 2.0


@pytest.fixture
def pipeline(conninfo: str) -> Iterator[Pipeline]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(TABLE)
        yield Pipeline(connection)


def write(number: int, word: str | None = None) -> Statement:
    return named(WRITE, {"number": number, "word": word})


def test_each_statement_has_its_rows(pipeline: Pipeline) -> None:
    statement = Statement(b"SELECT unnest($1::text[]), $2::bigint", (array("text", ["a", None]), 7))
    for _ in range(2):  # prepared, and executed again
        assert pipeline.run(statement, Statement(b"SET work_mem = '5MB'"), ALL) == [
            [("a", 7), (None, 7)],
            [],
            [],
        ]
    assert pipeline.run() == []


def test_statements_of_one_run_are_one_transaction(pipeline: Pipeline) -> None:
    with pytest.raises(errors.UniqueViolation):
        pipeline.run(write(1), write(1), ALL)
    assert pipeline.run(ALL) == [[]]
    assert pipeline.run(write(1, "one"), ALL) == [[], [(1, "one")]]


def test_deferred_statements_come_before_the_statement_that_is_run(
    pipeline: Pipeline, conninfo: str
) -> None:
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("LISTEN done")
        with pipeline.transaction(write(1)) as transaction:
            transaction.defer(write(2))
            transaction.defer_beyond(Statement(b"NOTIFY done"))
            assert transaction.run(ALL) == [(1, None), (2, None)]
            transaction.defer(write(3))
            assert transaction.cursor().execute("SELECT count(*) FROM note").fetchone() == (3,)
            transaction.defer(write(4))
            assert other.execute("SELECT count(*) FROM note").fetchone() == (0,)
        assert other.execute("SELECT count(*) FROM note").fetchone() == (4,)
        assert [note.channel for note in other.notifies(timeout=30, stop_after=1)] == ["done"]


def test_sent_statements_are_executed_before_their_results_are_awaited(
    pipeline: Pipeline, conninfo: str
) -> None:
    locked = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
    results: list[Rows] = []
    with (
        psycopg.connect(conninfo, autocommit=True) as other,
        pipeline.transaction(write(1)) as work,
    ):
        work.defer(ALL, results.append)
        work.defer(Statement(b"SELECT pg_advisory_lock(4711)"))
        work.send()
        # The statements are executed although no result was awaited.
        until(lambda: other.execute(locked).rowcount == 1, "the lock")
        work.defer(write(2))
        work.send()
        work.defer(write(3))
        assert work.run(ALL) == [(1, None), (2, None), (3, None)]
        assert results == [[(1, None)]]
        work.defer(write(4))
        work.send()
        assert work.cursor().execute("SELECT count(*) FROM note").fetchone() == (4,)
        work.defer(write(5))
        work.send()
    assert pipeline.run(Statement(b"SELECT count(*) FROM note")) == [[(5,)]]


def work_and_fail(pipeline: Pipeline, where: str) -> None:
    """Run a transaction that writes the existing note 1 again, or whose block raises."""
    with pipeline.transaction(write(1 if where == "first" else 2)) as transaction:
        transaction.defer(write(3))
        transaction.defer_beyond(Statement(b"NOTIFY done"))
        if where.startswith("sent"):
            transaction.defer(write(1 if where == "sent" else 4))
            transaction.send()
        if where == "sent, block":
            raise ZeroDivisionError
        if where == "run":
            transaction.run(write(1))
        if where == "block":
            transaction.cursor()
            raise ZeroDivisionError
        transaction.defer(write(1))


def test_a_statement_deferred_beyond_the_commit_is_another_transaction(pipeline: Pipeline) -> None:
    note = b"INSERT INTO note SELECT $1::int, pg_current_xact_id()"
    with pipeline.transaction() as transaction:
        transaction.defer_beyond(Statement(note, (2,)))
        transaction.defer(Statement(note, (1,)))
    ((first, second),) = pipeline.run(Statement(b"SELECT array_agg(word) FROM note"))[0][0]
    assert first != second


@pytest.mark.parametrize(
    "where", ["first", "run", "deferred", "block", "sent", "sent, block", "sent, deferred"]
)
def test_a_failed_transaction_leaves_no_row_and_no_notification(
    pipeline: Pipeline, conninfo: str, where: str
) -> None:
    pipeline.run(write(1))
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("LISTEN done")
        with pytest.raises(
            ZeroDivisionError if where.endswith("block") else errors.UniqueViolation
        ):
            work_and_fail(pipeline, where)
        assert pipeline.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert pipeline.run(ALL) == [[(1, None)]]
        other.execute("NOTIFY done, 'by us'")
        assert [note.payload for note in other.notifies(timeout=30, stop_after=1)] == ["by us"]


def test_a_statement_that_failed_is_prepared_anew(pipeline: Pipeline) -> None:
    star = Statement(b"SELECT * FROM note")
    pipeline.run(write(1), star)
    pipeline.connection.execute("ALTER TABLE note ADD more int DEFAULT 5")
    with pytest.raises(errors.FeatureNotSupported, match="cached plan"):
        pipeline.run(star)
    assert pipeline.run(star) == [[(1, None, 5)]]


def test_the_statements_used_last_stay_prepared(pipeline: Pipeline) -> None:
    for number in range(250):
        pipeline.run(Statement(b"SELECT %d" % number), PREPARED)
    ((held, first),) = pipeline.run(PREPARED)[0]
    assert 90 < held <= 102
    assert first == "ledger2", "a statement that was used all the time was prepared anew"


def test_large_statements_with_large_results_do_not_deadlock(pipeline: Pipeline) -> None:
    """Both exceed the sockets' buffers: if each side only wrote, both would wait for ever."""
    words = [str(number) * 100 for number in range(5_000)]
    echo = Statement(b"SELECT unnest($1::text[])", (array("text", words),))
    expected = [(word,) for word in words]
    assert pipeline.run(*[echo] * 6) == [expected] * 6
    for _ in range(6):
        pipeline.send(echo)
    assert pipeline.run() == [expected] * 6


@pytest.mark.parametrize("how", ["pipeline", "psycopg"])
def test_a_notification_read_during_a_statement_ends_the_next_wait_at_once(
    pipeline: Pipeline, conninfo: str, how: str
) -> None:
    pipeline.connection.execute("LISTEN told")
    with psycopg.connect(conninfo, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        other.execute("NOTIFY told, 'x'")
        # A statement takes the notification from the socket, where no more bytes wake a wait.
        if how == "pipeline":
            pipeline.run(ALL)
        else:
            pipeline.connection.execute("SELECT 1")
        pool.submit(pipeline.wait, 60).result(30)
        waiting = pool.submit(pipeline.wait, 60)
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        other.execute("NOTIFY told, 'y'")
        waiting.result(30)


def test_a_wait_without_a_notification_ends_at_its_timeout(pipeline: Pipeline) -> None:
    pipeline.connection.execute("LISTEN told")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipeline.wait, 0.1).result(30)


def test_a_wait_ends_with_a_notification_or_with_the_connection(
    pipeline: Pipeline, conninfo: str
) -> None:
    pipeline.connection.execute("LISTEN told")
    backend = pipeline.connection.info.backend_pid
    with psycopg.connect(conninfo, autocommit=True) as other, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pipeline.wait, 60)
        other.execute("NOTIFY told, 'x'")
        waiting.result(30)
        waiting = pool.submit(pipeline.wait, 60)
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
        with pytest.raises(psycopg.OperationalError):
            waiting.result() or pipeline.wait(60)  # the first wait may not see the end


def test_a_lost_connection_raises_and_is_closed(pipeline: Pipeline, conninfo: str) -> None:
    backend = pipeline.connection.info.backend_pid
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
    with pytest.raises(psycopg.OperationalError), pipeline.transaction() as transaction:
        transaction.run(ALL)
    assert pipeline.connection.closed
    with pytest.raises(psycopg.OperationalError):
        pipeline.run(ALL)


def test_a_statement_that_ends_its_own_connection_raises(pipeline: Pipeline) -> None:
    with pytest.raises(psycopg.OperationalError):
        pipeline.run(write(1), Statement(b"SELECT pg_terminate_backend(pg_backend_pid())"), ALL)
    assert pipeline.connection.closed


def test_a_connection_that_is_ended_behind_its_last_result_raises(conninfo: str) -> None:
    with (
        folder_in_tmp(0o755) as folder,
        closing(Relay(conninfo, folder)) as relay,
        psycopg.connect(relay.conninfo, autocommit=True) as connection,
    ):
        connection.execute(TABLE)
        relay.to_end = 1
        with pytest.raises(psycopg.OperationalError), Pipeline(connection).transaction() as work:
            work.defer(write(1))
        assert connection.closed
    with psycopg.connect(conninfo) as other:
        assert other.execute("SELECT number FROM note").fetchall() == [(1,)], (
            "the transaction was committed"
        )


def test_a_statements_error_is_raised_though_the_connection_is_lost_behind_it(
    conninfo: str,
) -> None:
    with (
        folder_in_tmp(0o755) as folder,
        closing(Relay(conninfo, folder)) as relay,
        psycopg.connect(relay.conninfo, autocommit=True) as connection,
    ):
        connection.execute(TABLE)
        relay.to_end = 1
        with pytest.raises(errors.UniqueViolation):
            Pipeline(connection).run(write(1), write(1))
        assert connection.closed


def test_an_interrupted_exchange_closes_the_connection(pipeline: Pipeline) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(Statement(b"SELECT pg_sleep(30)"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pipeline.connection.closed


def test_a_silent_server_is_abandoned_in_time(conninfo: str) -> None:
    """Only a connection with a time limit gives up: without one it waits for long statements."""
    with (
        closing(Relay(conninfo)) as relay,
        Hasty.connect(relay.conninfo, autocommit=True) as connection,
    ):
        pipeline = Pipeline(connection)
        assert pipeline.run(Statement(b"SELECT 1 FROM pg_sleep(0.1)")) == [[(1,)]]
        relay.vanish()
        with pytest.raises(psycopg.OperationalError, match="in time"):
            pipeline.run(Statement(b"SELECT 1"))
        assert connection.closed
