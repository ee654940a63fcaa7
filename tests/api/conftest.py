"""The tests of the HTTP edge share one service a module; each uses lines of its own."""

from collections.abc import Iterator

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.audits import Tenant
from tests.support.edge import Edge
from tests.support.watches import Watcher
from tests.support.webhook_api import Hooks, serving_webhooks


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with serving_webhooks(server, "hooks_" + request.module.__name__.rsplit(".", 1)[-1]) as hooks:
        yield hooks


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return Tenant(edge)


@pytest.fixture
def watcher(edge: Edge) -> Watcher:
    return Watcher(edge)
