"""Webhook endpoints over HTTP: access, lists, and commands under a key (contract, Feeds)."""

from typing import Any

import pytest

from tests.support.edge import PLAIN, assert_problem
from tests.support.facts import ORGANIZATION
from tests.support.webhook_api import (
    KEYS,
    NOBODYS,
    OTHER_ORGANIZATION,
    OTHER_WORKSPACE,
    URL,
    Hooks,
    action_of,
    every_route,
)

# Access.


@pytest.mark.parametrize("endpoint_id", [NOBODYS, "WHK-26-1", "nonsense", "LIN-26-000001"])
def test_an_unknown_endpoint_is_a_404_and_each_command_about_it_is_recorded(
    hooks: Hooks, endpoint_id: str
) -> None:
    for method, path, body in every_route(endpoint_id):
        before = hooks.head()
        assert_problem(hooks.call(method, path, json=body), 404, "not_found")
        action = action_of(method, path)
        named = endpoint_id if endpoint_id == NOBODYS else None
        expected = [] if action is None else [(action, "not_found", named)]
        assert hooks.refused(before) == expected


def test_an_endpoint_of_another_tenant_is_answered_like_an_unknown_endpoint(hooks: Hooks) -> None:
    of_other_workspace = hooks.create(workspace_id=OTHER_WORKSPACE)["id"]
    of_other_organization = hooks.create(hooks.other)["id"]
    of_organization = hooks.create()["id"]
    for token, endpoint_id in (
        (hooks.token, of_other_organization),
        (hooks.other, of_other_workspace),
        (hooks.narrow, of_other_workspace),
        (hooks.narrow, of_organization),
    ):
        listed = [endpoint["id"] for endpoint in hooks.data("?limit=100", token)]
        assert endpoint_id not in listed
        for method, path, body in every_route(endpoint_id):
            answer = hooks.call(method, path, token, json=body)
            unknown = hooks.call(method, path.replace(endpoint_id, NOBODYS), token, json=body)
            assert_problem(answer, 404, "not_found")
            assert answer.json()["detail"] == unknown.json()["detail"]
    for endpoint_id in (of_other_workspace, of_other_organization, of_organization):
        assert hooks.data(f"/{endpoint_id}", hooks.admin)["enabled"]


def test_a_change_that_names_another_tenant_is_a_403_and_recorded(hooks: Hooks) -> None:
    own, narrow = hooks.create()["id"], hooks.create(hooks.narrow)["id"]
    for token, endpoint_id, named in (
        (hooks.token, own, {"organization_id": OTHER_ORGANIZATION}),
        (hooks.token, own, {"organization_id": OTHER_ORGANIZATION, "url": "nonsense"}),
        (hooks.narrow, narrow, {"workspace_id": "WS-26-000009"}),
        (hooks.narrow, narrow, {"workspace_id": None}),
    ):
        before = hooks.head()
        answer = hooks.call("PATCH", f"/{endpoint_id}", token, json=named)
        assert_problem(answer, 403, "forbidden")
        assert hooks.refused(before) == [("webhook.update", "forbidden", endpoint_id)]
    for tenant in ({"organization_id": ORGANIZATION}, {"workspace_id": None}):
        answer = hooks.call("PATCH", f"/{own}", json=tenant)
        assert_problem(answer, 422, "invalid_request")


def test_every_route_needs_the_permission_webhooks_manage(hooks: Hooks) -> None:
    others = hooks.edge.token("read", "write", "service_lines:manage", "audit:read")
    endpoint_id = hooks.create()["id"]
    routes = [("GET", "", None), ("POST", "", {"url": URL, "event_types": ["*"]})]
    for method, path, body in [*every_route(endpoint_id), *routes]:
        before = hooks.head()
        assert_problem(hooks.call(method, path, others, json=body), 403, "forbidden")
        assert_problem(hooks.call(method, path, "elk_nonsense", json=body), 401, "unauthorized")
        if method != "GET":
            ((action, code, _),) = hooks.refused(before)
            assert (action, code) == (
                action_of(method, path or "/") or "webhook.create",
                "forbidden",
            )


