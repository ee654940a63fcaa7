"""Names of workspaces and projects, and the directory of what lines bear (contract, Reading)."""

from datetime import timedelta
from typing import Any

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, fact

OTHER_WORKSPACE, OTHER_ORGANIZATION = "WS-26-000777", "ORG-26-000777"
TYPES = ("workspace", "project", "resource")


@pytest.fixture(scope="module")
def admin(edge: Edge) -> str:
    return edge.token("admin")


@pytest.fixture(scope="module")
def narrow(edge: Edge) -> str:
    tenant = {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE}
    return edge.token("read", "write", "audit:read", **tenant)


@pytest.fixture(scope="module")
def stranger(edge: Edge) -> str:
    return edge.token("read", "write", organization_id=OTHER_ORGANIZATION)


def name(edge: Edge, identifier: str, name: str | None, token: str | None = None) -> None:
    edge.accept(fact("directory.named", identifier, {"name": name}), token=token)


def directory(edge: Edge, type: str, token: str | None = None, **query: Any) -> dict[str, Any]:
    """(name, lines) by id, from all pages, whose ids must rise."""
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"type": type, "limit": 2} | query
    while True:
        page = edge.get("/v1/directory", token, params=params).json()
        found += page["data"]
        if not page["meta"]["has_more"]:
            break
        params["cursor"] = page["meta"]["cursor"]
    ids = [entry["id"] for entry in found]
    assert ids == sorted(ids)
    assert len(ids) == len(set(ids))
    assert {frozenset(entry) for entry in found} <= {frozenset({"id", "name", "lines"})}
    return {entry["id"]: (entry["name"], entry["lines"]) for entry in found}


def line_with(edge: Edge, token: str | None = None, **more: Any) -> str:
    line = edge.fresh_id()
    edge.accept(activation(line, "capacity", **more), token=token)
    return line


# Names.


def test_a_name_is_in_the_directory_once_a_line_bears_the_id(edge: Edge) -> None:
    name(edge, "PROJ-26-000100", "Billing")
    assert "PROJ-26-000100" not in directory(edge, "project")
    line_with(edge, project_tags=["PROJ-26-000100", "unnamed"])
    found = directory(edge, "project")
    assert (found["PROJ-26-000100"], found["unnamed"]) == (("Billing", 1), (None, 1))
    name(edge, "PROJ-26-000100", "Invoicing")
    assert directory(edge, "project")["PROJ-26-000100"] == ("Invoicing", 1)
    name(edge, "PROJ-26-000100", None)
    assert directory(edge, "project")["PROJ-26-000100"] == (None, 1)


def test_equal_ids_of_two_organizations_have_two_names(
    edge: Edge, stranger: str, admin: str
) -> None:
    tenant = {"workspace_id": "WS-26-000200"}
    line_with(edge, **tenant)
    line_with(edge, stranger, organization_id=OTHER_ORGANIZATION, **tenant)
    name(edge, "WS-26-000200", "Ours")
    name(edge, "WS-26-000200", "Theirs", stranger)
    assert directory(edge, "workspace")["WS-26-000200"] == ("Ours", 1)
    assert directory(edge, "workspace", stranger) == {"WS-26-000200": ("Theirs", 1)}
    page = edge.data("/v1/directory", admin, params={"type": "workspace", "limit": 100})
    of_both = [entry["name"] for entry in page if entry["id"] == "WS-26-000200"]
    assert of_both == ["Ours", "Theirs"]


def test_an_administrators_pages_have_each_organizations_entry_once(
    edge: Edge, admin: str, stranger: str
) -> None:
    line_with(edge, stranger, organization_id=OTHER_ORGANIZATION, project_tags=["both", "c"])
    line_with(edge, project_tags=["both", "a"])
    whole = edge.data("/v1/directory", admin, params={"type": "project", "limit": 100})
    single: list[Any] = []
    params: dict[str, Any] = {"type": "project", "limit": 1}
    while True:
        page = edge.get("/v1/directory", admin, params=params).json()
        single += page["data"]
        params["cursor"] = page["meta"]["cursor"]
        if not page["meta"]["has_more"]:
            break
    assert single == whole
    assert [entry["id"] for entry in whole].count("both") == 2


def test_a_name_is_published_with_its_subject_and_audited(edge: Edge, narrow: str) -> None:
    (item,) = edge.accept(fact("directory.named", WORKSPACE, {"name": "Core"}), token=narrow)
    assert item["subject"] == WORKSPACE
    event = edge.data(f"/v1/events/{item['event_ids'][0]}", narrow)
    assert event["type"] == "directory.named"
    assert event["subject"] == {"type": "workspace", "id": WORKSPACE}
    assert event["payload"] == {"name": "Core"}
    assert (event["organization_id"], event["workspace_id"]) == (ORGANIZATION, WORKSPACE)
    assert event["service_line_id"] is None
    (project,) = edge.accept(fact("directory.named", "PROJ-26-000001", {"name": None}))
    named = edge.data(f"/v1/events/{project['event_ids'][0]}")
    assert (named["subject"]["type"], named["workspace_id"]) == ("project", None)
    assert edge.get(f"/v1/events/{project['event_ids'][0]}", narrow).status_code == 404
    query = {"organization_id": ORGANIZATION, "action": "directory.named", "limit": 100}
    entries = edge.data("/v1/audit-logs", edge.token("admin"), params=query)
    resources = {entry["position"]: entry["resource"] for entry in entries}
    assert resources[item["position"]] == {"type": "workspace", "id": WORKSPACE}
    assert resources[project["position"]] == {"type": "project", "id": "PROJ-26-000001"}


