"""Watches and their alerts, made through the API."""

from typing import Any

import httpx

from tests.support.audits import Tenant
from tests.support.edge import Edge
from tests.support.facts import fact

RUNNING = {"kind": "in_state", "states": ["running"]}
BLOCKED = {"kind": "in_state", "states": ["blocked"]}


def send_watch(edge: Edge, token: str | None, **more: Any) -> httpx.Response:
    """Set up a watch that is due at once, unless the fields say otherwise."""
    body = {"name": "Blocked", "condition": BLOCKED, "for_seconds": 0} | more
    return edge.post("/v1/watches", token, json=body)


def create_watch(edge: Edge, token: str | None, **more: Any) -> dict[str, Any]:
    """A new watch, as the answer shows it."""
    answer = send_watch(edge, token, **more)
    assert answer.status_code == 201, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def watched(edge: Edge, token: str | None, line: str, **more: Any) -> tuple[str, str]:
    """The ids of a new watch of a line, whatever its state is, and of the alert that it opens."""
    state = edge.data(f"/v1/execution/{line}", token)["state"]
    condition = {"kind": "in_state", "states": [state]}
    lines = {"service_line_id": [line]}
    watch = create_watch(edge, token, condition=condition, lines=lines, **more)["id"]
    edge.clock.advance(seconds=1)  # a standing clock is behind the instants of recording
    edge.run_watches()
    (alert,) = edge.data("/v1/alerts", token, params={"watch_id": watch})
    return watch, alert["id"]


class Watcher(Tenant):
    """An organization of a test's own that has watches and alerts."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge)
        self.token = self.new_token(
            "read", "write", "service_lines:manage", "audit:read", "watches:manage"
        )

    def create(self, **more: Any) -> dict[str, Any]:
        return create_watch(self.edge, more.pop("token", self.token), **more)

    def watch(self, watch: str, token: str | None = None) -> dict[str, Any]:
        data: dict[str, Any] = self.edge.data(f"/v1/watches/{watch}", token or self.token)
        return data

    def patch(self, watch: str, **changes: Any) -> httpx.Response:
        return self.edge.request("PATCH", f"/v1/watches/{watch}", self.token, json=changes)

    def delete(self, watch: str) -> httpx.Response:
        return self.edge.request("DELETE", f"/v1/watches/{watch}", self.token)

    def block(self, line: str, blocker: str = "b", **more: Any) -> None:
        data = {"blocker_id": blocker, "cause": "approval_gap", "reason": "Not approved."} | more
        self.edge.accept(fact("execution.blocked", line, data), token=self.token)

    def unblock(self, line: str, blocker: str = "b") -> None:
        data = {"blocker_id": blocker}
        self.edge.accept(fact("execution.unblocked", line, data), token=self.token)

    def run_watches(self, **passed: float) -> None:
        """Let time pass, at least a second, and then run a round of the watches."""
        self.edge.clock.advance(**(passed or {"seconds": 1}))
        self.edge.run_watches()

    def blocked(self, *names: str, **more: Any) -> list[str]:
        """New lines of these names that are blocked, a minute after each other."""
        lines = []
        for name in names:
            self.edge.clock.advance(minutes=1)
            lines.append(self.line(name=name, **more))
            self.block(lines[-1])
        return lines

    def alerts(self, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = self.edge.data(
            "/v1/alerts", token or self.token, params={"limit": 100} | params
        )
        return data

    def alert(self, alert: str, token: str | None = None, **params: Any) -> dict[str, Any]:
        path = f"/v1/alerts/{alert}"
        data: dict[str, Any] = self.edge.data(path, token or self.token, params=params)
        return data

    def acknowledge(self, alert: str, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {} if key is None else {"idempotency-key": key}
        path, token = f"/v1/alerts/{alert}/acknowledge", more.pop("token", self.token)
        return self.edge.post(path, token, json=more, headers=headers)

    def acknowledge_many(self, *alerts: str, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {} if key is None else {"idempotency-key": key}
        body = {"ids": [*alerts]} | more
        return self.edge.post("/v1/alerts/acknowledge", self.token, json=body, headers=headers)
