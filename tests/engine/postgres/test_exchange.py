"""The exchange with a server, driven by hand: outcomes in order, their owners, and its end."""

import select
from collections.abc import Iterator
from contextlib import closing
from math import inf

import psycopg
import pytest
from psycopg import errors, pq

from ledger.engine.postgres.exchange import Exchange, StatementResult
from ledger.engine.postgres.session import RoundConnection
from tests.support.embedded import folder_in_tmp
from tests.support.relay import Relay

PREPARED = b"SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 7'"


class Patient(RoundConnection):
    """A connection that waits nine seconds for its server."""

    max_wait = 9.0


Outcomes = list[tuple[str | None, StatementResult]]


@pytest.fixture
def connection(conninfo: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(conninfo, autocommit=True)) as connection:
        yield connection


@pytest.fixture
def exchange(connection: psycopg.Connection) -> Exchange[str]:
    return Exchange(connection)


def add(exchange: Exchange[str], **statements: str | bytes) -> None:
    """Add statements to the group, each with its name as the owner."""
    for owner, text in statements.items():
        exchange.send(owner, (text if isinstance(text, bytes) else text.encode(), ()), (), ())


def finish(exchange: Exchange[str], outcomes: Outcomes | None = None) -> Outcomes:
    """End the group, and take all outcomes."""
    exchange.sync(0.0)
    return collect_all(exchange, [] if outcomes is None else outcomes)


def collect_all(exchange: Exchange[str], outcomes: Outcomes) -> Outcomes:
    socket = select.poll()
    while exchange.flush():
        exchange.consume()
    socket.register(exchange.socket, select.POLLIN)
    while True:
        exchange.collect(outcomes)
        if not exchange.is_waiting:
            return outcomes
        assert socket.poll(15_000), "no reply comes"
        exchange.consume()


def run(exchange: Exchange[str], **statements: str | bytes) -> Outcomes:
    add(exchange, **statements)
    return finish(exchange)


