"""One question at a time under each key, and nobody is told what was found before he came."""

import asyncio
import gc
import weakref
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.reads.turns import Turns
from tests.support.edge import Edge, assert_problem
from tests.support.views import until


class Key:
    """What a question is asked under; it can be seen whether anybody still holds it."""


class Desk:
    """Where questions arrive. The test answers them, in the order in which they were asked."""

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns(self._ask)
        self.open: list[tuple[object, asyncio.Future[int], int]] = []
        """Under which key, where the answer goes, and the moment when it was asked."""
        self.moment = 0
        self.asked = 0

    def come(self, key: object) -> tuple[int, asyncio.Task[int]]:
        """Somebody who asks: when he came, and what he will be told."""
        self.moment += 1
        return self.moment, asyncio.create_task(self.turns.take(key, key))

    def answer(self, number: int = 0) -> None:
        """Answer a question with the moment in which it was asked."""
        _, future, moment = self.open.pop(number)
        if not future.done():
            future.set_result(moment)

    def fail(self, error: Exception, number: int = 0) -> None:
        future = self.open.pop(number)[1]
        if not future.done():
            future.set_exception(error)

    async def _ask(self, key: object) -> int:
        self.moment += 1
        self.asked += 1
        future = asyncio.get_running_loop().create_future()
        self.open.append((key, future, self.moment))
        return await future


def run(play: Coroutine[Any, Any, None]) -> None:
    """Play it; whoever waits for ever is found out."""
    asyncio.run(asyncio.wait_for(play, 10))


async def quiet() -> None:
    """Until nobody has anything to do but wait."""
    for _ in range(8):
        await asyncio.sleep(0)


def test_who_comes_meanwhile_is_told_what_was_asked_after_he_came() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.come("a")
        await quiet()
        came = [desk.come("a") for _ in range(3)]
        await quiet()
        assert len(desk.open) == 1
        desk.answer()
        await quiet()
        assert first.done()
        assert not any(task.done() for _, task in came)
        desk.answer()
        for moment, task in came:
            assert await task > moment
        assert desk.asked == 2

    run(play())


def test_nobody_waits_for_another_key() -> None:
    async def play() -> None:
        desk = Desk()
        _, slow = desk.come("a")
        _, quick = desk.come("b")
        await quiet()
        desk.answer(1)
        await quick
        assert not slow.done()
        desk.answer()
        await slow

    run(play())


def test_an_error_is_told_to_those_of_its_turn_alone() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.come("a")
        await quiet()
        gone, second, third = (desk.come("a")[1] for _ in range(3))
        await quiet()
        desk.fail(ValueError("of the first"))
        await quiet()
        gone.cancel()
        fourth = desk.come("a")[1]
        await quiet()
        desk.fail(ValueError("of the second turn"))
        await quiet()
        desk.answer()
        with pytest.raises(ValueError, match="of the first"):
            await first
        for task in (second, third):
            with pytest.raises(ValueError, match="of the second turn"):
                await task
        assert await fourth > 0

    run(play())


def test_whoever_goes_takes_nobody_with_him() -> None:
    """The one whose question it is, one of those who wait, and one while it is his turn."""

    async def play() -> None:
        desk = Desk()
        _, first = desk.come("a")
        await quiet()
        came = [desk.come("a") for _ in range(4)]
        await quiet()
        first.cancel()
        came[1][1].cancel()
        await quiet()
        came[0][1].cancel()
        await quiet()
        assert first.cancelled()
        desk.answer()  # The first one's, which nobody waits for.
        desk.answer()
        for moment, task in came[2:]:
            assert await task > moment
        assert [task.cancelled() for _, task in came] == [True, True, False, False]

    run(play())


def test_what_nobody_waits_for_any_more_is_not_asked() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.come("a")
        await quiet()
        gone = [desk.come("a")[1] for _ in range(3)]
        await quiet()
        for task in gone:
            task.cancel()
        await quiet()
        desk.answer()
        await first
        await quiet()
        assert desk.asked == 1

    run(play())


def test_a_turn_that_is_given_up_leaves_nobody_waiting_for_ever() -> None:
    """As when what is asked was itself waiting for something that was cancelled."""

    async def play() -> None:
        desk = Desk()
        _, first = desk.come("a")
        await quiet()
        came = [desk.come("a")[1] for _ in range(2)]
        await quiet()
        desk.answer()
        await quiet()
        desk.open.pop()[1].cancel()
        await asyncio.wait([first, *came])
        assert all(task.cancelled() for task in came)
        moment, later = desk.come("a")
        await quiet()
        desk.answer()
        assert await later > moment

    run(play())


