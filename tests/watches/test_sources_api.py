"""Sources: who reports, last heard; and the watches of sources and of sums (contract, Watches)."""

from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact

SILENT = {"kind": "source_silent", "sources": ["/timesheets"]}
OVER = {"kind": "usage_over", "measure": "hours", "period": "week", "limit": 40}
_organizations = iter(range(26_100, 26_200))


class Tenant:
    """An organization of a test's own, with a token and a line."""

    def __init__(self, edge: Edge) -> None:
        self.edge, self.id = edge, f"ORG-26-{next(_organizations):06d}"
        tenant: dict[str, Any] = {"organization_id": self.id}
        self.token = edge.token("read", "write", "watches:manage", **tenant)
        self.line = edge.fresh("capacity", token=self.token, **tenant)

    def check_in(self, source: str, hours: float = 1, **more: Any) -> None:
        data = {"hours": hours}
        line = more.pop("line", self.line)
        sent = fact("execution.checked_in", line, data, source=source, **more)
        self.edge.accept(sent, token=self.token)

    def sources(self, token: str | None = None, **params: Any) -> list[dict[str, Any]]:
        answer = self.edge.get("/v1/sources", token or self.token, params=params)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    def preview(self, condition: dict[str, Any], **more: Any) -> dict[str, Any]:
        body = {"condition": condition, "for_seconds": 300} | more
        answer = self.edge.post("/v1/watches/preview", self.token, json=body)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()
        return data


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return Tenant(edge)


def test_sources_are_listed_as_they_last_reported(tenant: Tenant, edge: Edge) -> None:
    tenant.check_in("/one")
    edge.clock.advance(minutes=1)
    tenant.check_in("/two")
    edge.clock.advance(minutes=1)
    minute = edge.clock.now.replace(second=0, microsecond=0)
    tenant.check_in("/one")
    first, second, *_ = tenant.sources()
    assert [first["source"], second["source"]] == ["/one", "/two"]
    assert first["last_seen"] == f"{minute:%Y-%m-%dT%H:%M:%SZ}"
    assert first["first_seen"] < second["first_seen"]
    assert first["last_fact"] == {"type": "execution.checked_in", "subject": tenant.line}


def test_a_page_of_sources_leads_to_the_next_one(tenant: Tenant, edge: Edge) -> None:
    edge.clock.advance(minutes=2)
    for number in range(3):
        tenant.check_in(f"/{number}")
    page = edge.get("/v1/sources", tenant.token, params={"limit": 2}).json()
    cursor = page["meta"]["cursor"]
    rest = tenant.sources(cursor=cursor)
    names = [each["source"] for each in (*page["data"], *rest)]
    assert names[:3] == ["/2", "/1", "/0"]
    assert_problem(
        edge.get("/v1/sources", tenant.token, params={"cursor": "x"}), 400, "invalid_cursor"
    )


def test_a_preview_of_sources_tells_those_that_are_silent_now(tenant: Tenant, edge: Edge) -> None:
    tenant.check_in("/timesheets")
    assert tenant.preview(SILENT) == {"data": [], "meta": {"count": 0, "truncated": False}}
    edge.clock.advance(minutes=10)
    tenant.check_in("/planning")
    body = tenant.preview(SILENT | {"sources": ["/timesheets", "/planning", "/never"]})
    (row,) = body["data"]
    assert (row["service_line_id"], row["subject"]) == (
        None,
        {"type": "source", "id": "/timesheets"},
    )
    assert row["text"] == "Source /timesheets has been silent for 5 min."


def test_a_preview_of_sums_tells_the_lines_above_the_limit(tenant: Tenant, edge: Edge) -> None:
    tenant.check_in("/timesheets", 20)
    assert tenant.preview(OVER, for_seconds=0)["data"] == []
    edge.clock.advance(minutes=1)
    tenant.check_in("/timesheets", 21)
    (row,) = tenant.preview(OVER, for_seconds=0)["data"]
    assert row["subject"] == {"type": "service_line", "id": tenant.line}
    assert row["text"].endswith(" has used more than 40 hours this week.")
    assert row["since"][:16] == f"{edge.clock.now:%Y-%m-%dT%H:%M}"
    assert tenant.preview(OVER, for_seconds=60)["data"] == []