def test_a_repeated_name_is_a_duplicate_and_another_content_a_conflict(edge: Edge) -> None:
    named = fact("directory.named", "PROJ-26-000300", {"name": "Once"})
    (first,) = edge.accept(named)
    again = edge.send(named)
    assert again.status_code == 200
    assert again.json()["data"] | {"outcome": "recorded"} == first
    conflict = edge.send(named | {"data": {"name": "Twice"}})
    assert_problem(conflict, 409, "fact_conflict")
    batch = edge.send_batch(*([fact("directory.named", "PROJ-26-000300", {"name": "N"})] * 2))
    assert [item["outcome"] for item in batch.json()["data"]] == ["recorded", "duplicate"]


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({}, "/data/name"),
        ({"name": ""}, "/data/name"),
        ({"name": "x" * 201}, "/data/name"),
        ({"name": "n", "organization_id": "ORG"}, "/data/organization_id"),
    ],
)
def test_a_wrong_name_is_refused(edge: Edge, admin: str, data: Any, pointer: str) -> None:
    more = {"organization_id": ORGANIZATION} | data
    refused = edge.send(fact("directory.named", "PROJ-26-000301", more), admin)
    problem = assert_problem(refused, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize("subject", [None, "LIN-26-000001", "WS-26-1", "ORG-26-000001", "PROJ-x"])
def test_only_workspaces_and_projects_are_named(edge: Edge, subject: str | None) -> None:
    problem = assert_problem(
        edge.send(fact("directory.named", subject, {"name": "n"})), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/subject"]


def test_an_administrator_says_which_organization_names(edge: Edge, admin: str) -> None:
    line_with(edge, project_tags=["PROJ-26-000400"])
    unsaid = edge.send(fact("directory.named", "PROJ-26-000400", {"name": "n"}), admin)
    problem = assert_problem(unsaid, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/data/organization_id"]
    body = {"name": "Said", "organization_id": ORGANIZATION}
    named = fact("directory.named", "PROJ-26-000400", body)
    edge.accept(named, token=admin)
    assert edge.send(named, admin).json()["data"]["outcome"] == "duplicate"
    assert directory(edge, "project")["PROJ-26-000400"] == ("Said", 1)


def test_no_credential_names_for_another_organization_or_from_a_workspace_what_is_not_its_own(
    edge: Edge, narrow: str
) -> None:
    for subject, data, token in (
        ("PROJ-26-000500", {"organization_id": OTHER_ORGANIZATION}, None),
        ("PROJ-26-000500", {}, narrow),
        (OTHER_WORKSPACE, {}, narrow),
    ):
        refused = edge.send(fact("directory.named", subject, {"name": "n"} | data), token)
        assert_problem(refused, 403, "forbidden")
    own = {"name": "Core", "organization_id": ORGANIZATION}
    edge.accept(fact("directory.named", WORKSPACE, own), token=narrow)
    query = {"organization_id": ORGANIZATION, "outcome": "refused", "action": "directory.named"}
    (entry, *_) = reversed(edge.data("/v1/audit-logs", narrow, params=query))
    assert entry["resource"] == {"type": "workspace", "id": OTHER_WORKSPACE}


# The workspaces, projects and resources of lines.


def test_an_entry_counts_the_lines_that_bear_it_now(edge: Edge, narrow: str) -> None:
    tags, elsewhere = ["PROJ-26-000600"], {"workspace_id": OTHER_WORKSPACE}
    first = line_with(edge, project_tags=tags)
    line_with(edge, project_tags=tags, **elsewhere)
    assert directory(edge, "project")["PROJ-26-000600"] == (None, 2)
    assert directory(edge, "project", narrow)["PROJ-26-000600"] == (None, 1)
    assert directory(edge, "workspace", narrow).keys() == {WORKSPACE}
    edge.accept(fact("service_line.closed", first))
    assert directory(edge, "project", narrow)["PROJ-26-000600"] == (None, 1)
    count = edge.data("/v1/execution/summary", params={"project_tag": "PROJ-26-000600"})["total"]
    assert directory(edge, "project")["PROJ-26-000600"] == (None, count)


def test_an_entry_leaves_with_its_last_line(edge: Edge) -> None:
    line = line_with(edge, project_tags=["PROJ-26-000700", "twice", "twice"])
    assert directory(edge, "project")["twice"] == (None, 1)
    edge.accept(fact("service_line.updated", line, {"name": "Tags stay"}))
    assert directory(edge, "project")["PROJ-26-000700"] == (None, 1)
    edge.accept(fact("service_line.updated", line, {"project_tags": ["PROJ-26-000701"]}))
    found = directory(edge, "project")
    assert found["PROJ-26-000701"] == (None, 1)
    assert found.keys().isdisjoint({"PROJ-26-000700", "twice"})


def test_a_resource_has_the_name_of_its_latest_allocation_with_a_name(
    edge: Edge, narrow: str
) -> None:
    def allocate(line: str, **more: Any) -> None:
        edge.accept(fact("resource.allocated", line, {"id": "SCR-9", "type": "talent"} | more))

    first = line_with(edge, resources=[{"id": "SCR-9", "type": "talent", "name": "Ann"}])
    second = line_with(edge, workspace_id=OTHER_WORKSPACE)
    assert directory(edge, "resource")["SCR-9"] == ("Ann", 1)
    allocate(second)
    assert directory(edge, "resource")["SCR-9"] == ("Ann", 2)
    allocate(second, name="Anna")
    assert directory(edge, "resource")["SCR-9"] == ("Anna", 2)
    assert directory(edge, "resource", narrow)["SCR-9"] == ("Ann", 1)
    for line in (first, second):
        edge.accept(fact("resource.released", line, {"id": "SCR-9"}))
    assert "SCR-9" not in directory(edge, "resource")


# The list.


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"type": "line"},
        {"type": "workspace,project"},
        {"type": "project", "as_of": "2026-01-01"},
        {"type": "project", "limit": "0"},
    ],
)
def test_a_wrong_parameter_is_refused(edge: Edge, query: dict[str, str]) -> None:
    assert_problem(edge.get("/v1/directory", params=query), 422, "invalid_request")


