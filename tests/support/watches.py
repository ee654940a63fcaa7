"""Watches and their alerts, made through the API."""

from typing import Any

import httpx

from tests.support.edge import Edge

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
    edge.look()
    (alert,) = edge.data("/v1/alerts", token, params={"watch_id": watch})
    return watch, alert["id"]