def test_of_a_key_that_nobody_asks_under_nothing_is_kept() -> None:
    async def play() -> None:
        desk, keys = Desk(), [Key(), Key(), Key()]
        tasks = [desk.come(key)[1] for key in keys for _ in range(3)]
        await quiet()
        desk.fail(LookupError("no"), 1)
        tasks[0].cancel()
        tasks[7].cancel()
        while desk.open:
            desk.answer()
            await quiet()
        await asyncio.gather(*tasks, return_exceptions=True)
        await quiet()  # Python 3.11 holds what woke us, the errors in it, until we wait again.
        held = [weakref.ref(key) for key in keys]
        del keys, tasks
        gc.collect()
        assert [key() for key in held] == [None, None, None]

    run(play())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "come", "answer", "answer", "fail", "go", "quiet"]),
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_however_they_come_and_go(steps: list[tuple[str, int]]) -> None:
    """Whoever stays is told what was asked after he came; one question a key is under way."""

    async def play() -> None:
        desk, went = Desk(), set[int]()
        people: list[tuple[int, asyncio.Task[int]]] = []
        for step, number in steps:
            if step == "come":
                people.append(desk.come("ab"[number % 2]))
            elif step == "go" and people:
                went.add(number % len(people))
                people[number % len(people)][1].cancel()
            elif step == "fail" and desk.open:
                desk.fail(LookupError("no"), number % len(desk.open))
            elif step == "answer" and desk.open:
                desk.answer(number % len(desk.open))
            elif step == "quiet":
                await quiet()
            under_way = [key for key, future, _ in desk.open if not future.done()]
            assert len(under_way) == len(set(under_way))
        await quiet()
        while desk.open:
            desk.answer()
            await quiet()
        tasks = [task for _, task in people]
        told = await asyncio.gather(*tasks, return_exceptions=True)
        for number, ((moment, _), answer) in enumerate(zip(people, told, strict=True)):
            if isinstance(answer, asyncio.CancelledError):
                assert number in went
            elif not isinstance(answer, LookupError):
                assert answer > moment

    run(play())


# Of a whole service.

WAITING = """SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ledger api%'
    AND datname = current_database() AND wait_event_type = 'Lock'"""


@contextmanager
def locked(edge: Edge, relation: str) -> Iterator[None]:
    """Nobody can read it meanwhile."""
    with psycopg.connect(edge.conninfo) as connection:
        connection.execute(f"LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE".encode())
        yield


async def blocked(edge: Edge) -> int:
    """The connection of a reader that waits for a lock, once there is one."""
    await asyncio.to_thread(until, lambda: edge.select(WAITING), "a reader that waits")
    return int(edge.select(WAITING)[0][0])


def test_whoever_breaks_off_a_request_takes_no_other_with_it(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh()}"

    async def play() -> None:
        get = edge.service.http.get
        with locked(edge, "ledger.execution"):
            first = asyncio.create_task(get(path))
            await blocked(edge)
            others = [asyncio.create_task(get(path)) for _ in range(3)]
            await quiet()
            first.cancel()
            await asyncio.wait([first])
        assert first.cancelled()
        assert [one.status_code for one in await asyncio.gather(*others)] == [200] * 3

    edge.run(play())


def test_where_nobody_can_look_nothing_kept_is_given(edge: Edge) -> None:
    """It may be right still, but nobody knows. Who comes later looks for himself."""
    path = f"/v1/execution/{edge.fresh()}"
    for _ in range(2):
        shown = edge.get(path)

    async def play() -> None:
        get = edge.service.http.get
        with locked(edge, "ledger.projection"):
            first = asyncio.create_task(get(path))
            looking = await blocked(edge)
            others = [asyncio.create_task(get(path)) for _ in range(3)]
            await quiet()
            edge.select(f"SELECT pg_cancel_backend({looking})")
            assert_problem(await first, 503, "unavailable")
        for one in await asyncio.gather(*others):
            assert (one.status_code, one.content) == (200, shown.content)

    edge.run(play())


def test_who_ask_at_once_for_what_is_not_there_are_refused_each_for_himself(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh_id()}"

    async def play() -> None:
        refused = await asyncio.gather(*(edge.service.http.get(path) for _ in range(8)))
        for one in refused:
            assert_problem(one, 404, "not_found")
        assert len({one.headers["x-request-id"] for one in refused}) == 8

    edge.run(play())