def test_an_empty_directory_is_an_empty_page(edge: Edge) -> None:
    nobody = edge.token("read", organization_id="ORG-26-000999")
    for type in TYPES:
        answer = edge.get("/v1/directory", nobody, params={"type": type})
        assert answer.json() == {"data": [], "meta": {"cursor": None, "has_more": False}}


# Organizations.


def test_administrators_list_organizations_with_their_lines_keys_and_latest_activity(
    edge: Edge, admin: str
) -> None:
    busy, empty = "ORG-26-000801", "ORG-26-000802"
    token = edge.token("read", "write", organization_id=busy)
    soon = f"{edge.clock.now + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    for expires_at in (None, None, soon):
        key = {"organization_id": busy, "permissions": ["read"], "expires_at": expires_at}
        made = edge.post("/v1/keys", admin, json=key).json()["data"]["id"]
        if expires_at is None:
            revoked = made
    edge.request("DELETE", f"/v1/keys/{revoked}", admin)
    edge.token("read", organization_id=empty)
    lines = [line_with(edge, token, organization_id=busy) for _ in range(3)]
    edge.clock.advance(minutes=1)
    edge.accept(fact("execution.checked_in", lines[0], {"hours": 1}), token=token)
    edge.accept(fact("service_line.closed", lines[1]), token=token)
    listed = edge.data("/v1/execution", token)
    assert len(listed) == 3
    latest = max(line["last_activity_at"] for line in listed)
    assert latest == listed[2]["last_activity_at"] > listed[0]["last_activity_at"]
    found = organizations(edge, admin, limit=1)
    assert found[busy] == (3, 2, latest)
    assert found[empty] == (0, 1, None)
    assert found == organizations(edge, admin, limit=100)
    assert [name for name in found if name in (busy, empty)] == [busy, empty]


def test_only_administrators_list_organizations_and_of_now_only(edge: Edge, admin: str) -> None:
    everything = edge.token(
        "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
        "keys:manage",
    )  # fmt: skip
    assert_problem(edge.get("/v1/organizations", everything), 403, "forbidden")
    for wrong in ("as_of=2026-01-01", "limit=0", "limit=101", "organization_id=ORG-26-000801"):
        assert_problem(edge.get(f"/v1/organizations?{wrong}", admin), 422, "invalid_request")
    assert_problem(edge.get("/v1/organizations?cursor=x", admin), 400, "invalid_cursor")


def organizations(edge: Edge, token: str, limit: int) -> dict[str, Any]:
    """(lines, keys, last activity) by id, from all pages, whose ids must rise."""
    found, params = list[dict[str, Any]](), {"limit": limit}
    while True:
        answer = edge.get("/v1/organizations", token, params=params)
        assert int(answer.headers["ledger-position"]) > 0
        found += answer.json()["data"]
        params["cursor"] = answer.json()["meta"]["cursor"]
        if not answer.json()["meta"]["has_more"]:
            break
    ids = [row["organization_id"] for row in found]
    assert ids == sorted(set(ids))
    return {
        id_: (r["lines"], r["keys"], r["last_activity_at"])
        for id_, r in zip(ids, found, strict=True)
    }
