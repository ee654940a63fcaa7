"""Each credential may ask who it is (contract, Access)."""

import pytest

from ledger import __version__
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE

KEYS = [
    "id", "type", "name", "organization_id", "workspace_id", "permissions", "expires_at", "version",
]  # fmt: skip
ENDS = "2091-01-01T00:00:00Z"


@pytest.mark.parametrize("permission", ["write", "keys:manage"])
@pytest.mark.parametrize("workspace", [None, WORKSPACE])
def test_a_key_of_any_permission_is_told_its_tenant_and_rights(
    edge: Edge, permission: str, workspace: str | None
) -> None:
    token = edge.token(permission, organization_id=ORGANIZATION, workspace_id=workspace)
    shown = edge.data("/v1/credential", token)
    assert list(shown) == KEYS
    assert shown["id"].startswith("KEY-")
    assert shown | {"id": "", "name": ""} == {
        "id": "",
        "type": "api_key",
        "name": "",
        "organization_id": ORGANIZATION,
        "workspace_id": workspace,
        "permissions": [permission],
        "expires_at": None,
        "version": __version__,
    }


def test_a_key_is_told_its_name_and_when_it_expires(edge: Edge) -> None:
    manager = edge.token("keys:manage", "read", organization_id=ORGANIZATION)
    body = {"name": "reports", "permissions": ["read"], "expires_at": ENDS}
    made = edge.post("/v1/keys", manager, json=body).json()["data"]
    answer = edge.get("/v1/credential", made["key"])
    shown = answer.json()["data"]
    assert (shown["id"], shown["name"], shown["expires_at"]) == (made["id"], "reports", ENDS)
    assert int(answer.headers["ledger-position"]) > 0
    edge.request("DELETE", f"/v1/keys/{made['id']}", manager)


def test_an_administrator_belongs_to_no_organization(edge: Edge) -> None:
    token = edge.token("admin", organization_id=None, workspace_id=None)
    shown = edge.data("/v1/credential", token)
    assert (shown["organization_id"], shown["workspace_id"]) == (None, None)
    assert shown["permissions"] == ["admin"]


def test_without_a_valid_credential_nothing_is_told(edge: Edge) -> None:
    assert_problem(edge.get("/v1/credential", "elk_nobody"), 401, "unauthorized")
    assert_problem(edge.get("/v1/credential?as_of=2026-04-01"), 422, "invalid_request")
