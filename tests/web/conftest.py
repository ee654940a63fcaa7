"""Services that the tests of one module share: of webhooks' pages, and of sign-in by a provider."""

from collections.abc import Iterator

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.openid import Company, OpenIdProvider, signing_in
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


@pytest.fixture(scope="module")
def openid() -> Iterator[OpenIdProvider]:
    """The module's provider."""
    with OpenIdProvider() as openid:
        yield openid


@pytest.fixture(scope="module")
def company_of_module(
    server: EmbeddedPostgres, request: pytest.FixtureRequest, openid: OpenIdProvider
) -> Iterator[Company]:
    """A running service that trusts the module's provider."""
    name = "company_" + request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_")
    with signing_in(server, name, openid) as company:
        yield company


@pytest.fixture
def company(company_of_module: Company, openid: OpenIdProvider) -> Company:
    """The module's service; the provider behaves well again."""
    openid.reset()
    openid.clock = company_of_module.clock
    return company_of_module
