"""A function's runs: each way in which a function begins, ends, or is interrupted."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from execution_ledger import AsyncLedger, Conflict, Ledger, current_run
from execution_ledger.testing import AsyncFakeLedger, FakeLedger

from tests.client.support import Refusals, Reply, Request, Service, StandIn, accept, problem
from tests.support.views import until

LINE = "LIN-26-000001"


@pytest.fixture
def fake() -> Iterator[FakeLedger]:
    with FakeLedger() as ledger:
        yield ledger


def endings(fake: FakeLedger) -> list[tuple[str, Any]]:
    """The status of each run, with the data of its ending but for its name."""
    return [
        (run.status, {k: v for k, v in run.ended.items() if k != "external_id"})
        for run in fake.reported_runs
    ]


# The ledger itself


def test_a_decorated_function_is_a_run_of_its_line(
    options: dict[str, Any], service: Service
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:

        @ledger.run(line, lease=60, input={"day": "Monday"})
        def divide(a: int, b: int) -> float:
            run = current_run()
            assert run is not None
            run.tokens(model="small", input=1_000, output=200)
            run.output({"asked": [a, b]})
            return a / b

        assert divide(6, 3) == 2
        with pytest.raises(ZeroDivisionError):
            divide(1, 0)
        assert ledger.flush(30.0)
        failed, done = (ledger.runs.get(run.id) for run in ledger.lines.runs(line))
    assert (done.status, done.output, done.input) == (
        "completed", {"asked": [6, 3]}, {"day": "Monday"},
    )  # fmt: skip
    assert (done.tokens_used, done.lease_seconds) == (1_200, 60)
    assert (failed.status, failed.error and failed.error.code) == ("failed", "ZeroDivisionError")
    assert failed.error is not None
    assert failed.error.message is None


def test_a_tree_of_runs_is_reported_by_names_alone(
    options: dict[str, Any], service: Service
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:
        with ledger.run(line, name="first", parent="whole"):
            """A child that begins before its parent."""
        with ledger.run(line, name="whole") as whole:
            with ledger.run(line, name="part"):
                assert current_run() is not whole
            assert current_run() is whole
        assert ledger.flush(30.0)
        runs = {run.external_id: run for run in ledger.lines.runs(line)}
    assert current_run() is None
    assert {name: run.parent_run_id for name, run in runs.items()} == {
        "whole": None,
        "first": whole.id,
        "part": whole.id,
    }
    assert {run.status for run in runs.values()} == {"completed"}


def test_attempts_of_a_name_are_runs_of_their_own(
    options: dict[str, Any], service: Service, refusals: Refusals
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:
        for attempt in (1, 2, 3):
            with suppress(LookupError), ledger.run(line, name="job-7", attempt=attempt):
                if attempt < 3:
                    raise LookupError
        assert ledger.flush(30.0)
        third, second, first = ledger.lines.runs(line)
    assert refusals == []
    attempts = [(run.attempt, run.status, run.retry_of) for run in (first, second, third)]
    assert attempts == [(1, "failed", None), (2, "failed", first.id), (3, "completed", second.id)]


def test_a_refused_start_is_logged_and_the_function_runs(
    options: dict[str, Any], service: Service, refusals: Refusals
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:
        ledger.lines.pause(line, reason="Freeze")
        with ledger.run(line) as run:
            assert ledger.flush(30.0) == (0, 1, 0)
        assert ledger.flush(30.0)
    assert refusals.codes == ["invalid_state"]  # of the start alone
    assert run.refusal is not None


def test_a_refused_start_is_raised_on_request(options: dict[str, Any], service: Service) -> None:
    line = service.edge.fresh()
    called: list[str] = []

    async def work() -> None:
        async with AsyncLedger(**options) as ledger:

            @ledger.run(line, on_refused="raise")
            async def job() -> None:
                called.append("async")

            await job()

    with Ledger(**options) as ledger:
        ledger.lines.pause(line, reason="Freeze")
        with pytest.raises(Conflict), ledger.run(line, on_refused="raise"):
            called.append("with")
        with pytest.raises(Conflict):
            asyncio.run(work())
        ledger.lines.resume(line)
        with ledger.run(line, on_refused="raise") as run:
            assert run.id is not None
    assert called == []


# Ways to end


@pytest.mark.parametrize(
    ("error", "status", "data"),
    [
        (ValueError("secret"), "failed", {"error": {"code": "ValueError"}}),
        (SystemExit(0), "completed", {}),
        (SystemExit(), "completed", {}),
        (SystemExit(3), "failed", {"error": {"code": "SystemExit"}}),
        (KeyboardInterrupt(), "cancelled", {"reason": "KeyboardInterrupt"}),
        (asyncio.CancelledError(), "cancelled", {"reason": "CancelledError"}),
        (GeneratorExit(), "completed", {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_exception_ends_the_run_truthfully_and_passes_unchanged(
    fake: FakeLedger, error: BaseException, status: str, data: dict[str, Any]
) -> None:
    with pytest.raises(type(error)) as raised, fake.run(LINE):
        raise error
    assert raised.value is error
    assert endings(fake) == [(status, data)]


def test_the_text_of_an_error_is_shown_only_on_request(fake: FakeLedger) -> None:
    with pytest.raises(KeyError), fake.run(LINE, tells_errors=True):
        raise KeyError("row 17")
    assert endings(fake) == [("failed", {"error": {"code": "KeyError", "message": "'row 17'"}})]


def test_a_cancelled_task_cancels_its_run() -> None:
    async def work(ledger: AsyncFakeLedger) -> None:
        began = asyncio.Event()

        @ledger.run(LINE)
        async def job() -> None:
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(job())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ledger.flush()

    async def whole() -> AsyncFakeLedger:
        async with AsyncFakeLedger() as ledger:
            await work(ledger)
            return ledger

    (run,) = asyncio.run(whole()).received.runs()
    assert (run.status, run.ended["reason"]) == ("cancelled", "CancelledError")


def test_parallel_tasks_have_runs_of_their_own() -> None:
    async def whole() -> AsyncFakeLedger:
        async with AsyncFakeLedger() as ledger:

            async def job(number: int) -> None:
                async with ledger.run(LINE, name=f"job-{number}") as run:
                    await asyncio.sleep(0)
                    assert current_run() is run

            await asyncio.gather(*(job(number) for number in range(5)))
            return ledger

    runs = list(asyncio.run(whole()).received.runs())
    assert sorted(run.name for run in runs) == [f"job-{number}" for number in range(5)]
    assert {run.status for run in runs} == {"completed"}


# Generators


def test_a_generator_is_a_run_from_its_first_step_to_its_last(fake: FakeLedger) -> None:
    errors: list[object] = []

    @fake.run(LINE)
    def count() -> Iterator[int]:
        errors.append(current_run())
        got = yield 1
        errors.append(got)
        yield 2

    steps: Any = count()
    assert fake.facts == []
    assert next(steps) == 1
    assert current_run() is None  # the caller's own code is not within the run
    assert [run.status for run in fake.reported_runs] == ["running"]
    assert steps.send("sent") == 2
    assert next(steps, None) is None
    assert errors[0] is not None
    assert errors[1] == "sent"
    assert endings(fake) == [("completed", {})]


def test_a_generator_that_was_left_completes_and_one_that_fails_fails(fake: FakeLedger) -> None:
    closed: list[str] = []

    @fake.run(LINE)
    def count() -> Iterator[int]:
        try:
            yield 1
            yield 2
        except ValueError:
            yield 3
            raise
        finally:
            closed.append("closed")

    left: Any = count()
    next(left)
    left.close()
    failing: Any = count()
    next(failing)
    assert failing.throw(ValueError("thrown")) == 3
    with pytest.raises(ValueError, match="thrown"):
        next(failing)
    assert closed == ["closed", "closed"]
    assert [status for status, _ in endings(fake)] == ["completed", "failed"]


def test_an_asynchronous_generator_is_a_run() -> None:
    async def whole() -> AsyncFakeLedger:
        async with AsyncFakeLedger() as ledger:

            @ledger.run(LINE)
            async def count(until: int) -> AsyncIterator[int]:
                for number in range(until):
                    assert current_run() is not None
                    yield number
                    if number == 7:
                        raise LookupError

            assert [number async for number in count(3)] == [0, 1, 2]
            assert current_run() is None
            left: Any = count(3)
            assert await anext(left) == 0
            await left.aclose()
            with pytest.raises(LookupError):
                assert len([number async for number in count(9)]) == 8
            return ledger

    runs = asyncio.run(whole()).received.runs()
    assert [run.status for run in runs] == ["completed", "completed", "failed"]


def test_one_scope_may_be_entered_by_several_threads_and_within_itself(fake: FakeLedger) -> None:
    scope, meeting = fake.run(LINE), threading.Barrier(3)

    def work(number: int) -> None:
        with scope as run:
            meeting.wait(10)
            with scope as inner:
                inner.output(number)
            run.output(number)
            meeting.wait(10)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    outputs = sorted(ended["output"] for status, ended in endings(fake))
    assert outputs == [0, 0, 1, 1, 2, 2]
    parents = {run.name: run.started.get("parent_external_id") for run in fake.reported_runs}
    assert sum(parent in parents for parent in parents.values()) == 3


def test_an_interrupt_while_a_start_is_awaited_cancels_the_run() -> None:
    with StandIn(lambda _: Reply(0)).serving() as away:

        async def work() -> None:
            ledger = AsyncLedger(away.address, "elk_test", timeout=0.5)
            scope = ledger.run(LINE, on_refused="raise")
            entering = asyncio.create_task(scope.__aenter__())
            while not away.requests:
                await asyncio.sleep(0)
            entering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await entering
            await ledger.aclose(0.3)

        asyncio.run(work())
    kinds = {fact["type"] for request in away.requests for fact in request.json}
    assert kinds == {"run.started", "run.cancelled"}


def test_a_block_that_ends_in_another_context_disturbs_nobody(fake: FakeLedger) -> None:
    def steps() -> Iterator[int]:
        with fake.run(LINE):
            yield 1

    async def first(made: Any) -> None:
        next(made)

    made = steps()
    asyncio.run(first(made))  # a task has a context of its own
    assert list(made) == []
    assert endings(fake) == [("completed", {})]


# Tokens, outputs, and errors of reporting


def test_tokens_add_up_by_model(fake: FakeLedger) -> None:
    with fake.run(LINE) as run:
        run.tokens(100)
        run.tokens(20)
    with fake.run(LINE) as run:
        run.tokens(5)
        run.tokens(model="small", input=10, output=2, cache_read=4)
        run.tokens(model="small", output=3)
        run.tokens(7)
        run.tokens("many")  # type: ignore[arg-type]
        run.tokens(-1)
        run.tokens(model="small", inputs=1)
        run.tokens(model="odd\n", input=1, cache_read=2, output=1, reasoning=5)
    with fake.run(LINE) as run:
        for number in range(25):
            run.tokens(1, model=f"model-{number}")
    first, second, third = (ended for _, ended in endings(fake))
    assert first == {"tokens_used": 120}
    assert second == {
        "token_usage": [
            {"model": "unspecified", "input": 12},
            {"model": "small", "input": 10, "output": 5, "cache_read": 4},
            {"model": "odd", "input": 1, "output": 1},
        ]
    }
    assert len(third["token_usage"]) == 20
    assert sum(row["input"] for row in third["token_usage"]) == 25


def test_a_payload_that_cannot_be_sent_is_left_out(fake: FakeLedger, caplog: Any) -> None:
    with fake.run(LINE, input=object()) as run:
        run.output("x" * 300_000)
    with fake.run(LINE) as run:
        run.output({"when": object()})
    assert endings(fake) == [("completed", {}), ("completed", {})]
    assert caplog.text.count("The output of a run is not reported") == 2
    assert caplog.text.count("The input of a run is not reported") == 1


def test_a_ledger_that_is_away_neither_delays_nor_breaks_the_function() -> None:
    with StandIn(lambda _: Reply(0)).serving() as away:
        ledger = Ledger(away.address, "elk_test")
        began = time.monotonic()

        @ledger.run(LINE, lease=60)
        def quick() -> int:
            return 1

        assert [quick() for _ in range(100)] == [1] * 100
        assert time.monotonic() - began < 1.0
        assert not ledger.close(0.0)


def test_a_name_is_of_one_run(fake: FakeLedger) -> None:
    with pytest.raises(ValueError, match="a name is of one run"):

        @fake.run(LINE, name="nightly")
        def job() -> None:
            """Do nothing."""


# Leases


class Beats:
    """A stand-in that counts heartbeats, and may refuse them."""

    def __init__(self, status: int = 204) -> None:
        self.status, self.count = status, 0

    def __call__(self, request: Request) -> Reply:
        if not request.path.endswith("/heartbeat"):
            return accept(request)
        self.count += 1
        return Reply(204) if self.status == 204 else problem(self.status, "ended")


def test_heartbeats_keep_a_lease_while_the_function_holds_the_interpreter() -> None:
    beats = Beats()
    with StandIn(beats).serving() as stand_in, Ledger(stand_in.address, "elk_test") as ledger:
        with ledger.run(LINE, lease=0.3) as run:  # type: ignore[arg-type]
            until(lambda: run.id is not None, "the start")
            end = time.monotonic() + 15
            while beats.count < 3 and time.monotonic() < end:
                sum(range(1_000))
        assert beats.count >= 3
        assert ledger._hosting.leases._due == {}


@pytest.mark.parametrize("status", [404, 409])
def test_heartbeats_end_with_the_run(status: int) -> None:
    beats = Beats(status)
    with (
        StandIn(beats).serving() as stand_in,
        Ledger(stand_in.address, "elk_test") as ledger,
        ledger.run(LINE, lease=0.3),  # type: ignore[arg-type]
    ):
        until(lambda: beats.count > 0, "a heartbeat")
        until(lambda: ledger._hosting.leases._due == {}, "the end of the heartbeats")
    assert beats.count == 1


@pytest.mark.soak
def test_a_lease_outlives_a_minute_that_holds_the_interpreter(
    options: dict[str, Any], service: Service
) -> None:
    line = service.edge.fresh()
    with Ledger(**options) as ledger:
        with ledger.run(line, lease=15) as run:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                sum(range(50_000_000))  # half a second in which no other thread runs
        assert ledger.flush(30.0)
        assert ledger.runs.get(str(run.id)).status == "completed"
