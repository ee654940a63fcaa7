"""The writer's connection: its options, its end, and locks on the log."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from ledger.engine.log.append import Wanted
from ledger.engine.log.event_log import Log
from tests.support.relay import Relay
from tests.support.views import query, until

_WAITERS = (
    "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'ledger.append_lock'::regclass"
)


def test_options_of_the_connection_string_hold_with_the_ledgers(conninfo: str) -> None:
    log = Log(make_conninfo(conninfo, options="-c work_mem=8MB"))
    try:
        execute = log.connected().connection.execute
        names = ("work_mem", "plan_cache_mode", "enable_seqscan", "lock_timeout")
        values = [execute(f"SHOW {name}".encode()).fetchone() for name in names]
        ((idle,),) = execute("SHOW idle_in_transaction_session_timeout")
    finally:
        log.close()
    assert values == [("8MB",), ("force_generic_plan",), ("off",), ("2s",)]
    assert idle == "5s"


def test_a_connection_that_the_server_has_ended_is_not_used_again(conninfo: str) -> None:
    log = Log(conninfo)
    try:
        for _ in range(3):
            with log.append_transaction() as append:
                append.read(Wanted())
                assert append.next_position == 1
            with psycopg.connect(conninfo, autocommit=True) as other:
                ended = other.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                    " WHERE application_name = 'ledger' AND datname = current_database()"
                ).fetchone()
                assert ended == (1,)
    finally:
        log.close()


@pytest.fixture
def log(conninfo: str) -> Iterator[Log]:
    log = Log(conninfo)
    yield log
    log.close()


def next_position(log: Log) -> int:
    """The position at which an append that begins now would write."""
    with log.append_transaction() as append:
        append.read(Wanted())
        return append.next_position


def test_a_vacuum_of_the_log_and_an_append_do_not_wait_for_each_other(
    log: Log, conninfo: str
) -> None:
    """A vacuum against wraparound takes minutes, and no waiting statement cancels it."""
    with psycopg.connect(conninfo) as vacuum:
        vacuum.execute("LOCK TABLE ledger.ledger_events IN SHARE UPDATE EXCLUSIVE MODE")
        assert next_position(log) == 1
    with log.append_transaction() as append:
        append.read(Wanted())
        with psycopg.connect(conninfo, autocommit=True) as vacuum:
            vacuum.execute("SET lock_timeout = '1s'")
            vacuum.execute("VACUUM (ANALYZE) ledger.ledger_events")


def test_an_append_waits_until_another_writers_append_has_ended(log: Log, conninfo: str) -> None:
    another = Log(conninfo)
    try:
        with ThreadPoolExecutor() as others:
            with log.append_transaction() as append:
                append.read(Wanted())
                found = others.submit(next_position, another)
                until(lambda: query(conninfo, _WAITERS), "an append that waits")
                assert not found.done()
            assert found.result(20) == 1
    finally:
        another.close()


def test_an_append_that_waits_connects_again_and_again(conninfo: str) -> None:
    """The pool once paused for a second, then for two, and found a new primary that much later."""
    with closing(Relay(conninfo)) as relay, closing(Log(relay.conninfo)) as log:
        with log.append_transaction():
            pass
        relay.accepts_connections = False
        relay.cut()
        before = relay.connections_opened
        with pytest.raises(psycopg.OperationalError), log.append_transaction():
            pass
        assert relay.connections_opened - before >= 5
