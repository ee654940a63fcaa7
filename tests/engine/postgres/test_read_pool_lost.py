"""Connections that are lost, and a database that is away: no reader notices."""

import asyncio
import itertools
from collections.abc import Callable

import psycopg
import pytest

from ledger.engine.postgres.pool import pipelined, read_pool
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.principal import EVERYONE, Tenant
from tests.support.door import (
    HELD,
    READERS,
    SCOPE,
    count_held,
    count_open_ends,
    gather_results,
    holding,
    stable_count,
    until_async,
)
from tests.support.relay import IMPOSSIBLE_LENGTH, Relay
from tests.support.soak import repeated
from tests.support.views import query

KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger api'
"""

Tell = Callable[..., None]


@pytest.mark.parametrize("kills", repeated([5, 30]))
def test_no_read_fails_while_connections_are_ended(tell: Tell, conninfo: str, kills: int) -> None:
    async def play(pool: ReadPool) -> None:
        # All of them while idle, found out before anybody asks, or not.
        for _ in range(3):
            assert await asyncio.to_thread(query, conninfo, KILL)
            assert await pool.fetch(READERS[0], SCOPE, {"n": 1}) == [("ORG-0", "*", 1)]
        killing = asyncio.create_task(asyncio.to_thread(kill))

        async def reader(tenant: Tenant) -> None:
            for n in itertools.count():
                planning = Planning.SHORT if n % 50 else Planning.LONG
                assert await pool.fetch(tenant, SCOPE, {"n": n}, planning) == [(*tenant, n)]
                if killing.done():
                    return

        readers = [*READERS, *READERS, *READERS, *READERS]
        assert await gather_results([reader(each) for each in readers]) == [None] * len(readers)
        await killing

    def kill() -> None:
        for _ in range(kills):
            query(conninfo, KILL)

    tell(play)


def test_an_answer_that_breaks_off_is_requested_again_and_not_for_ever(
    tell: Tell, relay: Relay
) -> None:
    """uvloop reports such an end once, and not how much there is left to read."""
    length, large = "SELECT length(%(text)s)", {"text": "x" * 100_000}

    async def play(pool: ReadPool) -> None:
        relay.to_break = 2
        assert await gather_results([pool.fetch(EVERYONE, length, large)]) == [[(100_000,)]]
        relay.broken_answer = IMPOSSIBLE_LENGTH
        relay.to_break = 1
        assert await gather_results([pool.fetch(EVERYONE, length, large)]) == [[(100_000,)]]
        relay.to_break = 99
        (error,) = await gather_results([pool.fetch(EVERYONE, length, large)])
        assert isinstance(error, psycopg.OperationalError)
        assert relay.to_break == 99 - 3
        assert await gather_results([pool.fetch(EVERYONE, "SELECT 1", {})]) == [[(1,)]]

    tell(play, size=2, through=relay.conninfo)


def test_a_connection_that_is_ended_behind_its_last_result_is_one_that_is_lost(
    tell: Tell, proxy: Relay
) -> None:
    async def play(pool: ReadPool) -> None:
        for _ in range(2):
            await pool.fetch(EVERYONE, "SELECT 1", {})  # opens a connection, if there is none
            proxy.to_end = 1
            assert await gather_results([pool.fetch(READERS[0], SCOPE, {"n": 1})]) == [
                [("ORG-0", "*", 1)]
            ]
            await until_async(lambda: count_open_ends(proxy.port) == 0, "the loss")
        assert proxy.to_end == 0

    tell(play, through=proxy.conninfo)


def test_a_database_that_is_away_for_a_moment_is_waited_for(tell: Tell, proxy: Relay) -> None:
    async def play(pool: ReadPool) -> None:
        proxy.accepts_connections, opened = False, proxy.connections_opened
        proxy.cut()
        await until_async(lambda: count_open_ends(proxy.port) == 0, "the loss")
        # Nobody waits, so nothing is tried.
        assert await stable_count(lambda: proxy.connections_opened) == opened
        reading = [asyncio.create_task(pool.fetch(EVERYONE, "SELECT 1", {})) for _ in range(100)]
        await until_async(lambda: proxy.connections_opened > opened + 3, "some attempts")
        proxy.accepts_connections = True
        assert await gather_results(reading) == [[(1,)]] * 100

    tell(play, through=proxy.conninfo)


def test_a_read_that_has_waited_long_for_a_connection_is_refused(tell: Tell, relay: Relay) -> None:
    async def play(pool: ReadPool) -> None:
        relay.accepts_connections = False
        relay.cut()
        opened = relay.connections_opened
        with pytest.raises(psycopg.OperationalError, match="no connection in time"):
            async with asyncio.timeout(30):
                await pool.fetch(EVERYONE, "SELECT 1", {})
        assert 1 < relay.connections_opened - opened <= 21, "a try each tenth of two seconds"
        await stable_count(lambda: relay.connections_opened)

    tell(play, through=relay.conninfo)


def test_a_read_that_loses_its_connection_late_waits_as_long_for_another_as_a_new_read(
    tell: Tell, relay: Relay, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_pool, "_QUEUE_SECONDS", 1.0)

    async def play(pool: ReadPool) -> None:
        loop, opened = asyncio.get_running_loop(), relay.connections_opened
        async with holding(conninfo):
            reading = asyncio.create_task(pool.fetch(EVERYONE, HELD, {}))
            end = loop.time() + 1.1
            await until_async(lambda: loop.time() > end, "a second")
            relay.accepts_connections = False
            relay.cut()
            await until_async(lambda: relay.connections_opened > opened + 1, "two attempts")
            relay.accepts_connections = True
        assert await gather_results([reading]) == [[(1,)]]

    tell(play, through=relay.conninfo)


def test_a_read_that_loses_its_connection_late_fails_at_its_deadline_all_the_same(
    tell: Tell, relay: Relay, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL was frozen: a read of nine seconds waited two more for another connection."""
    monkeypatch.setattr(pipelined, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(read_pool, "_QUEUE_SECONDS", 3600.0)

    async def play(pool: ReadPool) -> None:
        opened = relay.connections_opened
        async with holding(conninfo):
            reading = asyncio.create_task(pool.fetch(EVERYONE, HELD, {}))
            await until_async(lambda: count_held(conninfo, HELD) == 1, "the read to wait")
            relay.accepts_connections = False
            relay.cut()
            await until_async(lambda: relay.connections_opened > opened, "an attempt to connect")
            with pytest.raises(psycopg.OperationalError):
                async with asyncio.timeout(60):
                    await reading

    tell(play, through=relay.conninfo)


def test_a_connection_that_was_being_opened_when_a_server_was_left_answers_no_read(
    tell: Tell, relay: Relay
) -> None:
    """The former server may live on, and would answer with what it had."""

    async def play(pool: ReadPool) -> None:
        pool.leave()
        relay.delay, before = 0.1, relay.connections_opened
        reading = asyncio.create_task(pool.fetch(EVERYONE, "SELECT 1", {}))
        await until_async(lambda: relay.connections_opened > before, "an attempt to connect")
        pool.leave()
        assert await gather_results([reading]) == [[(1,)]]
        assert relay.connections_opened == before + 2

    tell(play, through=relay.conninfo)
