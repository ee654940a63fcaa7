"""An organization of a test's own, and its audit log, whole or abbreviated."""

import itertools
from typing import Any

import httpx

from tests.support.edge import Edge

SIBLING = "WS-26-000002"
REASON = {"json": {"reason": "because"}}
SYSTEM_TYPES = {
    "run.parent_given",
    "execution.idle", "execution.active", "webhook.delivery_failed",
    "alert.opened", "alert.reminded", "alert.resolved",
}  # fmt: skip
"""Types of events that only the ledger itself records: no action leads to them."""

Entry = dict[str, Any]
_organizations = itertools.count(100)


class Tenant:
    """An organization of a test's own: its tokens, its lines and its audit log."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.organization = f"ORG-26-{next(_organizations):06d}"
        self.token = self.new_token("read", "write", "service_lines:manage", "audit:read")

    def new_token(self, *permissions: str, **tenant: str | None) -> str:
        return self.edge.token(*permissions, **({"organization_id": self.organization} | tenant))

    def line(self, **more: Any) -> str:
        more = {"organization_id": self.organization, "token": self.token} | more
        return self.edge.fresh(**more)

    def log(self, token: str | None = None, **params: Any) -> list[Entry]:
        """The whole audit log, page by page."""
        entries: list[Entry] = []
        params = {"organization_id": self.organization, "limit": 100} | params
        ((end,),) = self.edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
        headers = {"ledger-min-position": str(end)}
        while True:
            token = token or self.token
            answer = self.edge.get("/v1/audit-logs", token, params=params, headers=headers)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert entries[-1:] != page["data"][-1:] or not entries, "an entry is repeated"
            entries += page["data"]
            if not page["meta"]["has_more"]:
                return entries
            params["cursor"] = page["meta"]["cursor"]

    def entries_after(self, *before: Entry) -> list[tuple[Any, ...]]:
        """The entries after the given first ones, abbreviated."""
        return [short(entry) for entry in self.log()[len(before) :]]

    def pause(self, line: str, query: str = "", **options: Any) -> httpx.Response:
        path = f"/v1/execution/{line}/pause{query}"
        token = options.pop("token", self.token)
        return self.edge.post(path, token, **(options or REASON))


def short(entry: Entry) -> tuple[Any, ...]:
    """(action, resource's id, outcome, code) of an entry."""
    about = entry["resource"] and entry["resource"]["id"]
    return entry["action"], about, entry["outcome"], entry["code"]
