"""The program of docs/integrating.md that reports a function's runs, over a network that fails."""

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

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fate = self.fates.pop(0) if self.fates else "passes"
        if fate == "lost":
            raise httpx.ConnectError("The network is away.")
        answer = super().handle_request(request)
        if fate == "unheard":
            answer.read()
            raise httpx.ReadError("The answer was lost.")
        return answer


class Reporter:
    """The documented program, without its example."""

    def __init__(self, address: str, token: str) -> None:
        (program,) = [
            f.text for f in fences(ROOT / "docs/integrating.md") if "def run_of" in f.text
        ]
        self.names: dict[str, Any] = {}
        exec(program.partition("@run_of")[0], self.names)
        self._client = {"base_url": address, "headers": {"authorization": f"Bearer {token}"}}
        self.pauses: list[float] = []
        self.names["time"] = SimpleNamespace(sleep=self.pauses.append)

    def close(self) -> None:
        self.names["ledger"].close()

    def run_of(self, line: str, *fates: Fate) -> Any:
        """The documented decorator, over a network with these fates."""
        self.close()
        self.network = Network(list(fates))
        self.names["ledger"] = httpx.Client(transport=self.network, **self._client)
        return self.names["run_of"](line)


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
    assert reporter.run_of(line, *fates)(divmod)(7, 2) == (3, 1)
    assert runs_of(edge, line) == [("completed", True)]
    assert reporter.network.fates == []
    types = [event["type"] for event in edge.data(f"/v1/execution/{line}/history")]
    assert types == ["execution.started", "run.started", "run.completed"]


def test_a_call_that_raises_is_a_failed_run_and_still_raises(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    with pytest.raises(ZeroDivisionError):
        reporter.run_of(line, "unheard", "unheard")(divmod)(1, 0)
    (run,) = edge.data(f"/v1/execution/{line}/runs")
    assert (run["status"], run["error"]["code"]) == ("failed", "ZeroDivisionError")


def test_each_call_of_a_decorated_function_is_a_run_of_its_own(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    divide = reporter.run_of(line)(divmod)
    assert [divide(4, 2), divide(9, 2)] == [(2, 0), (4, 1)]
    assert runs_of(edge, line) == [("completed", True)] * 2


def test_a_service_that_stays_away_delays_a_call_but_does_not_break_it(
    reporter: Reporter, edge: Edge
) -> None:
    line = edge.fresh()
    away = ("lost",) * 11
    assert reporter.run_of(line, *away)(divmod)(4, 2) == (2, 0)
    assert runs_of(edge, line) == []
    assert reporter.pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 0]
