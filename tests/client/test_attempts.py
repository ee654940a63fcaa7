"""Requests are tried again where nothing can happen twice, within their time."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from execution_ledger import (
    AsyncLedger,
    Fault,
    Forbidden,
    Ledger,
    NotReachable,
    Problem,
    RateLimited,
    Unavailable,
    UnexpectedAnswer,
)
from execution_ledger._requests import Attempts
from execution_ledger.errors import BY_STATUS, problem_of

from tests.client.support import Reply, Request, StandIn, accept, problem
from tests.support.served import free_port

LOST = Reply(0)
DONE = Reply(204)


@pytest.fixture
def replies() -> list[Reply]:
    """The answers of the fake service, one after the other; the last one is repeated."""
    return []


@pytest.fixture
def stand_in(replies: list[Reply]) -> Iterator[StandIn]:
    def answer(_: Request) -> Reply:
        return replies.pop(0) if len(replies) > 1 else replies[0]

    with StandIn(answer).serving() as stand_in:
        yield stand_in


@pytest.fixture
def ledger(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr("execution_ledger._requests.FIRST_PAUSE", 0.001)
    with Ledger(stand_in.address, "elk_test", source="/tests", timeout=5.0) as ledger:
        yield ledger


def usage() -> Reply:
    """A line's usage, the shortest answer of a read."""
    totals = {"hours": 0, "hours_by_resource": [], "check_ins": 0, "runs": {}, "tokens_used": 0}
    totals |= {"tokens_by_model": []}
    times = {"from": "2026-04-15T00:00:00Z", "to": "2026-04-16T00:00:00Z"}
    return Reply(200, {"data": times | {"total": totals, "by_day": []}})


PASSING = [LOST, problem(408, "timeout"), problem(429, "rate_limited"), problem(503, "behind")]


@pytest.mark.parametrize("passing", PASSING, ids=["lost", "408", "429", "503"])
def test_a_read_is_tried_again(
    ledger: Ledger, stand_in: StandIn, replies: Any, passing: Any
) -> None:
    replies += [passing, passing, usage()]
    assert ledger.lines.usage("LIN-26-000001").total.check_ins == 0
    assert [each.path for each in stand_in.requests] == ["/v1/execution/LIN-26-000001/usage"] * 3


@pytest.mark.parametrize("passing", PASSING, ids=["lost", "408", "429", "503"])
def test_a_command_is_tried_again_under_one_key(
    ledger: Ledger, stand_in: StandIn, replies: Any, passing: Any
) -> None:
    replies += [passing, DONE]
    ledger.runs.heartbeat("RUN-26-000001")
    replies[:] = [passing, Reply(202, {"data": {}})]
    with pytest.raises(UnexpectedAnswer):
        ledger.webhooks.test("WHK-26-000001")
    keys = [request.headers["idempotency-key"] for request in stand_in.requests[2:]]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    with pytest.raises(UnexpectedAnswer):
        ledger.webhooks.test("WHK-26-000001")
    assert stand_in.requests[-1].headers["idempotency-key"] != keys[0]


def test_a_fact_is_sent_again_as_it_was(
    ledger: Ledger, stand_in: StandIn, replies: list[Reply]
) -> None:
    replies += [LOST, problem(503, "unavailable"), Reply(200)]
    replies[2] = accept(Request("POST", "/v1/facts", {}, b'{"id": "x", "source": "/tests"}'))
    assert ledger.lines.check_in("LIN-26-000001", hours=1).outcome == "recorded"
    assert len({request.body for request in stand_in.requests}) == 1
    assert len(stand_in.requests) == 3


