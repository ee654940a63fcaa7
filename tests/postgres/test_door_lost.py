"""Connections that are lost, and a database that is away: nobody who reads is told of it."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest
import uvloop

from ledger.postgres import door as doors
from ledger.postgres.door import Door
from ledger.postgres.scope import EVERYONE, Planning, Tenant
from tests.support.doors import HELD, READERS, SCOPE, gathered, holding, play_with_door, soon
from tests.support.embedded import folder_in_tmp
from tests.support.relay import OUT_OF_STEP, Relay
from tests.support.views import query

KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger api'
"""

Tell = Callable[..., None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def tell(request: pytest.FixtureRequest, conninfo: str) -> Tell:
    """Plays with a door of its own, on either loop."""
    return partial(play_with_door, request.param, conninfo)


@pytest.fixture
def relay(conninfo: str) -> Iterator[Relay]:
    with folder_in_tmp(0o755) as folder:
        relay = Relay(conninfo, folder)
        yield relay
        relay.close()


def test_no_read_fails_while_connections_are_ended(tell: Tell, conninfo: str) -> None:
    async def play(door: Door) -> None:
        # All of them while idle, found out before anybody asks, or not.
        for _ in range(3):
            assert await asyncio.to_thread(query, conninfo, KILL)
            assert await door.fetch(READERS[0], SCOPE, {"n": 1}) == [("ORG-0", "", 1)]
        killing = asyncio.create_task(asyncio.to_thread(kill))

        async def reader(tenant: Tenant) -> None:
            for n in itertools.count():
                planning = Planning.SHORT if n % 50 else Planning.LONG
                assert await door.fetch(tenant, SCOPE, {"n": n}, planning) == [(*tenant, n)]
                if killing.done():
                    return

        readers = [*READERS, *READERS, *READERS, *READERS]
        assert await gathered([reader(each) for each in readers]) == [None] * len(readers)
        await killing

    def kill() -> None:
        for _ in range(30):
            query(conninfo, KILL)

    tell(play)


def test_an_answer_that_breaks_off_is_asked_for_again_and_not_for_ever(
    tell: Tell, relay: Relay
) -> None:
    """uvloop tells of such an end once, and not how much there is left to read."""
    length, large = "SELECT length(%(text)s)", {"text": "x" * 100_000}

    async def play(door: Door) -> None:
        relay.to_break = 2
        assert await gathered([door.fetch(EVERYONE, length, large)]) == [[(100_000,)]]
        relay.broken_answer = OUT_OF_STEP
        relay.to_break = 1
        assert await gathered([door.fetch(EVERYONE, length, large)]) == [[(100_000,)]]
        relay.to_break = 99
        (error,) = await gathered([door.fetch(EVERYONE, length, large)])
        assert isinstance(error, psycopg.OperationalError)
        assert relay.to_break == 99 - 3
        assert await gathered([door.fetch(EVERYONE, "SELECT 1", {})]) == [[(1,)]]

    tell(play, size=2, through=relay.conninfo)


def test_a_connection_that_is_ended_behind_its_last_result_is_one_that_is_lost(
    tell: Tell, relay: Relay
) -> None:
    async def play(door: Door) -> None:
        for _ in range(2):
            lanes, relay.to_end = set(door._lanes), 1
            assert await gathered([door.fetch(READERS[0], SCOPE, {"n": 1})]) == [[("ORG-0", "", 1)]]
            await soon(lambda lanes=lanes: len(lanes - door._lanes) == 1, "the loss of its lane")
        assert relay.to_end == 0

    tell(play, through=relay.conninfo)


def test_a_database_that_is_away_for_a_moment_is_waited_for(tell: Tell, relay: Relay) -> None:
    async def play(door: Door) -> None:
        relay.lets_in, asked = False, relay.asked
        relay.cut()
        await soon(lambda: not door._lanes, "the loss")
        # Nobody waits, so nothing is tried.
        assert (door._idle, relay.asked) == ([], asked)
        assert (door._connecting, door._watching, door._sending) == (None, None, None)
        reading = [asyncio.create_task(door.fetch(EVERYONE, "SELECT 1", {})) for _ in range(100)]
        await soon(lambda: relay.asked > asked + 3, "some attempts")
        relay.lets_in = True
        assert await gathered(reading) == [[(1,)]] * 100

    tell(play, through=relay.conninfo)


def test_who_has_waited_for_two_seconds_is_refused(tell: Tell, relay: Relay) -> None:
    async def play(door: Door) -> None:
        relay.lets_in = False
        relay.cut()
        asked, loop = relay.asked, asyncio.get_running_loop()
        begun = loop.time()
        (error,) = await gathered([door.fetch(EVERYONE, "SELECT 1", {})])
        assert isinstance(error, psycopg.OperationalError)
        assert 1.9 < loop.time() - begun < 4
        assert 3 < relay.asked - asked <= 21
        await soon(lambda: (door._connecting, door._watching) == (None, None), "peace")

    tell(play, through=relay.conninfo)


def test_who_loses_his_connection_late_has_his_patience_anew(
    tell: Tell, relay: Relay, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_PATIENCE_SECONDS", 1.0)

    async def play(door: Door) -> None:
        loop, asked = asyncio.get_running_loop(), relay.asked
        async with holding(conninfo):
            reading = asyncio.create_task(door.fetch(EVERYONE, HELD, {}))
            end = loop.time() + 1.1
            await soon(lambda: loop.time() > end, "a second")
            relay.lets_in = False
            relay.cut()
            await soon(lambda: relay.asked > asked + 1, "two attempts")
            relay.lets_in = True
        assert await gathered([reading]) == [[(1,)]]

    tell(play, through=relay.conninfo)
