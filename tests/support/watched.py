"""Organizations with watched lines, made through the API: for the tests of the pages."""

import itertools
from typing import Any, NamedTuple

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visitor

RIGHTS = ("read", "write", "service_lines:manage", "watches:manage")

BLOCKED = {"kind": "in_state", "states": ["blocked"]}

_organizations = itertools.count(700_001)


class Watched(NamedTuple):
    """An organization, a visitor who may do all about its alerts, and the key of that visitor."""

    edge: Edge
    organization: str
    workspace: str
    guest: Visitor
    token: str

    def line(self, name: str, **more: Any) -> str:
        tenant = {"organization_id": self.organization, "workspace_id": self.workspace}
        return self.edge.fresh(name=name, token=self.token, **tenant | more)

    def block(self, line: str, blocker: str = "b", **more: Any) -> None:
        data = {"blocker_id": blocker, "cause": "approval_gap", "reason": "Not approved."}
        self.report("execution.blocked", line, data | more)

    def unblock(self, line: str, blocker: str = "b") -> None:
        self.report("execution.unblocked", line, {"blocker_id": blocker})

    def report(self, type: str, line: str | None, data: Any) -> None:
        event = fact(type, line, data, time=f"{self.edge.clock.now:%Y-%m-%dT%H:%M:%S.%fZ}")
        self.edge.accept(event, token=self.token)

    def watch(self, name: str = "Blocked", severity: str = "critical", **more: Any) -> str:
        """A new watch: of blocked lines, at once, unless ``more`` says otherwise."""
        body = {"name": name, "severity": severity, "condition": BLOCKED, "for_seconds": 0} | more
        answer = self.edge.post("/v1/watches", self.token, json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["data"]["id"])

    def run_watches(self) -> None:
        """Let a second pass, and run a round of the watches."""
        self.edge.clock.advance(seconds=1)
        self.edge.run_watches()

    def alerts(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.edge.data(f"/v1/alerts?{query}", self.token)
        return found

    def watches(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.edge.data("/v1/watches", self.token)
        return found


def watched(edge: Edge) -> Watched:
    number = next(_organizations)
    organization = f"ORG-26-{number}"
    token = edge.token(*RIGHTS, organization_id=organization)
    return Watched(edge, organization, f"WS-26-{number}", Visitor(edge, token), token)
