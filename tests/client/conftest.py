"""A real service on a real port, shared by the tests of a module, and clients of it."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import Ledger, reporter

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.client.background import Switch
from tests.client.elk_program import Elk
from tests.client.support import Refusals, Service, StandIn
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.service import Clock
from tests.support.streaming import listening

_sources = itertools.count(1)


class RealClock(Clock):
    """The clock of the machine, by which clients give their facts a time."""

    def __call__(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """A running service, by the clock of the machine."""
    name = "client_" + request.module.__name__.rsplit(".", 1)[-1]
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        watch_seconds=3600,
        webhook_allow_private=True,
    )
    with (
        copied(server.url, name) as conninfo,
        edge_of(settings, conninfo, RealClock()) as edge,
    ):
        yield edge


@pytest.fixture(scope="module")
def service(edge: Edge) -> Iterator[Service]:
    """The service's address, with a token that may do everything in its organization."""
    with listening(edge) as address:
        token = edge.service.http.headers["authorization"].removeprefix("Bearer ")
        yield Service(edge, f"http://127.0.0.1:{address.port}", token)


@pytest.fixture
def refusals() -> Refusals:
    """The refusals that the test's client has told."""
    return Refusals()


@pytest.fixture
def switch() -> Switch:
    """The answer of the stand-in, which the test changes."""
    return Switch()


@pytest.fixture
def stand_in(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server that records each fact, unless its switch says otherwise."""
    monkeypatch.setattr(reporter, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(reporter, "LONGEST_PAUSE", 0.01)
    with StandIn(switch).serving() as stand_in:
        yield stand_in


@pytest.fixture
def options(service: Service, refusals: Refusals) -> dict[str, Any]:
    """The arguments of a client with a source of its own."""
    source = f"/client-{next(_sources)}"
    return {
        "url": service.address,
        "token": service.token,
        "source": source,
        "on_refused": refusals,
    }


@pytest.fixture
def ledger(options: dict[str, Any]) -> Iterator[Ledger]:
    """A client of the service."""
    with Ledger(**options) as ledger:
        yield ledger


@pytest.fixture
def anyone(tmp_path: Path) -> Elk:
    """``elk`` of a user who has not logged in."""
    return Elk(tmp_path / "home")


@pytest.fixture
def elk(anyone: Elk, service: Service) -> Elk:
    """``elk`` with the service's address and its token in the environment."""
    return anyone.having(ELK_URL=service.address, ELK_TOKEN=service.token)
