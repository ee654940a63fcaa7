"""A random manager of webhook endpoints, as part of a workload."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ledger.app.demo import ORGANIZATIONS, WORKSPACES
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import EARLIEST
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.feed.published import TYPES
from ledger.features.usage.commands import WithdrawStatement
from ledger.features.webhooks import commands as webhooks
from ledger.features.webhooks.model.endpoint import WebhookDeliveryFailed
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.statements import issue_of

SECRET = "whsec_" + "A" * 43 + "="
_TYPES = sorted(TYPES)

TENANTS = (
    (ORGANIZATION, WORKSPACE),
    *((organization, WORKSPACES[organization][0]) for organization in ORGANIZATIONS),
)
"""(organization, workspace) of the racers and of the demo's story."""


class EndpointManager:
    """A source of random commands of every kind for the endpoints of some organizations."""

    def __init__(self, seed: int, tenants: Sequence[tuple[str, str]]) -> None:
        self._dice, self._tenants = random.Random(seed), tenants
        self.endpoints: list[str] = []
        self.statements: list[str] = []
        self._rounds = 0

    def set_up(self, writer: Writer, count: int) -> None:
        """Create ``count`` endpoints."""
        for outcome in writer.submit([self._create() for _ in range(count)]).result(20):
            assert isinstance(outcome, Receipt), outcome
            self.endpoints.append(outcome.subject)
        for outcome in writer.submit([self._issue() for _ in range(count)]).result(20):
            assert isinstance(outcome, Receipt), outcome
            self.statements.append(outcome.subject)

    def act(self, writer: Writer, count: int) -> None:
        """Execute ``count`` random commands. The writer rightly refuses some of them."""
        writer.submit([self._next() for _ in range(count)]).result(20)

    def _create(self) -> Command:
        organization, workspace = self._dice.choice(self._tenants)
        return webhooks.CreateEndpoint(
            COMMAND_LINE,
            None,
            secret=SECRET,
            settings=self._settings(self._dice.random() < 0.9),
            organization_id=organization,
            workspace_id=self._dice.choice([None, workspace]),
        )

    def _settings(self, enabled: bool) -> webhooks.EndpointSettings:
        few = tuple(self._dice.sample(_TYPES, 5))
        types = self._dice.choice([("*",), few])
        return webhooks.EndpointSettings("http://127.0.0.1:9/", types, None, enabled)

    def _issue(self, replaces: str | None = None) -> Command:
        """A statement of numbers as of the beginning of time, whose document does not exist."""
        return issue_of(0, EARLIEST, self._dice.randbytes(32).hex(), replaces)

    def _next_statement(self) -> Command:
        statement = self._dice.choice(self.statements)
        if self._dice.random() < 0.2:
            return WithdrawStatement(statement, COMMAND_LINE, reason="r")
        return self._issue(self._dice.choice([None, statement]))

    def _next(self) -> Command:
        if self._dice.random() < 0.15:
            return self._next_statement()
        endpoint, dice = self._dice.choice(self.endpoints), self._dice.random()
        if dice < 0.4:
            return self._change(endpoint)
        if dice < 0.55:
            return webhooks.TestEndpoint(endpoint, COMMAND_LINE)
        if dice < 0.7:
            since = datetime.now(UTC) - timedelta(minutes=self._dice.random() * 60)
            return webhooks.RecoverEndpoint(endpoint, COMMAND_LINE, since=since)
        if dice < 0.8:
            return webhooks.RotateSecret(endpoint, COMMAND_LINE, secret=SECRET)
        if dice < 0.87:
            return webhooks.DisableEndpoint(endpoint, "failing", "http://127.0.0.1:9/")
        if dice < 0.97:
            self._rounds += 1
            body = WebhookDeliveryFailed(event_id="EVT-26-000001", sequence=1, attempts=5)
            return webhooks.GiveUpDelivery(endpoint, "EVT-26-000001", self._rounds, body)
        return webhooks.DeleteEndpoint(endpoint, COMMAND_LINE)

    def _change(self, endpoint: str) -> Command:
        settings = self._settings(self._dice.random() < 0.8)
        return webhooks.UpdateEndpoint(endpoint, COMMAND_LINE, settings=settings)
