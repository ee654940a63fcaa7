"""Notifications on an event loop: each is received once, in order; a lost connection raises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import psycopg
import pytest
import uvloop

from ledger.engine.postgres.listening import listen
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
async def two_connections(
    conninfo: str,
) -> AsyncIterator[tuple[psycopg.AsyncConnection[Any], psycopg.AsyncConnection[Any]]]:
    """A connection to listen on, and a connection that notifies."""
    connect = psycopg.AsyncConnection.connect
    async with (
        await connect(conninfo, autocommit=True) as connection,
        await connect(conninfo, autocommit=True) as notifier,
    ):
        yield connection, notifier


@LOOPS
def test_each_notification_is_received_once_and_in_order(conninfo: str, loop: Loop) -> None:
    async def work() -> None:
        async with two_connections(conninfo) as (connection, notifier):
            received: list[str] = []
            done = asyncio.Event()

            def hear(payload: str) -> None:
                received.append(payload)
                if payload == "end":
                    done.set()

            await connection.execute("LISTEN told")
            await notifier.execute("NOTIFY told, 'before'")
            await connection.execute("SELECT 1")  # takes the notification from the socket
            await notifier.execute("NOTIFY told, 'between'")
            listener = asyncio.create_task(listen(connection, hear))
            for number in range(50):
                await notifier.execute(f"NOTIFY told, '{number}'".encode())
            await notifier.execute("NOTIFY told, 'end'")
            await done.wait()
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
            assert received == ["before", "between", *map(str, range(50)), "end"]
            # psycopg can use the connection again.
            cursor = await connection.execute("SELECT 2")
            assert await cursor.fetchall() == [(2,)]

    run(loop, work)


@LOOPS
def test_an_earlier_notification_is_received_though_no_other_follows(
    conninfo: str, loop: Loop
) -> None:
    async def work() -> None:
        async with two_connections(conninfo) as (connection, notifier):
            received: asyncio.Queue[str] = asyncio.Queue()
            await connection.execute("LISTEN told")
            await notifier.execute("NOTIFY told, 'x'")
            await connection.execute("SELECT 1")  # takes the notification from the socket
            listener = asyncio.create_task(listen(connection, received.put_nowait, 3600))
            assert await received.get() == "x"
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    run(loop, work)


@LOOPS
def test_a_lost_connection_raises(conninfo: str, loop: Loop) -> None:
    async def work() -> None:
        async with two_connections(conninfo) as (connection, notifier):
            received: asyncio.Queue[str] = asyncio.Queue()
            await connection.execute("LISTEN told")
            listener = asyncio.create_task(listen(connection, received.put_nowait))
            await notifier.execute("NOTIFY told, 'x'")
            assert await received.get() == "x"
            backend = connection.info.backend_pid
            await notifier.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
            with pytest.raises(psycopg.OperationalError):
                await listener
            assert received.empty()

    run(loop, work)


@LOOPS
def test_an_error_of_the_callback_is_raised(conninfo: str, loop: Loop) -> None:
    def hear(payload: str) -> None:
        raise ValueError(payload)

    async def work() -> None:
        async with two_connections(conninfo) as (connection, notifier):
            await connection.execute("LISTEN told")
            listener = asyncio.create_task(listen(connection, hear))
            await notifier.execute("NOTIFY told, 'x'")
            with pytest.raises(ValueError, match="x"):
                await listener

    run(loop, work)


@LOOPS
def test_a_silent_server_is_a_lost_connection(conninfo: str, loop: Loop) -> None:
    """A proxy acknowledges all bytes, even without a server behind it."""

    async def work() -> None:
        with closing(Relay(conninfo)) as relay:
            connect = psycopg.AsyncConnection.connect
            async with await connect(relay.conninfo, autocommit=True) as connection:
                await connection.execute("LISTEN told")
                received: asyncio.Queue[str] = asyncio.Queue()
                listener = asyncio.create_task(listen(connection, received.put_nowait, 0.3))
                for number in range(5):  # a server that answers is not lost
                    async with await connect(conninfo, autocommit=True) as notifier:
                        await notifier.execute(f"NOTIFY told, '{number}'".encode())
                    assert await received.get() == str(number)
                relay.vanish()
                with pytest.raises(psycopg.OperationalError, match="in time"):
                    await listener
                assert connection.closed

    run(loop, work)
