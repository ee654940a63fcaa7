"""Whoever manages webhook endpoints, at random: part of a workload, and what must come of it."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.application.command import Command
from ledger.application.commands import webhooks
from ledger.application.writer import Writer
from ledger.demo import ORGANIZATIONS, WORKSPACES
from ledger.domain.endpoint import WebhookCreated, WebhookDeliveryFailed, WebhookUpdated
from ledger.domain.execution_events import HealthSignalReported
from ledger.domain.recorded import Recorded
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.request import Receipt
from ledger.language.published import PUBLISHED, TYPES
from tests.support.facts import ORGANIZATION, WORKSPACE

SECRET = "whsec_" + "A" * 43 + "="
_TYPES = sorted(TYPES)

TENANTS = (
    (ORGANIZATION, WORKSPACE),
    *((organization, WORKSPACES[organization][0]) for organization in ORGANIZATIONS),
)
"""Organizations of racers and of the story, with a workspace each."""


class Manager:
    """Sets up endpoints of some organizations and does everything to them that can be done."""

    def __init__(self, seed: int, tenants: Sequence[tuple[str, str]]) -> None:
        self._dice, self._tenants = random.Random(seed), tenants
        self.endpoints: list[str] = []
        self._rounds = 0

    def set_up(self, writer: Writer, count: int) -> None:
        """So many endpoints."""
        for outcome in writer.submit([self._create() for _ in range(count)]).result(20):
            assert isinstance(outcome, Receipt), outcome
            self.endpoints.append(outcome.subject)

    def act(self, writer: Writer, count: int) -> None:
        """So many commands; some of them are refused, as they should be."""
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

    def _next(self) -> Command:
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


def due_to(events: Sequence[Recorded], endpoint_id: str) -> dict[int, str]:
    """What an endpoint is to get: sequence → event id, counted in the plainest way."""
    state: dict[str, Any] = {"enabled": False}
    health: dict[tuple[str, str], str] = {}
    numbered: dict[int, str] = {}
    for event in events:
        if event.originator_id == endpoint_id:
            _settle(state, event)
        elif _is_news(event, health) and state["enabled"]:
            name = PUBLISHED[type(event.body)].name
            if (
                state["organization"] == event.organization_id
                and state["workspace"] in (None, event.workspace_id)
                and (state["types"] == ("*",) or name in state["types"])
            ):
                numbered[len(numbered) + 1] = event.event_id
    return numbered


def _settle(state: dict[str, Any], event: Recorded) -> None:
    """Take in what happened to the endpoint itself."""
    topic, body = type(event.body).TOPIC.split("/")[0], event.body
    if topic == "webhook.created":
        state |= {"organization": event.organization_id, "workspace": event.workspace_id}
    if topic in ("webhook.created", "webhook.updated"):
        assert isinstance(body, WebhookCreated | WebhookUpdated)
        state |= {"enabled": body.enabled, "types": body.event_types}
    if topic in ("webhook.disabled", "webhook.deleted"):
        state["enabled"] = False


def _is_news(event: Recorded, health: dict[tuple[str, str], str]) -> bool:
    """Whether feeds carry an event."""
    body = event.body
    if not isinstance(body, HealthSignalReported):
        return type(body) in PUBLISHED
    signal = (event.originator_id, body.signal)
    before, health[signal] = health.get(signal), body.status
    return before != body.status
