"""The ways of a fact and of a read through the code (`docs/architecture.md`) stay short.

Values, errors and settings are no modules of a way. Frames are all calls of our functions.
"""

import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import httpx
import pytest

from ledger.app.settings import Settings
from tests.support.databases import execute
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact

LEFT_OUT = {
    "ledger.engine.values.errors",
    "ledger.engine.values.recorded",
    "ledger.engine.values.values",
    "ledger.engine.values.principal",
    "ledger.engine.writer.request",
    "ledger.engine.postgres.pool.scope",
    "ledger.engine.reads.question",
    "ledger.app.settings",
}
OF_THE_LISTENER = {"ledger.engine.postgres.listening", "ledger.engine.postgres.session"}
"""The modules of the listener, which wakes at any moment."""
AFTER_THE_COMMIT = OF_THE_LISTENER | {
    "ledger.engine.http.replies",
    "ledger.engine.postgres.pool.read_pool",
    "ledger.engine.postgres.pool.pipelined",
    "ledger.engine.postgres.pool.round_robin",
    "ledger.engine.reads.answers",
    "ledger.engine.reads.positions",
}
"""Modules from the commit to the answer, which waits for the views, and modules that timers run."""
MODULES_OF_A_FACT = 35
MODULES_OF_A_READ = 15
FRAMES_OF_A_FACT = 440
FRAMES_OF_A_FACT_AND_ITS_VIEWS = 910
FRAMES_OF_A_READ = {"kept": 112, "changed": 120, "changed unheard": 178}
"""The ceilings of both ways, which may only fall.

A check confirms a cached answer. After a change with a notification, a read needs no check, but a
statement. After a change without one, it needs both.
"""
ROUNDS = 9
"""A request is sent so often, since timers and other requests' ends add frames to some."""


class Trace:
    """Records the modules that execute, by thread."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, str]] = []
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.is_on and event == "call":
            thread = threading.current_thread().name
            self.executed.append((thread, frame.f_globals.get("__name__", "")))

    def frames_of(
        self,
        send: Callable[[], httpx.Response],
        status: int,
        *threads: str,
        prepare: Callable[[], object] = lambda: None,
    ) -> list[str]:
        """Return the module of each frame that executes for a request, of the shortest of some.

        The request is sent once before, so that connections, statements and caches exist already.
        """
        send()
        every = []
        for _ in range(ROUNDS):
            prepare()
            self.executed, self.is_on = [], True
            answer = send()
            self.is_on = False
            assert answer.status_code == status, answer.text
            executed = [module for thread, module in self.executed if thread in threads]
            every.append([m for m in executed if m.startswith(("ledger.", "projections."))])
        return min(every, key=len)


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    threading.setprofile(trace)
    yield trace
    threading.setprofile(None)


@pytest.fixture
def traced(trace: Trace, settings: Settings, conninfo: str) -> Iterator[Edge]:
    with edge_of(settings, conninfo) as edge:
        yield edge


def test_a_fact_executes_no_more_modules_and_frames_than_before(
    trace: Trace, traced: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a fact into the log; then the same with the views of an append that moves them."""
    line, writer = traced.fresh(), traced.service.app.state.services.writer

    def start() -> httpx.Response:
        return traced.send(fact("run.started", None, {"service_line_id": line}))

    monkeypatch.setattr("ledger.engine.views.inline._ALONE_SECONDS", 0.0)
    with monkeypatch.context() as apart:
        apart.setattr(writer, "views", None)
        frames = trace.frames_of(start, 201, "edge", "ledger-writer")
    way = set(frames) - LEFT_OUT - AFTER_THE_COMMIT
    assert len(way) <= MODULES_OF_A_FACT, sorted(way)
    assert len(frames) <= FRAMES_OF_A_FACT
    frames = trace.frames_of(start, 201, "edge", "ledger-writer")
    assert "projections.runs.view" in frames
    assert len(frames) <= FRAMES_OF_A_FACT_AND_ITS_VIEWS


@pytest.mark.parametrize("way", FRAMES_OF_A_READ)
def test_a_read_executes_no_more_modules_and_frames_than_before(
    trace: Trace, traced: Edge, way: str
) -> None:
    line = traced.fresh()

    def change() -> None:
        if way == "changed":
            traced.accept(fact("run.started", None, {"service_line_id": line}))
        elif way == "changed unheard":
            execute(traced.conninfo, "UPDATE ledger.projection SET generation = generation + 1")

    frames = trace.frames_of(
        lambda: traced.get(f"/v1/execution/{line}"), 200, "edge", prepare=change
    )
    modules = set(frames) - LEFT_OUT - OF_THE_LISTENER
    assert len(modules) <= MODULES_OF_A_READ, sorted(modules)
    assert len(frames) <= FRAMES_OF_A_READ[way]
