"""A key has one read at a time, and no request gets an answer that was read before it came."""

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

from ledger.engine.http import writing
from ledger.engine.reads import answers
from ledger.engine.reads.answers import SingleFlight
from ledger.engine.values.errors import Unavailable
from tests.support.edge import Edge, assert_problem
from tests.support.views import until


class Key:
    """A key for which a test can check that a reference to it is still held."""


class Desk:
    """Requests under keys, and their reads, which the test answers by hand."""

    def __init__(self) -> None:
        self.flight: SingleFlight[int] = SingleFlight(self._read)
        self.open: list[tuple[object, asyncio.Future[int], int]] = []
        """The key, the future answer and the moment of each read under way, in order."""
        self.moment = 0
        self.reads = 0

    def request(self, key: object) -> tuple[int, asyncio.Task[int]]:
        """Make a request under a key: its moment, and the task that waits for its answer."""
        self.moment += 1
        return self.moment, asyncio.create_task(self.flight.do(key, key))

    def answer(self, number: int = 0) -> None:
        """Answer a read with the moment in which it began."""
        _, future, moment = self.open.pop(number)
        if not future.done():
            future.set_result(moment)

    def fail(self, error: Exception, number: int = 0) -> None:
        future = self.open.pop(number)[1]
        if not future.done():
            future.set_exception(error)

    async def _read(self, key: object) -> int:
        self.moment += 1
        self.reads += 1
        future = asyncio.get_running_loop().create_future()
        self.open.append((key, future, self.moment))
        return await future


