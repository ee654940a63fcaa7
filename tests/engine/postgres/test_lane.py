"""A pipelined connection alone, on both event loops: it reports that a group is done, or lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing

import psycopg
import pytest
import uvloop

from ledger.engine.postgres.exchange import SilentServer
from ledger.engine.postgres.pool.pipelined import PendingRead, PipelinedConnection
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.postgres.session import AsyncRoundConnection
from ledger.engine.values.principal import EVERYONE
from tests.support.embedded import folder_in_tmp
from tests.support.relay import Relay

Loop = Callable[[], asyncio.AbstractEventLoop]
Done = list[tuple[list[PendingRead], psycopg.Error | None]]

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


class Hasty(AsyncRoundConnection):
    """A connection that soon gives up a silent server."""

    max_wait = 0.2


def play_with_connection(
    conninfo: str,
    new_loop: Loop,
    play: Callable[[PipelinedConnection, Relay, Done], Awaitable[None]],
) -> None:
    """Run ``play`` with a connection through a relay, and the list of the connection's reports."""

    async def prepare(relay: Relay) -> None:
        done: Done = []
        connection = await Hasty.connect(relay.conninfo, autocommit=True)
        pipelined = PipelinedConnection(
            connection, lambda _, unanswered, error: done.append((unanswered, error))
        )
        await play(pipelined, relay, done)

    with (
        folder_in_tmp(0o755) as folder,
        closing(Relay(conninfo, folder)) as relay,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        runner.run(prepare(relay))


def ask(pipelined: PipelinedConnection, number: int) -> PendingRead:
    """Send a read of the number."""
    loop = asyncio.get_running_loop()
    read = PendingRead(loop, EVERYONE, "SELECT %(n)s::int", {"n": number}, Planning.SHORT)
    pipelined.send([read])
    return read


@LOOPS
def test_a_message_that_answers_no_statement_ends_no_group(conninfo: str, new_loop: Loop) -> None:
    async def play(pipelined: PipelinedConnection, relay: Relay, done: Done) -> None:
        for number in range(3):
            relay.send_notice()
            await asyncio.sleep(0.05)
            assert len(done) == number
            async with asyncio.timeout(30):
                assert await ask(pipelined, number).future == [(number,)]
            await asyncio.sleep(0)
        pipelined.close()
        assert done == [([], None)] * 3

    play_with_connection(conninfo, new_loop, play)


@LOOPS
def test_a_silent_server_costs_the_connection_and_no_read(conninfo: str, new_loop: Loop) -> None:
    """The pool sends the read again on another connection, unless the read is overdue itself."""

    async def play(pipelined: PipelinedConnection, relay: Relay, done: Done) -> None:
        relay.vanish()
        read = ask(pipelined, 1)
        assert not pipelined.give_up_overdue()
        await asyncio.sleep(2 * Hasty.max_wait)
        assert pipelined.give_up_overdue()
        ((unanswered, error),) = done
        assert unanswered == [read]
        assert isinstance(error, SilentServer)
        assert not read.future.done()
        assert pipelined.waited_seconds() == 0.0

    play_with_connection(conninfo, new_loop, play)
