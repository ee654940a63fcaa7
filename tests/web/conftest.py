"""The tests of the webhooks' pages share one service per module, and a visitor who manages them."""

from collections.abc import Iterator

import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from tests.support.visitor import Visitor, visitor
from tests.support.webhook_api import Hooks, serving_webhooks


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with serving_webhooks(server, "hooks_" + request.module.__name__.rsplit(".", 1)[-1]) as hooks:
        yield hooks


@pytest.fixture
def guest(hooks: Hooks) -> Visitor:
    """A visitor who manages the organization's webhooks and reads its events."""
    return visitor(hooks.edge, "read", "webhooks:manage")