def test_unknown_parameters_are_refused(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    for method, path, body in every_route(endpoint_id):
        answer = hooks.call(method, path + "?nonsense=1", json=body)
        assert_problem(answer, 422, "invalid_request")


# Lists.


def test_the_list_of_endpoints_is_walked_newest_first_and_filtered(hooks: Hooks) -> None:
    made = [hooks.create(workspace_id=f"WS-26-00010{n}")["id"] for n in range(3)]
    everything = hooks.data("?limit=100")
    assert [endpoint["id"] for endpoint in everything][:3] == made[::-1]
    assert all(set(endpoint) == KEYS for endpoint in everything)
    assert all(endpoint["organization_id"] == ORGANIZATION for endpoint in everything)
    walked: list[str] = []
    cursor, has_more = "", True
    while has_more:
        page = hooks.call("GET", "?limit=2" + cursor).json()
        walked += [endpoint["id"] for endpoint in page["data"]]
        cursor, has_more = f"&cursor={page['meta']['cursor']}", page["meta"]["has_more"]
    assert walked == [endpoint["id"] for endpoint in everything]
    (found,) = hooks.data("?workspace_id=WS-26-000101")
    assert found["id"] == made[1]
    assert hooks.data(f"?organization_id={OTHER_ORGANIZATION}") == []
    own = hooks.data(f"?organization_id={ORGANIZATION}&limit=100", hooks.admin)
    assert own == everything
    answer = hooks.call("GET", "?workspace_id=WS-26-000101" + cursor)
    assert_problem(answer, 400, "invalid_cursor")
    assert_problem(hooks.call("GET", "?limit=0"), 422, "invalid_request")


# Commands under a key.


@pytest.mark.parametrize("number", range(4))
def test_a_command_that_is_sent_again_under_its_key_is_replayed(hooks: Hooks, number: int) -> None:
    endpoint_id = hooks.create()["id"]
    path, body = [
        ("", {"url": URL, "event_types": ["*"]}),
        (f"/{endpoint_id}/rotate-secret", {}),
        (f"/{endpoint_id}/recover", {"since": "2026-04-15T00:00:00Z"}),
        (f"/{endpoint_id}/test", {}),
    ][number]
    headers = {"idempotency-key": f"key-{number}"}
    first = hooks.call("POST", path, json=body, headers=headers)
    assert first.status_code < 300, first.text
    end = hooks.head()
    hooks.call("PATCH", f"/{endpoint_id}", json={"description": "changed since"})
    again = hooks.call("POST", path, json=body, headers=headers)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["ledger-position"] == first.headers["ledger-position"]
    assert hooks.head() == end + 1, "only the change was recorded"
    other = hooks.call("POST", path, json=body | {"x": 1}, headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize("action", ["rotate-secret", "test"])
@pytest.mark.parametrize("options", [{}, {"json": {}}, {"content": b"", "headers": PLAIN}])
def test_commands_that_need_no_field_take_an_empty_body(
    hooks: Hooks, action: str, options: dict[str, Any]
) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/{action}", **options)
    assert answer.status_code == (200 if action == "rotate-secret" else 202)
    assert_problem(
        hooks.call("POST", f"/{endpoint_id}/{action}", json={"x": 1}), 422, "invalid_request"
    )


def test_a_rotation_shows_a_new_secret_and_an_eleventh_secret_is_a_409(hooks: Hooks) -> None:
    created = hooks.create()
    answer = hooks.call("POST", f"/{created['id']}/rotate-secret")
    rotated = answer.json()["data"]
    assert set(rotated) == KEYS | {"secret"}
    assert rotated["secret"] != created["secret"]
    for _ in range(8):
        assert hooks.call("POST", f"/{created['id']}/rotate-secret").status_code == 200
    answer = hooks.call("POST", f"/{created['id']}/rotate-secret")
    assert_problem(answer, 409, "invalid_state")


@pytest.mark.parametrize(
    "body", [{}, {"since": None}, {"since": "yesterday"}, {"since": "2026-04-31"}, {"since": 1},
             {"since": "2026-04-15T00:00:00"}, {"since": "2026-04-15T12:00:01Z", "x": 1}],
    ids=str,
)  # fmt: skip
def test_a_recovery_with_a_wrong_body_is_a_422(hooks: Hooks, body: Any) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json=body)
    assert_problem(answer, 422, "invalid_request")


def test_a_recovery_since_a_date_begins_at_midnight(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-04-15"})
    assert answer.status_code == 202, answer.text


def test_a_recovery_since_the_future_or_of_a_disabled_endpoint_is_refused(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2027-01-01T00:00:00Z"})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/since"]
    hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-01-01T00:00:00Z"})
    assert_problem(answer, 409, "invalid_state")
