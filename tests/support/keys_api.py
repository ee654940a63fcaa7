"""API keys over HTTP: a client with keys of every kind."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import httpx

from ledger.engine.values.values import format_instant
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE

OTHER_ORGANIZATION = "ORG-26-000002"


class Made(NamedTuple):
    """A key that was made over HTTP."""

    id: str
    token: str
    data: dict[str, Any]


class Api:
    """A service, and tokens that manage the things below a path."""

    def __init__(self, edge: Edge, path: str, *permissions: str) -> None:
        self.edge, self.path = edge, path
        self.token = edge.token(*permissions)
        self.admin = edge.token("admin", organization_id=None)

    def call(
        self, method: str, path: str = "", token: str | None = None, **options: Any
    ) -> httpx.Response:
        return self.edge.request(method, self.path + path, token or self.token, **options)

    def data(self, path: str = "", token: str | None = None) -> Any:
        answer = self.call("GET", path, token)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def head(self) -> int:
        """The log's last position."""
        return int(self.edge.select("SELECT max(notification_id) FROM ledger.ledger_events")[0][0])

    def audited(self, after: int, organization: str = ORGANIZATION) -> list[dict[str, Any]]:
        """The audit log's entries after a position."""
        path = f"/v1/audit-logs?organization_id={organization}&limit=100&after=AUD-26-{after:06d}"
        entries: list[dict[str, Any]] = self.edge.data(path, self.admin)
        return entries

    def entries(self, after: int, organization: str = ORGANIZATION) -> list[tuple[Any, ...]]:
        """(action, code, resource's id) of the entries after a position."""
        return [
            (entry["action"], entry["code"], entry["resource"] and entry["resource"]["id"])
            for entry in self.audited(after, organization)
        ]


class Keys(Api):
    """An edge, and tokens that may manage keys."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge, "/v1/keys", "read", "write", "audit:read", "keys:manage")
        self.narrow = edge.token("read", "keys:manage", workspace_id=WORKSPACE)
        self.other = edge.token("read", "keys:manage", organization_id=OTHER_ORGANIZATION)

    def create(self, token: str | None = None, **body: Any) -> Made:
        """Create a key that may read, unless the body says otherwise."""
        answer = self.call("POST", token=token, json={"permissions": ["read"]} | body)
        assert answer.status_code == 201, answer.text
        data = answer.json()["data"]
        secret = data.pop("key")
        return Made(data["id"], secret, data)

    def works(self, token: str) -> bool:
        """True if a token passes now: its answer is 200 or 403, else it must be 401."""
        status = self.edge.get("/v1/log/proof/consistency?from=0&to=0", token).status_code
        return status != 401

    def forget(self) -> None:
        """Let the worker forget the keys that it remembers for two seconds."""
        self.edge.service.app.state.services.authenticator._cached.clear()

    def in_(self, **duration: float) -> str:
        """An instant that much later than the service's present."""
        return format_instant(self.instant(**duration))

    def instant(self, **duration: float) -> datetime:
        return self.edge.clock() + timedelta(**duration)


def every_command(key_id: str) -> list[tuple[str, str, Any, str]]:
    """Every command about one key, with a valid body, and its action in the audit log."""
    return [
        ("PATCH", f"/{key_id}", {"name": "changed"}, "key.update"),
        ("POST", f"/{key_id}/rotate", {}, "key.rotate"),
        ("DELETE", f"/{key_id}", None, "key.revoke"),
    ]
