"""The way of a fact and of a read through the code (`docs/architecture.md`): its modules.

A module that joins a way must be added here. Values, errors and settings are left out.
"""

import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import httpx
import pytest

from ledger.settings import Settings
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact

LEFT_OUT = {
    "ledger.domain.errors",
    "ledger.domain.identity",
    "ledger.domain.recorded",
    "ledger.domain.values",
    "ledger.intake.principal",
    "ledger.intake.request",
    "ledger.postgres.scope",
    "ledger.reads.question",
    "ledger.settings",
}
EDGE = {
    "ledger.api.access.authentication",
    "ledger.api.app",
    "ledger.api.lean",
    "ledger.api.machinery.compression",
    "ledger.api.machinery.headers",
    "ledger.api.machinery.middleware",
    "ledger.api.machinery.shares",
    "ledger.api.reading",
    "ledger.api.services",
}
WAY_OF_A_FACT = EDGE | {
    "ledger.api.machinery.bodies",
    "ledger.api.parsing",
    "ledger.api.routes.facts",
    "ledger.api.submissions",
    "ledger.api.writing",
    "ledger.application.carry_out",
    "ledger.application.idempotency",
    "ledger.application.loader",
    "ledger.application.metrics",
    "ledger.application.new_events",
    "ledger.application.recording",
    "ledger.application.report",
    "ledger.application.report_runs",
    "ledger.application.turns",
    "ledger.application.unit",
    "ledger.application.writer",
    "ledger.domain.directory",
    "ledger.domain.execution",
    "ledger.domain.run",
    "ledger.intake.envelope",
    "ledger.intake.json_gate",
    "ledger.log.append",
    "ledger.log.codec",
    "ledger.log.decisions",
    "ledger.log.keys",
    "ledger.log.recorder",
    "ledger.log.vault",
    "ledger.postgres.binary",
    "ledger.postgres.clocks",
    "ledger.postgres.exchange",
    "ledger.postgres.pipeline",
    "ledger.postgres.rows",
    "ledger.postgres.session",
    "ledger.telemetry.lines",
}
AFTER_THE_COMMIT = {
    "ledger.api.replies",
    "ledger.postgres.door",
    "ledger.postgres.lane",
    "ledger.postgres.listening",
    "ledger.postgres.loop",
    "ledger.postgres.waiting",
    "ledger.reads.answers",
    "ledger.reads.positions",
}
"""Modules from the commit to the answer, which waits for the views, and modules that timers run."""
WAY_OF_A_READ = EDGE | {
    "ledger.api.replies",
    "ledger.api.routes.executions",
    "ledger.postgres.door",
    "ledger.postgres.exchange",
    "ledger.postgres.lane",
    "ledger.postgres.loop",
    "ledger.postgres.waiting",
    "ledger.reads.answers",
    "ledger.reads.asking",
    "ledger.reads.positions",
}


class Trace:
    """Records the modules that execute, by thread."""

    def __init__(self) -> None:
        self.executed: set[tuple[str, str]] = set()
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.is_on and event == "call":
            thread = threading.current_thread().name
            self.executed.add((thread, frame.f_globals.get("__name__", "")))

    def modules_of(
        self, send: Callable[[], httpx.Response], status: int, *threads: str
    ) -> set[str]:
        """Return the modules that execute for a request.

        The request is sent once before, so that connections, statements and caches exist already.
        """
        send()
        self.executed, self.is_on = set(), True
        answer = send()
        self.is_on = False
        assert answer.status_code == status, answer.text
        executed = {module for thread, module in self.executed if thread in threads}
        return {m for m in executed if m.startswith(("ledger.", "projections."))} - LEFT_OUT


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


def test_a_fact_executes_exactly_the_modules_of_its_way(trace: Trace, traced: Edge) -> None:
    line = traced.fresh()

    def start() -> httpx.Response:
        return traced.send(fact("run.started", None, {"service_line_id": line}))

    assert trace.modules_of(start, 201, "edge", "ledger-writer") - AFTER_THE_COMMIT == WAY_OF_A_FACT


def test_a_read_executes_exactly_the_modules_of_its_way(trace: Trace, traced: Edge) -> None:
    path = f"/v1/execution/{traced.fresh()}"
    executed = trace.modules_of(lambda: traced.get(path), 200, "edge")
    assert executed - {"ledger.postgres.listening"} == WAY_OF_A_READ
