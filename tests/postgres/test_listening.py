"""Notifications on a loop: each is heard once, in order, and a lost connection is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import psycopg
import pytest
import uvloop

from ledger.postgres.listening import Ear
from tests.support.relay import Relay

Loop = Callable[[], asyncio.AbstractEventLoop]

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


def run(loop: Loop, work: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(30):
            await work()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(within_time())


@asynccontextmanager
async def two(
    conninfo: str,
) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], psycopg.AsyncConnection[Any]]]:
    """One to listen on and one that tells."""
    connect = psycopg.AsyncConnection.connect
    async with (
        await connect(conninfo, autocommit=True) as connection,
        await connect(conninfo, autocommit=True) as mouth,
    ):
        yield connection, mouth


async def listening(connection: psycopg.AsyncConnection[Any]) -> Ear:
    ear = Ear(connection)
    await connection.execute("LISTEN told")
    return ear


@LOOPS
def test_each_is_heard_once_and_in_order_whenever_it_came(conninfo: str, loop: Loop) -> None:
    async def work() -> None:
        async with two(conninfo) as (connection, mouth):
            heard: list[str] = []
            done = asyncio.Event()

            def hear(payload: str) -> None:
                heard.append(payload)
                if payload == "end":
                    done.set()

            ear = await listening(connection)
            await mouth.execute("NOTIFY told, 'before'")
            await connection.execute("SELECT 1")  # takes it in
            await mouth.execute("NOTIFY told, 'between'")
            listener = asyncio.create_task(ear.listen(hear))
            for number in range(50):
                await mouth.execute(f"NOTIFY told, '{number}'".encode())
            await mouth.execute("NOTIFY told, 'end'")
            await done.wait()
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
            assert heard == ["before", "between", *map(str, range(50)), "end"]
            # It is psycopg's again.
            cursor = await connection.execute("SELECT 2")
            assert await cursor.fetchall() == [(2,)]

    run(loop, work)


@LOOPS
def test_what_came_before_is_heard_though_nothing_follows(conninfo: str, loop: Loop) -> None:
    async def work() -> None:
        async with two(conninfo) as (connection, mouth):
            heard: asyncio.Queue[str] = asyncio.Queue()
            ear = Ear(connection, ask_seconds=3600)
            await connection.execute("LISTEN told")
            await mouth.execute("NOTIFY told, 'x'")
            await connection.execute("SELECT 1")  # takes it in
            listener = asyncio.create_task(ear.listen(heard.put_nowait))
            assert await heard.get() == "x"
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    run(loop, work)


@LOOPS
def test_a_lost_connection_is_told(conninfo: str, loop: Loop) -> None:
    async def work() -> None:
        async with two(conninfo) as (connection, mouth):
            heard: asyncio.Queue[str] = asyncio.Queue()
            ear = await listening(connection)
            listener = asyncio.create_task(ear.listen(heard.put_nowait))
            await mouth.execute("NOTIFY told, 'x'")
            assert await heard.get() == "x"
            backend = connection.info.backend_pid
            await mouth.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
            with pytest.raises(psycopg.OperationalError):
                await listener
            assert heard.empty()

    run(loop, work)


@LOOPS
def test_so_is_what_the_listener_raises(conninfo: str, loop: Loop) -> None:
    def hear(payload: str) -> None:
        raise ValueError(payload)

    async def work() -> None:
        async with two(conninfo) as (connection, mouth):
            ear = await listening(connection)
            listener = asyncio.create_task(ear.listen(hear))
            await mouth.execute("NOTIFY told, 'x'")
            with pytest.raises(ValueError, match="x"):
                await listener

    run(loop, work)


@LOOPS
def test_a_silent_server_is_a_lost_one(conninfo: str, loop: Loop) -> None:
    """A proxy acknowledges what it is sent, whether a server is behind it or not."""

    async def work() -> None:
        with closing(Relay(conninfo)) as relay:
            connect = psycopg.AsyncConnection.connect
            async with await connect(relay.conninfo, autocommit=True) as connection:
                ear = Ear(connection, ask_seconds=0.05)
                await connection.execute("LISTEN told")
                heard: asyncio.Queue[str] = asyncio.Queue()
                listener = asyncio.create_task(ear.listen(heard.put_nowait))
                for number in range(5):  # and one that answers is not
                    async with await connect(conninfo, autocommit=True) as mouth:
                        await mouth.execute(f"NOTIFY told, '{number}'".encode())
                    assert await heard.get() == str(number)
                relay.vanish()
                with pytest.raises(psycopg.OperationalError, match="in time"):
                    await listener
                assert connection.closed

    run(loop, work)
