"""The program of docs/integrating.md that reports a function's runs, over a network that fails."""

import queue
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.support.documents import ROOT, fences
from tests.support.edge import Edge
from tests.support.streaming import listening

Fate = str
"""The fate of a request: "passes", "lost" on its way, or "unheard", if its answer is lost."""


class Network(httpx.HTTPTransport):
    """A network in which each of the next requests has a fate; all later ones pass."""

    def __init__(self, fates: list[Fate]) -> None:
        super().__init__()
        self.fates = fates
        self.is_asked = threading.Event()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.is_asked.set()
        fate = self.fates.pop(0) if self.fates else "passes"
        if fate == "lost":
            raise httpx.ConnectError("The network is away.")
        answer = super().handle_request(request)
        if fate == "unheard":
            answer.read()
            raise httpx.ReadError("The answer was lost.")
        return answer


class Reporter:
    """The documented program, without its example. Its pauses end when ``goes_on`` is set."""

    def __init__(self, address: str, token: str) -> None:
        (program,) = [
            f.text for f in fences(ROOT / "docs/integrating.md") if "def run_of" in f.text
        ]
        self.names: dict[str, Any] = {}
        exec(program.partition("@run_of")[0], self.names)
        self._address, self._token = address, token
        self.pauses: list[float] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.names["time"] = SimpleNamespace(
            sleep=self._pause, monotonic=self.names["time"].monotonic
        )

    def _pause(self, seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.pauses.append(seconds)
            assert self.goes_on.wait(60)

    def flush(self) -> None:
        """Wait until everything is judged."""
        assert self.names["flush"](60)

    def close(self) -> None:
        self.goes_on.set()
        self.flush()
        self.names["ledger"].close()

    def call(self, line: str, function: Any, *fates: Fate, token: str | None = None) -> Any:
        """Call a documented run of the function, over a network with these fates.

        The function goes on once the start of its run was sent: the end is sent by itself.
        """
        self.names["ledger"].close()
        self.network = network = Network(list(fates))
        headers = {"authorization": f"Bearer {token or self._token}"}
        self.names["ledger"] = httpx.Client(
            transport=network, base_url=self._address, headers=headers
        )

        def body() -> Any:
            assert network.is_asked.wait(60)
            return function()

        return self.names["run_of"](line)(body)()


@pytest.fixture
def reporter(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    # The program tells real times, which may not lie ahead of the service's clock.
    edge.clock.now = datetime.now(UTC)
    token = edge.token("read", "write")
    with listening(edge) as (host, port):
        monkeypatch.setenv("LEDGER", f"http://{host}:{port}")
        monkeypatch.setenv("TOKEN", token)
        reporter = Reporter(f"http://{host}:{port}", token)
        yield reporter
        reporter.close()


def runs_of(edge: Edge, line: str) -> list[tuple[str, bool]]:
    """(status, whether the run has a start) of each run of a line."""
    runs = edge.data(f"/v1/execution/{line}/runs")
    return [(run["status"], run["started_at"] is not None) for run in runs]


@pytest.mark.parametrize(
    "fates",
    [
        (),
        ("lost",),
        ("unheard",),
        ("passes", "lost"),
        ("passes", "unheard"),
        ("lost", "lost", "unheard", "lost", "unheard"),
        ("unheard", "unheard", "unheard"),
    ],
)
def test_a_call_is_one_run_whatever_the_network_loses(
    reporter: Reporter, edge: Edge, fates: tuple[Fate, ...]
) -> None:
    line = edge.fresh()
    assert reporter.call(line, lambda: divmod(7, 2), *fates) == (3, 1)
    reporter.flush()
    assert runs_of(edge, line) == [("completed", True)]
    assert reporter.network.fates == []
    types = [event["type"] for event in edge.data(f"/v1/execution/{line}/history")]
    assert types == ["execution.started", "run.started", "run.completed"]


def test_a_call_that_raises_is_a_failed_run_and_still_raises(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    with pytest.raises(ZeroDivisionError):
        reporter.call(line, lambda: divmod(1, 0), "unheard", "unheard")
    reporter.flush()
    (run,) = edge.data(f"/v1/execution/{line}/runs")
    assert (run["status"], run["error"]["code"]) == ("failed", "ZeroDivisionError")


def test_each_call_of_a_decorated_function_is_a_run_of_its_own(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    divide = reporter.names["run_of"](line)(divmod)
    assert [divide(4, 2), divide(9, 2)] == [(2, 0), (4, 1)]
    reporter.flush()
    assert runs_of(edge, line) == [("completed", True)] * 2


def test_a_service_that_stays_away_neither_delays_nor_breaks_a_call_and_hears_of_it_later(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    reporter.goes_on.clear()
    assert reporter.call(line, lambda: divmod(4, 2), *["lost"] * 9) == (2, 0)
    assert runs_of(edge, line) == []
    assert not reporter.names["flush"](0)
    reporter.goes_on.set()
    reporter.flush()
    assert runs_of(edge, line) == [("completed", True)]
    assert reporter.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_an_ended_key_or_an_unknown_line_hides_no_error_of_the_function_and_is_logged(
    reporter: Reporter, edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError):
        reporter.call(edge.fresh(), lambda: divmod(1, 0), token="elk_ended")
    reporter.flush()
    assert ['"unauthorized"' in message for message in caplog.messages] == [True, True]
    caplog.clear()
    assert reporter.call("LIN-26-999999", lambda: divmod(4, 2)) == (2, 0)
    reporter.flush()
    assert ["not_found" in message for message in caplog.messages] == [True, True]


def test_a_fact_that_finds_no_room_in_memory_is_logged_and_delays_nothing(
    reporter: Reporter, edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    line = edge.fresh()
    kept, reporter.names["waiting"] = reporter.names["waiting"], queue.Queue(1)
    reporter.names["waiting"].put("full")
    assert reporter.names["run_of"](line)(divmod)(4, 2) == (2, 0)
    assert [message.endswith("is not reported.") for message in caplog.messages] == [True, True]
    reporter.names["waiting"] = kept
