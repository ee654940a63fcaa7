"""Each credential may ask who it is (contract, Access)."""

import pytest

from ledger import __version__
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.webhook_api import OTHER_ORGANIZATION, OTHER_WORKSPACE

KEYS = [
    "id", "type", "name", "organization_id", "workspace_id", "permissions", "expires_at", "version",
    "service_line",
]  # fmt: skip
A, B = "LIN-26-000001", "LIN-26-000002"
ENDS = "2091-01-01T00:00:00Z"


@pytest.mark.parametrize("permission", ["write", "keys:manage"])
@pytest.mark.parametrize("workspace", [None, WORKSPACE])
def test_a_key_of_any_permission_reads_its_tenant_and_rights(
    edge: Edge, permission: str, workspace: str | None
) -> None:
    token = edge.token(permission, organization_id=ORGANIZATION, workspace_id=workspace)
    data = edge.data("/v1/credential", token)
    assert list(data) == KEYS
    assert data["id"].startswith("KEY-")
    assert data | {"id": "", "name": ""} == {
        "id": "",
        "type": "api_key",
        "name": "",
        "organization_id": ORGANIZATION,
        "workspace_id": workspace,
        "permissions": [permission],
        "expires_at": None,
        "version": __version__,
        "service_line": None,
    }


def test_a_key_reads_its_name_and_when_it_expires(edge: Edge) -> None:
    manager = edge.token("keys:manage", "read", organization_id=ORGANIZATION)
    body = {"name": "reports", "permissions": ["read"], "expires_at": ENDS}
    made = edge.post("/v1/keys", manager, json=body).json()["data"]
    answer = edge.get("/v1/credential", made["key"])
    data = answer.json()["data"]
    assert (data["id"], data["name"], data["expires_at"]) == (made["id"], "reports", ENDS)
    assert int(answer.headers["ledger-position"]) > 0
    edge.request("DELETE", f"/v1/keys/{made['id']}", manager)


def test_an_administrator_belongs_to_no_organization(edge: Edge) -> None:
    token = edge.token("admin", organization_id=None, workspace_id=None)
    data = edge.data("/v1/credential", token)
    assert (data["organization_id"], data["workspace_id"]) == (None, None)
    assert data["permissions"] == ["admin"]


def test_without_a_valid_credential_nothing_is_shown(edge: Edge) -> None:
    assert_problem(edge.get("/v1/credential", "elk_nobody"), 401, "unauthorized")
    assert_problem(edge.get("/v1/credential?as_of=2026-04-01"), 422, "invalid_request")


@pytest.mark.parametrize("permission", ["read", "write", "admin"])
def test_a_credential_gets_the_state_of_a_line_as_the_last_write_left_it(
    edge: Edge, permission: str
) -> None:
    is_admin = permission == "admin"
    tenant = {"organization_id": None, "workspace_id": None} if is_admin else {}
    token = edge.token(permission, **tenant)
    line = edge.fresh()
    wrote = edge.accept(
        fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"})
    )
    assert edge.data(f"/v1/execution/{line}")["state"] == "blocked"
    assert line_state(edge, line, token) == (line, "blocked")  # from the answer that is kept, too
    answer = edge.get(f"/v1/credential?service_line_id={line}", token)
    assert int(answer.headers["ledger-position"]) >= wrote[-1]["position"]
    edge.accept(fact("service_line.closed", line))
    assert line_state(edge, line, token) == (line, "closed")


def line_state(edge: Edge, line: str, token: str) -> tuple[str, str]:
    answer = edge.data("/v1/credential", token, params={"service_line_id": line})
    assert list(answer) == KEYS
    assert list(answer["service_line"]) == ["service_line_id", "state"]
    return tuple(answer["service_line"].values())


@pytest.mark.parametrize(
    "tenant",
    [
        {"organization_id": OTHER_ORGANIZATION, "workspace_id": None},
        {"organization_id": ORGANIZATION, "workspace_id": OTHER_WORKSPACE},
    ],
    ids=["an organization", "a workspace"],
)
def test_a_line_of_a_neighbour_is_as_unknown_as_one_that_is_not(
    edge: Edge, tenant: dict[str, str | None]
) -> None:
    token = edge.token("read", "write", **tenant)
    there, nowhere = (
        edge.get("/v1/credential", token, params={"service_line_id": line})
        for line in (edge.fresh(), "LIN-26-999999")
    )
    for answer in (there, nowhere):
        assert_problem(answer, 404, "not_found")
    assert there.json() | {"request_id": ""} == nowhere.json() | {"request_id": ""}


@pytest.mark.parametrize("words", [["LIN-26-1"], [""], ["LIN-26-000001,LIN-26-000002"], [A, B]])
def test_anything_but_one_id_of_a_line_is_refused_at_its_field(
    edge: Edge, words: list[str]
) -> None:
    answer = edge.get("/v1/credential", edge.token("read"), params={"service_line_id": words})
    assert_problem(answer, 422, "invalid_request")
    pointer = "/service_line_id" if len(words) == 1 else ""
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_credential_that_neither_reads_nor_writes_gets_no_line(edge: Edge) -> None:
    token = edge.token("keys:manage", "service_lines:manage")
    for line in (edge.fresh(), "LIN-26-999999", "LIN-26-1"):
        answer = edge.get("/v1/credential", token, params={"service_line_id": line})
        assert_problem(answer, 403, "forbidden")
    both = {"service_line_id": A, "as_of": "2026-04-01"}
    assert_problem(edge.get("/v1/credential", params=both), 422, "invalid_request")