def test_a_delete_is_not_repeated_after_a_lost_answer(
    ledger: Ledger, stand_in: StandIn, replies: list[Reply]
) -> None:
    replies += [LOST, DONE]
    with pytest.raises(NotReachable):
        ledger.keys.revoke("KEY-26-000001")
    replies[:] = [problem(503, "unavailable"), DONE]
    with pytest.raises(Unavailable):
        ledger.keys.revoke("KEY-26-000001")
    replies[:] = [problem(429, "rate_limited"), DONE]
    ledger.keys.revoke("KEY-26-000001")
    assert len(stand_in.requests) == 4


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (problem(403, "forbidden"), Forbidden),
        (problem(503, "read_only"), Unavailable),
        (problem(500, "internal_error"), Fault),
        (Reply(502, "<html>"), Fault),
    ],
    ids=["403", "read_only", "500", "502"],
)
def test_other_refusals_are_raised_at_once(
    ledger: Ledger, stand_in: StandIn, replies: Any, reply: Reply, error: type[Problem]
) -> None:
    replies.append(reply)
    with pytest.raises(error) as raised:
        ledger.lines.get("LIN-26-000001")
    assert raised.value.status == reply.status
    assert len(stand_in.requests) == 1


def test_the_time_of_a_call_ends_its_attempts(stand_in: StandIn, replies: list[Reply]) -> None:
    replies.append(problem(429, "rate_limited", retry_after="1"))
    began = time.monotonic()
    with (
        Ledger(stand_in.address, "elk_test", timeout=0.5) as ledger,
        pytest.raises(RateLimited) as raised,
    ):
        ledger.lines.get("LIN-26-000001")
    assert raised.value.retry_after == 1.0
    assert time.monotonic() - began < 0.5
    assert len(stand_in.requests) == 1


def test_nobody_listens() -> None:
    nowhere = Ledger(f"http://127.0.0.1:{free_port()}", "elk_test", timeout=0.2)
    with nowhere as ledger, pytest.raises(NotReachable, match="No answer from the ledger"):
        ledger.lines.get("LIN-26-000001")


class Ticks:
    """A clock that moves by a second whenever it is read."""

    def __init__(self) -> None:
        self._now = itertools.count(0.0)

    def __call__(self) -> float:
        return next(self._now)


def test_the_pauses_grow_and_obey_the_service() -> None:
    attempts = Attempts("GET", 1_000.0, lambda: 0.0)
    pauses = [attempts.again(problem_of(503, {"code": "behind"})) for _ in range(8)]
    assert 0.25 <= pauses[0] <= 0.375
    assert 10.0 <= pauses[-1] <= 15.0
    assert attempts.again(problem_of(503, {}, "60")) >= 60.0
    ended = Attempts("GET", 3.0, Ticks())
    with pytest.raises(NotReachable):
        list(iter(lambda: ended.again(httpx.ConnectError("refused")), None))


def test_each_status_has_a_class_of_its_own_and_its_fields() -> None:
    body = {
        "code": "c",
        "detail": "d",
        "request_id": "r",
        "errors": [{"pointer": "", "detail": "x"}],
    }
    for status, error in BY_STATUS.items():
        made = problem_of(status, body)
        assert type(made) is error
        assert str(made) == f"{status} c: d /: x. (request r)"
    assert type(problem_of(418, None)) is Problem


def test_the_token_stays_with_its_origin(
    ledger: Ledger, stand_in: StandIn, replies: list[Reply]
) -> None:
    with StandIn(lambda _: DONE).serving() as elsewhere:
        replies.append(Reply(307, None, {"location": f"{elsewhere.address}/v1/runs"}))
        with pytest.raises(UnexpectedAnswer):
            ledger.runs.heartbeat("RUN-26-000001")
        assert elsewhere.requests == []
    assert stand_in.requests[0].headers["authorization"] == "Bearer elk_test"


def test_the_asynchronous_client_tries_again_without_blocking_its_loop(
    stand_in: StandIn, replies: list[Reply]
) -> None:
    replies += [problem(503, "behind", retry_after="1"), DONE]

    async def work() -> list[str]:
        done: list[str] = []

        async def beat(ledger: AsyncLedger) -> None:
            await ledger.runs.heartbeat("RUN-26-000001")
            done.append("beat")

        async with AsyncLedger(stand_in.address, "elk_test") as ledger:
            beating = asyncio.create_task(beat(ledger))
            while len(stand_in.requests) < 1:
                await asyncio.sleep(0)
            done.append("loop")
            await beating
        return done

    assert asyncio.run(work()) == ["loop", "beat"]