def terminate(connection: psycopg.Connection, conninfo: str) -> None:
    """End the connection's server process."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        pid = connection.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_outcomes_come_in_order_each_with_its_owner(exchange: Exchange[str]) -> None:
    for _ in range(2):  # prepared, and executed again
        outcomes = run(exchange, a="SELECT 1, 'x'", b="SET work_mem = '5MB'", c="", d="SELECT 2")
        assert outcomes == [("a", [(1, "x")]), ("b", None), ("c", None), ("d", [(2,)])]


def test_unrequested_rows_are_not_returned_but_their_error_is(exchange: Exchange[str]) -> None:
    for text, count in ((b"SELECT 1", 0), (b"SELECT 1 / 0", 1)):
        exchange.send("scope", (text, ()), (), (), wants_rows=False)
        outcomes = finish(exchange)
        assert [(owner, type(outcome)) for owner, outcome in outcomes] == [
            ("scope", errors.DivisionByZero)
        ] * count


def test_an_error_skips_the_rest_of_its_group_and_no_other_group(exchange: Exchange[str]) -> None:
    (first, failed) = run(exchange, a="SELECT 1", b="SELECT 1 / 0", c="SELECT 3", d="SELECT 4")
    assert first == ("a", [(1,)])
    assert (failed[0], type(failed[1])) == ("b", errors.DivisionByZero)
    assert run(exchange, c="SELECT 3", d="SELECT 4") == [("c", [(3,)]), ("d", [(4,)])]


def test_a_skipped_statement_is_prepared_anew(exchange: Exchange[str]) -> None:
    """Its preparation may have been skipped too."""
    run(exchange, bad="SELECT 1 / 0", seven="SELECT 7")
    assert run(exchange, held=PREPARED) == [("held", [(0,)])]
    assert run(exchange, seven="SELECT 7", held=PREPARED)[1] == ("held", [(1,)])
    run(exchange, bad="SELECT 1 / 0", seven="SELECT 7")
    assert run(exchange, held=PREPARED) == [("held", [(0,)])], "the earlier one was closed"


def test_an_empty_group_is_answered(exchange: Exchange[str]) -> None:
    assert finish(exchange) == []


def test_a_value_that_python_cannot_hold_is_an_error_of_its_statement_alone(
    exchange: Exchange[str],
) -> None:
    (_, error), second = run(exchange, a="SELECT 'infinity'::timestamptz", b="SELECT 2")
    assert isinstance(error, psycopg.DataError)
    assert second == ("b", [(2,)])


def test_a_copy_statement_fails_and_takes_the_connection_with_it(exchange: Exchange[str]) -> None:
    outcomes: Outcomes = []
    add(exchange, a="SELECT 1", b="COPY (SELECT 1) TO STDOUT", c="SELECT 3")
    with pytest.raises(psycopg.OperationalError, match="takes the connection"):
        finish(exchange, outcomes)
    assert outcomes[0] == ("a", [(1,)])
    assert (outcomes[1][0], type(outcomes[1][1]), len(outcomes)) == (
        "b",
        psycopg.ProgrammingError,
        2,
    )


def test_a_fatal_message_is_no_statements_error(exchange: Exchange[str]) -> None:
    outcomes: Outcomes = []
    add(exchange, a="SELECT 1", b="SELECT pg_terminate_backend(pg_backend_pid())", c="SELECT 3")
    with pytest.raises(psycopg.OperationalError, match="administrator command"):
        finish(exchange, outcomes)
    assert outcomes == [("a", [(1,)])]


def test_a_fatal_message_behind_all_results_is_no_statements_error(conninfo: str) -> None:
    with (
        folder_in_tmp(0o755) as folder,
        closing(Relay(conninfo, folder)) as relay,
        closing(psycopg.connect(relay.conninfo, autocommit=True)) as connection,
    ):
        exchange, outcomes = Exchange[str](connection), Outcomes()
        relay.to_end = 1
        add(exchange, a="SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            finish(exchange, outcomes)
        assert outcomes == [("a", [(1,)])]


def test_a_lost_connection_raises_instead_of_giving_results_without_end(
    exchange: Exchange[str], connection: psycopg.Connection, conninfo: str
) -> None:
    terminate(connection, conninfo)
    with pytest.raises(psycopg.OperationalError):
        run(exchange, a="SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        exchange.consume()
    with pytest.raises(psycopg.OperationalError, match="lost"):
        exchange.collect([])


def test_psycopg_can_use_the_connection_between_groups(
    exchange: Exchange[str], connection: psycopg.Connection
) -> None:
    assert not exchange.is_begun
    add(exchange, a="SELECT 1")
    assert exchange.is_begun
    finish(exchange)
    assert not exchange.is_begun
    assert connection.execute("SELECT 2").fetchone() == (2,)
    assert run(exchange, a="SELECT 3") == [("a", [(3,)])]


def test_notifications_are_received_whether_psycopg_or_the_exchange_read_them(
    exchange: Exchange[str], connection: psycopg.Connection, conninfo: str
) -> None:
    connection.execute("LISTEN news")
    with psycopg.connect(conninfo, autocommit=True) as other:
        other.execute("NOTIFY news, 'to psycopg'")
        connection.execute("SELECT 1")
        other.execute("NOTIFY news, 'to the exchange'")
        assert run(exchange, a="SELECT 1") == [("a", [(1,)])]
    run(exchange, a="NOTIFY news, 'by the exchange'")
    assert exchange.notifications() == ["to psycopg", "to the exchange", "by the exchange"]
    assert exchange.notifications() == []


def test_the_timeout_is_counted_from_the_sync_until_the_reply(conninfo: str) -> None:
    with closing(Patient.connect(conninfo, autocommit=True)) as connection:
        assert_timeout_is_counted(Exchange[str](connection))


def assert_timeout_is_counted(exchange: Exchange[str]) -> None:
    assert (exchange.seconds_left(100.0), exchange.waited_seconds(100.0)) == (inf, 0.0)
    add(exchange, a="SELECT 1")
    exchange.sync(100.0)
    assert (exchange.seconds_left(103.0), exchange.waited_seconds(103.0)) == (6.0, 3.0)
    assert exchange.seconds_left(110.0) <= 0
    collect_all(exchange, [])
    assert (exchange.seconds_left(110.0), exchange.waited_seconds(110.0)) == (inf, 0.0)
    exchange.wait_from(200.0)
    assert exchange.seconds_left(200.0) == 9.0


def test_a_closed_connection_waits_for_no_reply(
    exchange: Exchange[str], connection: psycopg.Connection
) -> None:
    exchange.sync(100.0)
    exchange.close()
    assert (exchange.is_waiting, exchange.is_begun) == (False, False)
    assert exchange.waited_seconds(105.0) == 0.0
    assert connection.pgconn.status == pq.ConnStatus.BAD
