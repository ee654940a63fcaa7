"""A service that sends webhooks to this machine, and a token that may manage them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledger.app.composition.loops import Dispatching
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.facts import WORKSPACE
from tests.support.keys_api import Api

URL = "http://127.0.0.1:9/hooks?of=us"
"""No server listens there: a connection is refused at once."""

OTHER_ORGANIZATION, OTHER_WORKSPACE = "ORG-26-000002", "WS-26-000002"
NOBODYS = "WHK-26-999999"
KEYS = {
    "id", "url", "event_types", "organization_id", "workspace_id", "description", "enabled",
    "disabled_reason", "disabled_at", "created_at", "updated_at", "status",
    "format", "routing_key", "watch_ids", "min_severity", "details",
}  # fmt: skip
"""The JSON keys of an endpoint in the API."""


class Hooks(Api):
    """An edge, and a token that may manage webhooks."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge, "/v1/webhooks", "webhooks:manage", "audit:read")
        self.narrow = edge.token("webhooks:manage", workspace_id=WORKSPACE)
        self.other = edge.token("webhooks:manage", "audit:read", organization_id=OTHER_ORGANIZATION)

    def create(self, token: str | None = None, **body: Any) -> dict[str, Any]:
        """Create an endpoint; return the ``data`` of the answer."""
        body = {"url": URL, "event_types": ["*"]} | body
        answer = self.call("POST", token=token, json=body)
        assert answer.status_code == 201, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data


@contextmanager
def serving_webhooks(server: EmbeddedPostgres, name: str, **more: Any) -> Iterator[Hooks]:
    """A running service with a database of its own, and a dispatcher; ``more`` are settings."""
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        webhook_allow_private=True,
        webhook_retry_seconds="0.02,0.02",
        **more,
    )
    with copied(server.url, name) as conninfo, edge_of(settings, conninfo) as edge:
        # The dispatcher uses the service's clock, which stands: a new delivery is due at once.
        # Nor does a message to people wait for others.
        dispatching = Dispatching(settings, conninfo, edge.clock, gather=0)
        dispatching.start()
        try:
            yield Hooks(edge)
        finally:
            dispatching.stop()
