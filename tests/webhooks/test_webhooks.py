"""Webhook endpoints over HTTP: how they are set up and changed (contract, Feeds)."""

from typing import Any

import pytest

from ledger.engine.values.values import parse_instant
from tests.facts.test_bad_bodies import BROKEN, CANARY, HAZARDS, planted
from tests.support.edge import PLAIN, Edge, assert_problem, dumps
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.webhook_api import (
    KEYS,
    NOBODYS,
    OTHER_ORGANIZATION,
    OTHER_WORKSPACE,
    URL,
    Hooks,
    every_route,
)
from tests.webhooks.targets import FORBIDDEN_HOSTS

# Setting up.


def test_a_new_endpoint_is_answered_in_full_with_its_secret_which_is_shown_once(
    hooks: Hooks,
) -> None:
    answer = hooks.call(
        "POST",
        json={"url": URL, "event_types": ["execution.blocked", "run.failed"], "description": "é"},
    )
    assert answer.status_code == 201
    data = answer.json()["data"]
    assert int(answer.headers["ledger-position"]) == hooks.head()
    secret = data.pop("secret")
    assert secret.startswith("whsec_")
    assert set(data) == KEYS
    assert data["url"] == URL
    assert data["event_types"] == ["execution.blocked", "run.failed"]
    assert (data["organization_id"], data["workspace_id"]) == (ORGANIZATION, None)
    assert (data["description"], data["enabled"]) == ("é", True)
    assert (data["disabled_reason"], data["disabled_at"], data["status"]) == (None, None, None)
    shown = hooks.data(f"/{data['id']}")
    assert shown == data | {"status": {"sequence": 0, "failing_since": None}}
    assert secret not in hooks.call("GET", f"/{data['id']}").text
    assert hooks.call("GET", f"/{data['id']}/deliveries").json() == {
        "data": [],
        "meta": {"cursor": None, "has_more": False},
    }


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "/url"),
        ({"url": URL}, "/event_types"),
        ({"url": "", "event_types": ["*"]}, "/url"),
        ({"url": 1, "event_types": ["*"]}, "/url"),
        ({"url": "ftp://x.example/", "event_types": ["*"]}, "/url"),
        ({"url": "https://u:p@x.example/", "event_types": ["*"]}, "/url"),
        ({"url": "https://x.example/" + "a" * 2000, "event_types": ["*"]}, "/url"),
        ({"url": URL, "event_types": []}, "/event_types"),
        ({"url": URL, "event_types": "*"}, "/event_types"),
        ({"url": URL, "event_types": ["run.faild"]}, "/event_types"),
        ({"url": URL, "event_types": ["webhook.test"]}, "/event_types"),
        ({"url": URL, "event_types": ["*", "run.failed"]}, "/event_types"),
        ({"url": URL, "event_types": ["*", "*"]}, "/event_types"),
        ({"url": URL, "event_types": ["run.failed", "run.failed"]}, "/event_types"),
        ({"url": URL, "event_types": ["*"], "description": "x" * 501}, "/description"),
        ({"url": URL, "event_types": ["*"], "enabled": "yes"}, "/enabled"),
        ({"url": URL, "event_types": ["*"], "enabled": None}, "/enabled"),
        ({"url": URL, "event_types": ["*"], "organization_id": "ORG-1"}, "/organization_id"),
        ({"url": URL, "event_types": ["*"], "workspace_id": 5}, "/workspace_id"),
        ({"url": URL, "event_types": ["*"], f"{CANARY} x": 1}, ""),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_recorded_and_changes_nothing(
    hooks: Hooks, body: dict[str, Any], place: str
) -> None:
    before = hooks.head()
    answer = hooks.call("POST", json=body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert place in [error["pointer"] for error in problem["errors"]]
    assert CANARY not in answer.text
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]
    assert hooks.head() == before + 1


# An empty body is no broken JSON: it names nothing, so it is a 422.
BODIES = [pytest.param(body, id=name) for name, body in BROKEN.items() if body]


@pytest.mark.parametrize("body", BODIES)
def test_broken_json_is_a_400_and_leaves_no_record(hooks: Hooks, body: bytes) -> None:
    before = hooks.head()
    answer = hooks.call("POST", content=planted(body), headers=PLAIN)
    assert_problem(answer, 400, "invalid_request")
    assert CANARY not in answer.text
    assert hooks.head() == before


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=HAZARDS)
def test_a_body_with_a_hazard_is_a_422_and_recorded(hooks: Hooks, hazard: bytes) -> None:
    if len(hazard) > 64_000:
        pytest.skip("too large for a command")
    before = hooks.head()
    sent = b'{"url": "https://x.example/", "event_types": ["*"], "description": %s}' % hazard
    assert_problem(hooks.call("POST", content=sent, headers=PLAIN), 422, "invalid_request")
    assert hooks.refused(before) == [("webhook.create", "invalid_request", None)]


def test_an_organization_has_at_most_a_hundred_endpoints(hooks: Hooks) -> None:
    organization = "ORG-26-000009"
    token = hooks.edge.token("webhooks:manage", organization_id=organization)
    for _ in range(100):
        hooks.create(token)
    before = hooks.head()
    answer = hooks.call("POST", token=token, json={"url": URL, "event_types": ["*"]})
    problem = assert_problem(answer, 409, "invalid_state")
    assert problem["detail"] == "The organization already has 100 endpoints, the maximum."
    assert hooks.refused(before, organization) == [("webhook.create", "invalid_state", None)]
    assert_problem(hooks.call("POST", token=token, json={"url": URL}), 422, "invalid_request")