def run(play: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; a request that waits for ever is a failure."""
    asyncio.run(asyncio.wait_for(play, 10))


async def quiet() -> None:
    """Let all tasks run until each of them waits."""
    for _ in range(8):
        await asyncio.sleep(0)


def test_requests_that_come_during_a_read_share_the_next_read() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.request("a")
        await quiet()
        requests = [desk.request("a") for _ in range(3)]
        await quiet()
        assert len(desk.open) == 1
        desk.answer()
        await quiet()
        assert first.done()
        assert not any(task.done() for _, task in requests)
        desk.answer()
        for moment, task in requests:
            assert await task > moment
        assert desk.reads == 2

    run(play())


def test_requests_that_come_together_share_one_read() -> None:
    async def play() -> None:
        desk = Desk()
        requests = [desk.request("a") for _ in range(3)]
        await quiet()
        desk.answer()
        for moment, task in requests:
            assert await task > moment
        assert desk.reads == 1

    run(play())


def test_requests_that_share_a_read_are_served_though_its_request_leaves() -> None:
    async def play() -> None:
        desk = Desk()
        requests = [desk.request("a") for _ in range(3)]
        await quiet()
        requests[0][1].cancel()
        await quiet()
        desk.answer()  # the first read's, for which no request waits
        desk.answer()
        for moment, task in requests[1:]:
            assert await task > moment

    run(play())


def test_a_request_does_not_wait_for_a_read_of_another_key() -> None:
    async def play() -> None:
        desk = Desk()
        _, slow = desk.request("a")
        _, quick = desk.request("b")
        await quiet()
        desk.answer(1)
        await quick
        assert not slow.done()
        desk.answer()
        await slow

    run(play())


def test_an_error_is_raised_only_for_the_requests_of_its_group() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.request("a")
        await quiet()
        cancelled, second, third = (desk.request("a")[1] for _ in range(3))
        await quiet()
        desk.fail(ValueError("of the first"))
        await quiet()
        cancelled.cancel()
        fourth = desk.request("a")[1]
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


def test_a_cancelled_request_cancels_no_other_request() -> None:
    """Cancel the request that reads, one that waits, and one whose read has just begun."""

    async def play() -> None:
        desk = Desk()
        _, first = desk.request("a")
        await quiet()
        requests = [desk.request("a") for _ in range(4)]
        await quiet()
        first.cancel()
        requests[1][1].cancel()
        await quiet()
        requests[0][1].cancel()
        await quiet()
        assert first.cancelled()
        desk.answer()  # the first read's, for which no request waits
        desk.answer()
        for moment, task in requests[2:]:
            assert await task > moment
        assert [task.cancelled() for _, task in requests] == [True, True, False, False]

    run(play())


def test_no_read_begins_if_all_its_requests_are_cancelled() -> None:
    async def play() -> None:
        desk = Desk()
        _, first = desk.request("a")
        await quiet()
        cancelled = [desk.request("a")[1] for _ in range(3)]
        await quiet()
        for task in cancelled:
            task.cancel()
        await quiet()
        desk.answer()
        await first
        await quiet()
        assert desk.reads == 1

    run(play())


def test_a_cancelled_read_leaves_no_request_waiting_for_ever() -> None:
    """A read may itself have waited for a task that was cancelled."""

    async def play() -> None:
        desk = Desk()
        _, first = desk.request("a")
        await quiet()
        requests = [desk.request("a")[1] for _ in range(2)]
        await quiet()
        desk.answer()
        await quiet()
        desk.open.pop()[1].cancel()
        await asyncio.wait([first, *requests])
        assert all(task.cancelled() for task in requests)
        moment, later = desk.request("a")
        await quiet()
        desk.answer()
        assert await later > moment

    run(play())


def test_no_reference_to_a_key_is_kept_after_its_last_request() -> None:
    async def play() -> None:
        desk, keys = Desk(), [Key(), Key(), Key()]
        tasks = [desk.request(key)[1] for key in keys for _ in range(3)]
        await quiet()
        desk.fail(LookupError("no"), 1)
        tasks[0].cancel()
        tasks[7].cancel()
        while desk.open:
            desk.answer()
            await quiet()
        await asyncio.gather(*tasks, return_exceptions=True)
        await quiet()  # Python 3.11 holds the results and errors of a wait until the next wait.
        held = [weakref.ref(key) for key in keys]
        del keys, tasks
        gc.collect()
        assert [key() for key in held] == [None, None, None]

    run(play())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["request", "request", "request", "answer", "answer", "fail", "cancel", "quiet"]
        ),
        st.integers(0, 30),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_each_request_that_is_not_cancelled_gets_an_answer_from_after_it_came(
    steps: list[tuple[str, int]],
) -> None:
    """Requests, cancellations, answers and errors come in any order, with one read a key."""

    async def play() -> None:
        desk, cancelled = Desk(), set[int]()
        requests: list[tuple[int, asyncio.Task[int]]] = []
        for step, number in steps:
            if step == "request":
                requests.append(desk.request("ab"[number % 2]))
            elif step == "cancel" and requests:
                cancelled.add(number % len(requests))
                requests[number % len(requests)][1].cancel()
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
        tasks = [task for _, task in requests]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, ((moment, _), answer) in enumerate(zip(requests, outcomes, strict=True)):
            if isinstance(answer, asyncio.CancelledError):
                assert number in cancelled
            elif not isinstance(answer, LookupError):
                assert answer > moment

    run(play())


# In a whole service.

WAITING = """SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'ledger api%'
    AND datname = current_database() AND wait_event_type = 'Lock'"""


@contextmanager
def locked(edge: Edge, relation: str) -> Iterator[None]:
    """Lock a relation against every reader."""
    with psycopg.connect(edge.conninfo) as connection:
        connection.execute(f"LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE".encode())
        yield


async def blocked(edge: Edge) -> int:
    """The connection of a reader that waits for a lock, once there is one."""
    await asyncio.to_thread(until, lambda: edge.select(WAITING), "a reader that waits")
    return int(edge.select(WAITING)[0][0])


def test_a_cancelled_http_request_cancels_no_other_http_request(edge: Edge) -> None:
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
        responses = await asyncio.gather(*others)
        assert [response.status_code for response in responses] == [200] * 3

    edge.run(play())


def test_no_cached_answer_is_sent_while_the_views_positions_cannot_be_read(edge: Edge) -> None:
    """A kept answer may still be right, but this is unknown. Later requests read the positions."""
    path = f"/v1/execution/{edge.fresh()}"
    for _ in range(2):
        answer = edge.get(path)

    async def play() -> None:
        get = edge.service.http.get
        with locked(edge, "ledger.projection"):
            first = asyncio.create_task(get(path))
            looking = await blocked(edge)
            others = [asyncio.create_task(get(path)) for _ in range(3)]
            await quiet()
            edge.select(f"SELECT pg_cancel_backend({looking})")
            assert_problem(await first, 503, "unavailable")
        for response in await asyncio.gather(*others):
            assert (response.status_code, response.content) == (200, answer.content)

    edge.run(play())


def test_a_request_that_is_queued_waits_no_longer_than_for_one_statement(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 1.0)
    path = f"/v1/execution/{edge.fresh()}"

    async def play() -> None:
        get = edge.service.http.get
        with locked(edge, "ledger.execution"):
            first = asyncio.create_task(get(path))
            await blocked(edge)
            refused = await asyncio.gather(first, *(get(path) for _ in range(3)))
        for one in refused:
            assert_problem(one, 503, "unavailable")
            assert one.json()["detail"] == "The database does not answer."

    edge.run(play())


def test_a_command_and_its_answer_together_wait_no_longer_than_for_one_statement(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL was frozen: two seconds for the views, and nine for the read of the line."""
    monkeypatch.setattr(writing, "ANSWER_SECONDS", 1.0)
    path = f"/v1/execution/{edge.fresh()}"
    with locked(edge, "ledger.execution"):
        refused = edge.post(f"{path}/pause", json={"reason": "Review"})
    assert_problem(refused, 503, "unavailable")
    assert refused.json()["detail"].startswith("The command was carried out, but the database")
    until(lambda: edge.data(path)["state"] == "paused", "the line to be paused")


def test_concurrent_requests_for_a_missing_line_are_refused_with_ids_of_their_own(
    edge: Edge,
) -> None:
    path = f"/v1/execution/{edge.fresh_id()}"

    async def play() -> None:
        refused = await asyncio.gather(*(edge.service.http.get(path) for _ in range(8)))
        for response in refused:
            assert_problem(response, 404, "not_found")
        assert len({response.headers["x-request-id"] for response in refused}) == 8

    edge.run(play())


def test_a_read_that_takes_too_long_ends_as_late_and_a_cancelled_read_as_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "ANSWER_SECONDS", 0.02)
    monkeypatch.setattr(answers, "OVERDUE_SECONDS", 0.01)

    async def play() -> None:
        timeout, never = answers.ReadTimeout(), asyncio.Event()
        both: asyncio.Task[bool]

        async def first() -> None:
            try:
                await timeout.wait(never.wait())
            finally:
                both.cancel()  # it is late as well, and has not run since

        late, both, gone = map(
            asyncio.create_task, (first(), *(timeout.wait(never.wait()) for _ in range(2)))
        )
        await quiet()
        gone.cancel()
        ended = await asyncio.gather(late, both, gone, return_exceptions=True)
        assert list(map(type, ended)) == [Unavailable, *[asyncio.CancelledError] * 2]
        assert late.cancelling() == 0, "a later wait of this task would end at once"
        never.set()
        assert await timeout.wait(never.wait())

    run(play())
