"""Connections with a time limit: a silent server is a lost connection."""

import asyncio
from contextlib import closing

import psycopg
import pytest
from psycopg import pq

from ledger.engine.postgres.session import AsyncRoundConnection, RoundConnection
from tests.support.relay import Relay


class Hasty(RoundConnection):
    """A connection that soon gives up a silent server."""

    max_wait = 0.5


class AsyncHasty(AsyncRoundConnection):
    """The same for asyncio."""

    max_wait = 0.5


def test_a_statement_without_an_answer_in_time_closes_its_connection(conninfo: str) -> None:
    with (
        closing(Relay(conninfo)) as relay,
        Hasty.connect(relay.conninfo, autocommit=True) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
        assert not connection.closed, "an error is an answer"
        relay.vanish()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert connection.closed


def test_a_statement_without_an_answer_in_time_closes_its_asyncio_connection(conninfo: str) -> None:
    async def play(relay: Relay) -> None:
        async with await AsyncHasty.connect(relay.conninfo, autocommit=True) as connection:
            await connection.execute("SELECT 1")
            relay.vanish()
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 1")
            assert connection.closed

    with closing(Relay(conninfo)) as relay:
        asyncio.run(play(relay))


def test_a_transaction_without_an_answer_is_closed_and_rolled_back(conninfo: str) -> None:
    with closing(Relay(conninfo)) as relay:
        connection = Hasty.connect(relay.conninfo, autocommit=True)

        def begin_and_lose() -> None:
            with connection.transaction():
                connection.execute("CREATE TABLE half (n int)")
                relay.vanish()
                connection.execute("SELECT 1")

        with pytest.raises(psycopg.OperationalError):
            begin_and_lose()
        assert connection.closed
        assert connection.pgconn.status == pq.ConnStatus.BAD
    with psycopg.connect(conninfo) as other:
        assert other.execute("SELECT to_regclass('half')").fetchone() == (None,)
