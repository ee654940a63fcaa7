"""The tests of the webhooks' pages share one service a module, and somebody who manages them."""

from collections.abc import Iterator

import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from tests.support.hooks import Hooks, hooked
from tests.support.visitor import Visitor, visitor


@pytest.fixture(scope="module")
def hooks(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Hooks]:
    """A running service that sends webhooks, with a database of its own."""
    with hooked(server, "hooks_" + request.module.__name__.rsplit(".", 1)[-1]) as hooks:
        yield hooks


@pytest.fixture
def guest(hooks: Hooks) -> Visitor:
    """Somebody who manages the organization's webhooks and reads its events."""
    return visitor(hooks.edge, "read", "webhooks:manage")
