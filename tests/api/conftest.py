"""The tests of the HTTP edge share one service a module; each uses lines of its own."""

from collections.abc import Iterator

import psycopg
import pytest

from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgres
from tests.conftest import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.hooks import Hooks, hooked


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """A running service with a database of its own."""
    name = "edge_" + request.module.__name__.rsplit(".", 1)[-1]
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE ledger_template STRATEGY FILE_COPY".encode()
        )
        try:
            with edge_of(settings, server.url.replace("/ledger?", f"/{name}?")) as edge:
                yield edge
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with hooked(server, "hooks_" + request.module.__name__.rsplit(".", 1)[-1]) as hooks:
        yield hooks
