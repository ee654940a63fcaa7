"""Large bodies are parsed in a fair queue of organizations (contract, Access, "Shares")."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from ledger.engine.http.machinery import parsing
from ledger.engine.http.machinery.parsing import Parsing, Steps
from ledger.engine.values.errors import TooLarge
from ledger.engine.writer.fair_queue import SLOT_FACTS
from tests.support.door import until_async

LARGE = parsing.SMALL_BYTES + 1


class Bodies:
    """Bodies whose parsing notes each step."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def steps(self, name: str, count: int) -> Steps[str]:
        for _ in range(count):
            self.order.append(name)
            yield
        return name


def play(scene: Callable[[Parsing], Awaitable[Any]], started: Parsing | None = None) -> None:
    """Play a scene with a parser, which the scene starts, unless it is given."""

    async def run() -> None:
        parser = started or Parsing()
        if started:
            started.start()
        try:
            await scene(parser)
        finally:
            if parser._thread.is_alive():
                parser.stop()

    asyncio.run(run())


async def parse(parser: Parsing, tenant_key: str, size: int, steps: Steps[Any]) -> Any:
    async with parser.parsed(tenant_key, size, steps) as result:
        return result


def test_a_body_is_parsed_before_the_rest_of_a_neighbours_large_body() -> None:
    bodies = Bodies()

    async def scene(parser: Parsing) -> None:
        tasks = [
            asyncio.create_task(parse(parser, tenant_key, LARGE, bodies.steps(tenant_key, count)))
            for tenant_key, count in (("flood", 1_000), ("other", 50))
        ]
        await until_async(lambda: len(parser._unparsed) == 2, "both bodies")
        parser.start()
        assert await asyncio.gather(*tasks) == ["flood", "other"]

    play(scene)
    assert bodies.order.count("flood") == 1_000
    last = len(bodies.order) - 1 - bodies.order[::-1].index("other")
    assert bodies.order[:last].count("flood") == SLOT_FACTS


def test_a_small_body_is_parsed_at_once() -> None:
    bodies = Bodies()

    async def scene(parser: Parsing) -> None:  # the thread never starts
        assert await parse(parser, "one", parsing.SMALL_BYTES, bodies.steps("small", 3)) == "small"

    play(scene)


def test_the_bodies_of_an_organization_stay_text_until_earlier_ones_are_answered() -> None:
    bodies = Bodies()

    async def scene(parser: Parsing) -> None:
        parser.start()
        answered = asyncio.Event()
        parsed: list[str] = []

        async def ask(tenant_key: str, name: str, size: int) -> None:
            async with parser.parsed(tenant_key, size, bodies.steps(name, 1)) as result:
                parsed.append(result)
                await answered.wait()

        names = [f"body {n}" for n in range(parsing._MOST_PARSED + 2)]
        tasks = [asyncio.create_task(ask("flood", name, LARGE)) for name in names]
        await until_async(lambda: len(parsed) == parsing._MOST_PARSED, "the first bodies")
        # A neighbour's body is parsed, even if it alone has more bytes than may be parsed.
        much = parsing._MOST_PARSED_BYTES + 1
        tasks.append(asyncio.create_task(ask("other", "other", much)))
        await until_async(lambda: "other" in parsed, "the neighbour's body")
        assert bodies.order == [*names[: parsing._MOST_PARSED], "other"]
        answered.set()
        await asyncio.gather(*tasks)
        assert not parser._unparsed
        assert not parser._held

    play(scene)
    assert len(bodies.order) == parsing._MOST_PARSED + 3


def test_a_request_that_ends_early_leaves_nothing_behind() -> None:
    bodies = Bodies()

    async def scene(parser: Parsing) -> None:
        task = asyncio.create_task(parse(parser, "one", LARGE, bodies.steps("gone", 5)))
        await until_async(lambda: parser._unparsed, "the body")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        parser.start()
        assert await parse(parser, "one", LARGE, bodies.steps("next", 1)) == "next"
        assert not parser._unparsed
        assert not parser._held

    play(scene)
    assert bodies.order == ["next"]


def test_a_refusal_in_a_step_is_raised_in_its_request_only() -> None:
    def refused() -> Steps[str]:
        yield
        raise TooLarge("too large")

    async def scene(parser: Parsing) -> None:
        parser.start()
        with pytest.raises(TooLarge):
            await parse(parser, "one", LARGE, refused())
        assert await parse(parser, "one", LARGE, Bodies().steps("next", 1)) == "next"

    play(scene)


def test_a_small_body_of_traces_is_parsed_on_the_thread_too() -> None:
    threads: list[str] = []

    def steps() -> Steps[None]:
        threads.append(threading.current_thread().name)
        yield

    play(lambda parser: parse(parser, "one", 1, steps()), Parsing("traces", is_apart=True))
    assert threads == ["ledger-traces"]


def test_the_thread_of_traces_rests_after_each_long_step() -> None:
    seconds: list[float] = []

    def steps() -> Steps[None]:
        for _ in range(5):
            began = time.monotonic()
            while time.monotonic() - began < 0.02:
                pass
            seconds.append(time.monotonic() - began)
            yield

    began = time.monotonic()
    play(lambda parser: parse(parser, "one", 1, steps()), Parsing("traces", is_apart=True))
    assert time.monotonic() - began >= 2 * sum(seconds) - seconds[-1]


def test_a_body_whose_client_leaves_is_parsed_no_further() -> None:
    bodies = Bodies()

    async def scene(parser: Parsing) -> None:
        left = asyncio.Event()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def ask() -> None:
            async with parser.parsed("one", LARGE, bodies.steps("gone", 5), receive):
                pass

        task = asyncio.create_task(ask())
        await until_async(lambda: parser._unparsed, "the body")
        left.set()
        with pytest.raises(ClientDisconnect):
            await task
        parser.start()
        assert await parse(parser, "one", LARGE, bodies.steps("next", 1)) == "next"
        assert not parser._held

    play(scene)
    assert bodies.order == ["next"]
