"""Statements of an organization of its own, on a service that other tests share."""

import itertools
from datetime import datetime
from typing import Any, NamedTuple

import httpx
import msgspec
import psycopg

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import InstantText, format_instant
from ledger.features.usage.commands import IssueStatement, StatementNumbers
from ledger.features.usage.model.statement import StatementIssued
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact

APRIL = {"from": "2026-04-01", "to": "2026-04-15"}

_organizations = itertools.count(500_001)


class Tenant(NamedTuple):
    """An organization of its own, with tokens of all and of one workspace."""

    edge: Edge
    organization: str
    workspace: str
    token: str
    of_workspace: str

    def issue(self, token: str | None = None, **body: Any) -> httpx.Response:
        headers = body.pop("headers", {})
        return self.edge.post(
            "/v1/statements", token or self.token, json=APRIL | body, headers=headers
        )

    def issued(self, token: str | None = None, **body: Any) -> dict[str, Any]:
        answer = self.issue(token, **body)
        assert answer.status_code == 201, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def line(self, workspace: str | None = None, **more: Any) -> str:
        line = self.edge.fresh_id()
        tenant = {"organization_id": self.organization, "workspace_id": workspace or self.workspace}
        more.setdefault("time", "2026-04-01T00:00:00Z")
        self.edge.accept(activation(line, **tenant, **more), token=self.token)
        return line

    def accept(self, *facts: dict[str, Any]) -> None:
        self.edge.accept(*facts, token=self.token)

    def document(self, statement_id: str) -> dict[str, Any]:
        answer = self.edge.get(f"/v1/statements/{statement_id}", self.token)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def listed(self, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.edge.data(
            "/v1/statements", token or self.token, params=params
        )
        return found

    def withdraw(self, statement_id: str, reason: str = "A mistake") -> httpx.Response:
        path = f"/v1/statements/{statement_id}/withdraw"
        return self.edge.post(path, self.token, json={"reason": reason})

    def usage(self, **params: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.edge.data(
            "/v1/usage", self.token, params={"limit": 1000, **params}
        )
        return found


def check_in(line: str, hours: float | None, day: str, resource: str | None = None) -> Any:
    data = {"hours": hours, "resource_id": resource}
    return fact(
        "execution.checked_in",
        line,
        {name: value for name, value in data.items() if value is not None},
        time=f"{day}T10:00:00Z",
    )


def tenant_of(edge: Edge) -> Tenant:
    """A new organization."""
    number = next(_organizations)
    organization, workspace = f"ORG-26-{number}", f"WS-26-{number}"
    rights = ("read", "write", "statements:issue")
    token = edge.token(*rights, organization_id=organization)
    of_workspace = edge.token(*rights, organization_id=organization, workspace_id=workspace)
    return Tenant(edge, organization, workspace, token, of_workspace)


def alter(edge: Edge, statement: str) -> None:
    """Change a row as a superuser can, whom no trigger stops."""
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        assert connection.execute(statement.encode()).rowcount == 1


def issue_of(
    position: int, as_of: datetime, document_sha256: str = "00" * 32, replaces: str | None = None
) -> IssueStatement:
    """The command that issues a statement of March, whose document need not exist."""
    event = StatementIssued(
        organization_id=ORGANIZATION,
        workspace_id=WORKSPACE,
        from_=InstantText("2026-03-01T00:00:00Z"),
        to=InstantText("2026-04-01T00:00:00Z"),
        time_zone="UTC",
        as_of=InstantText(format_instant(as_of)),
        position=position,
        document_sha256=document_sha256,
        replaces=replaces,
    )
    return IssueStatement(
        COMMAND_LINE,
        None,
        organization_id=ORGANIZATION,
        workspace_id=WORKSPACE,
        replaces=replaces,
        numbers=StatementNumbers(event, as_of, msgspec.Raw(b"{}")),
    )