@pytest.mark.parametrize("named", [{}, {"organization_id": ORGANIZATION}])
@pytest.mark.parametrize("workspace", [{}, {"workspace_id": WORKSPACE}])
def test_a_narrowed_credential_sets_up_endpoints_of_its_workspace(
    hooks: Hooks, named: dict[str, str], workspace: dict[str, str]
) -> None:
    data = hooks.create(hooks.narrow, **named, **workspace)
    assert (data["organization_id"], data["workspace_id"]) == (ORGANIZATION, WORKSPACE)


@pytest.mark.parametrize("wrong", [{}, {"url": "nonsense"}, {"event_types": []}])
@pytest.mark.parametrize(
    "tenant",
    [
        {"organization_id": OTHER_ORGANIZATION},
        {"workspace_id": OTHER_WORKSPACE},
        {"workspace_id": None},
    ],
)
def test_another_tenant_in_the_body_is_a_403_before_any_422(
    hooks: Hooks, tenant: dict[str, str | None], wrong: dict[str, Any]
) -> None:
    before = hooks.head()
    body = {"url": URL, "event_types": ["*"]} | tenant | wrong
    token = hooks.narrow if "workspace_id" in tenant else hooks.token
    assert_problem(hooks.call("POST", token=token, json=body), 403, "forbidden")
    assert hooks.refused(before) == [("webhook.create", "forbidden", None)]
    assert hooks.refused(before, OTHER_ORGANIZATION) == []


def test_an_administrator_must_name_the_organization_of_an_endpoint(hooks: Hooks) -> None:
    body = {"url": URL, "event_types": ["*"]}
    problem = assert_problem(
        hooks.call("POST", token=hooks.admin, json=body), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]
    assert (
        hooks.create(hooks.admin, organization_id=ORGANIZATION)["organization_id"] == ORGANIZATION
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "localhost", "10.0.0.1"])
def test_private_targets_are_refused_unless_they_are_allowed(edge: Edge, host: str) -> None:
    assert host.lower() in FORBIDDEN_HOSTS
    token = edge.token("webhooks:manage")
    body = {"url": f"http://{host}/", "event_types": ["*"]}
    answer = edge.post("/v1/webhooks", token, json=body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/url"]
    url = "https://93.184.216.34/hooks"
    assert edge.post("/v1/webhooks", token, json=body | {"url": url}).status_code == 201
    (created,) = edge.data("/v1/webhooks?limit=1", token)
    answer = edge.request(
        "PATCH", f"/v1/webhooks/{created['id']}", token, json={"url": body["url"]}
    )
    assert_problem(answer, 422, "invalid_request")
    assert edge.data(f"/v1/webhooks/{created['id']}", token)["url"] == url


# Changing.


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://other.example/"},
        {"event_types": ["run.failed"]},
        {"description": "what it is for"},
        {"description": None},
        {"url": "https://other.example/", "event_types": ["*"], "description": None},
    ],
    ids=str,
)
def test_a_change_changes_only_the_fields_that_it_names(
    hooks: Hooks, changes: dict[str, Any]
) -> None:
    created = hooks.create(description="first")
    del created["secret"]
    answer = hooks.call("PATCH", f"/{created['id']}", json=changes)
    assert answer.status_code == 200, answer.text
    changed = answer.json()["data"]
    assert changed == created | changes | {"updated_at": changed["updated_at"]}
    assert parse_instant(changed["updated_at"]) > parse_instant(created["updated_at"])
    assert hooks.data(f"/{created['id']}") | {"status": None} == changed


def test_an_endpoint_is_disabled_and_enabled(hooks: Hooks) -> None:
    created = hooks.create()
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": False}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (False, "operator")
    assert changed["disabled_at"] == changed["updated_at"]
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": True}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (True, None)
    assert changed["disabled_at"] is None
    assert hooks.create(enabled=False)["disabled_reason"] == "operator"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"url": None}, {"event_types": None}, {"enabled": None}, {"url": "x"}, [], None,
        {"organization_id": ORGANIZATION}, {"workspace_id": WORKSPACE}, {"id": NOBODYS},
        {"secret": "whsec_x"}, {"event_types": ["x"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_change_is_a_422_that_is_recorded(hooks: Hooks, body: Any) -> None:
    created = hooks.create()
    before, shown = hooks.head(), hooks.data(f"/{created['id']}")
    answer = hooks.call("PATCH", f"/{created['id']}", content=dumps(body), headers=PLAIN)
    assert_problem(answer, 422, "invalid_request")
    assert hooks.refused(before) == [("webhook.update", "invalid_request", created["id"])]
    assert hooks.data(f"/{created['id']}") == shown


def test_a_deleted_endpoint_is_unknown_on_every_route(hooks: Hooks) -> None:
    created = hooks.create()
    answer = hooks.call("DELETE", f"/{created['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer.headers["ledger-position"]) == hooks.head()
    assert created["id"] not in [endpoint["id"] for endpoint in hooks.data("?limit=100")]
    for method, path, body in every_route(created["id"]):
        assert_problem(hooks.call(method, path, json=body), 404, "not_found")
