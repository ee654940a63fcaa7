"""Texts that are made for many: the metrics once a second, the OpenAPI document once."""

import asyncio
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import Metric
from starlette.types import Scope

from ledger.engine.http.gauges import SharedText
from ledger.engine.http.machinery.headers import Packed
from tests.support.edge import Edge

PLAIN: Scope = {"type": "http", "headers": []}


class Selector(selectors.SelectSelector):
    """Where the event loop would wait, its clock moves on instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    def __init__(self) -> None:
        self.selector = Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class Maker:
    """Makes texts, each with its number, and notes when."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.at: list[float] = []
        self.error: Exception | None = None

    async def __call__(self) -> Packed:
        self.at.append(asyncio.get_running_loop().time() - Selector.now)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Packed(b"%d" % len(self.at), "text/plain")


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=Loop) as runner:
        yield runner


def body(text: Packed) -> bytes:
    return bytes(text.answer(PLAIN).body)


def test_a_text_is_made_at_most_once_a_second_for_all_who_ask(runner: asyncio.Runner) -> None:
    shared, make = SharedText(), Maker(seconds=0.25)
    got: list[bytes] = []

    async def ask_again(times: int, after: float) -> None:
        await asyncio.sleep(after)
        for _ in range(times):
            got.append(body(await shared.read(make)))

    async def ask() -> None:
        floods = [ask_again(3, 0.0) for _ in range(20)]
        # Two clients come later: while a text is made, and while the flood waits for a text.
        await asyncio.gather(*floods, ask_again(1, 0.1), ask_again(1, 0.6))
        await asyncio.sleep(10)
        await ask_again(2, 0.0)

    runner.run(ask())
    assert make.at == pytest.approx([0, 1, 2, 12.25, 13.25])
    assert got == [b"1"] * 21 + [b"2"] * 21 + [b"3"] * 20 + [b"4", b"5"]


def test_an_asker_who_leaves_withholds_the_text_from_nobody(runner: asyncio.Runner) -> None:
    async def ask() -> bytes:
        shared, make = SharedText(), Maker(seconds=0.25)
        leaving = asyncio.create_task(shared.read(make))
        staying = asyncio.create_task(shared.read(make))
        await asyncio.sleep(0.1)
        leaving.cancel()
        return body(await staying)

    assert runner.run(ask()) == b"1"


def test_a_text_that_could_not_be_made_is_tried_again_for_the_next_who_ask(
    runner: asyncio.Runner,
) -> None:
    async def ask() -> list[float]:
        shared, make = SharedText(), Maker()
        make.error = OSError("no folder")
        for _ in range(2):
            with pytest.raises(OSError, match="no folder"):
                await shared.read(make)
        make.error = None
        assert body(await shared.read(make)) == b"3"
        return make.at

    assert runner.run(ask()) == pytest.approx([0, 1, 2])


class Witness:
    """A metric that notes on which thread it was collected."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        self.threads.append(threading.current_thread().name)
        return []


@contextmanager
def registered(witness: Witness) -> Iterator[Witness]:
    REGISTRY.register(witness)
    try:
        yield witness
    finally:
        REGISTRY.unregister(witness)


def test_the_text_is_made_on_another_thread_than_the_answers_of_requests(edge: Edge) -> None:
    with registered(Witness()) as witness:
        edge.get("/metrics")
    assert len(witness.threads) == 1
    assert "edge" not in witness.threads


def test_the_openapi_document_is_encoded_once_for_all_requests(edge: Edge) -> None:
    plain = {"accept-encoding": "identity"}
    first = edge.get("/openapi.json", headers=plain)
    document = edge.service.app.document
    assert edge.get("/openapi.json", headers=plain).content == first.content
    assert edge.get("/openapi.json", headers={"accept-encoding": "gzip"}).json() == first.json()
    assert edge.service.app.document is document
    assert first.headers["content-type"] == "application/json"
