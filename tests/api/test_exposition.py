"""The text of the metrics: made once a second, aside of the requests, from the processes' files."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Scope

from ledger.api.machinery.compression import Packed
from ledger.api.machinery.exposition import SharedText, text_of_files
from tests.support.edge import Edge

PROCESS = """
import sys
from prometheus_client import Counter, Gauge, Histogram
place = int(sys.argv[1])
Counter("made", "Things that were made.").inc(place)
kinds = Counter("kinds", "Things by kind.", ["kind", "place"])
kinds.labels('quoted "kind" \\\\ of\\nlines', "both").inc(0.5)
kinds.labels("own", place).inc(1e18)
Gauge("open", "Open things.", multiprocess_mode="livesum").set(place)
Histogram("waits", "Waits.", buckets=(0.5, 1, 20)).observe(place)
for labels in (["a", "b"], ["b"]):
    seconds = Histogram("seconds", "Seconds.", labels, buckets=(0.001, 2, 10), registry=None)
    for value in (0, 2, 3, 100):
        seconds.labels(*labels).observe(value * place)
"""
PLAIN: Scope = {"type": "http", "headers": []}


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock the test sets."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class Maker:
    """Makes texts, each with its number, once it is told to."""

    def __init__(self) -> None:
        self.made = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> Packed:
        self.made += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return Packed(b"%d" % self.made, "text/plain")


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=Loop) as runner:
        yield runner


def body(text: Packed) -> bytes:
    return bytes(text.answer(PLAIN).body)


def test_all_who_ask_within_a_second_share_one_text(runner: asyncio.Runner) -> None:
    async def ask() -> list[bytes]:
        shared, make = SharedText(), Maker()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        asking = [asyncio.create_task(shared.read(make)) for _ in range(50)]
        await asyncio.sleep(0)
        loop.now += 5  # the first text takes long, and nobody begins another beside it
        asking += [asyncio.create_task(shared.read(make)) for _ in range(50)]
        await asyncio.sleep(0)
        make.may_end.set()
        texts = {body(text) for text in await asyncio.gather(*asking)}
        assert texts == {b"1"}
        seen = [body(await shared.read(make))]
        for seconds in (0.5, 0.25, 0.25, 0.75):
            loop.now += seconds
            seen.append(body(await shared.read(make)))
        return seen

    assert runner.run(ask()) == [b"2", b"2", b"2", b"3", b"3"]


def test_an_asker_who_leaves_takes_the_text_from_nobody(runner: asyncio.Runner) -> None:
    async def ask() -> bytes:
        shared, make = SharedText(), Maker()
        leaving = asyncio.create_task(shared.read(make))
        staying = asyncio.create_task(shared.read(make))
        await asyncio.sleep(0)
        leaving.cancel()
        make.may_end.set()
        return body(await staying)

    assert runner.run(ask()) == b"1"


def test_a_text_that_could_not_be_made_is_tried_again_after_a_second(
    runner: asyncio.Runner,
) -> None:
    async def ask() -> int:
        shared, make = SharedText(), Maker()
        make.error = OSError("no folder")
        make.may_end.set()
        for _ in range(3):
            with pytest.raises(OSError, match="no folder"):
                await shared.read(make)
        assert make.made == 1
        make.error = None
        asyncio.get_running_loop().now += 1  # type: ignore[attr-defined]
        await shared.read(make)
        return make.made

    assert runner.run(ask()) == 2


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


def test_the_files_of_several_processes_add_up_as_prometheus_clients_own_text_has_them(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for place in "12":
        subprocess.run([sys.executable, "-c", PROCESS, place], env=environment, check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]

    own, theirs = text_of_files(tmp_path), generate_latest(registry).decode()
    assert sorted(own.splitlines()) == sorted(theirs.splitlines())
    families = {family.name: family.type for family in text_string_to_metric_families(own)}
    assert families == {
        "made": "counter", "kinds": "counter", "open": "gauge",
        "waits": "histogram", "seconds": "histogram",
    }  # fmt: skip


def test_the_openapi_document_is_encoded_once_for_all_requests(edge: Edge) -> None:
    plain = {"accept-encoding": "identity"}
    first = edge.get("/openapi.json", headers=plain)
    document = edge.service.app.document
    assert edge.get("/openapi.json", headers=plain).content == first.content
    assert edge.get("/openapi.json", headers={"accept-encoding": "gzip"}).json() == first.json()
    assert edge.service.app.document is document
    assert first.headers["content-type"] == "application/json"
