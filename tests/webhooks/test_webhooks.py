"""Webhook endpoints over HTTP, besides what ``tests/whole/managed`` tests of managed things."""

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.webhook_api import KEYS, Hooks
from tests.webhooks.targets import FORBIDDEN_HOSTS

# An empty body is no broken JSON: it names nothing, so it is a 422.


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


def test_an_endpoint_is_disabled_and_enabled(hooks: Hooks) -> None:
    created = hooks.create()
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": False}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (False, "operator")
    assert changed["disabled_at"] == changed["updated_at"]
    changed = hooks.call("PATCH", f"/{created['id']}", json={"enabled": True}).json()["data"]
    assert (changed["enabled"], changed["disabled_reason"]) == (True, None)
    assert changed["disabled_at"] is None
    assert hooks.create(enabled=False)["disabled_reason"] == "operator"


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


def test_a_recovery_since_a_date_begins_at_midnight(hooks: Hooks) -> None:
    endpoint_id = hooks.create()["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-04-15"})
    assert answer.status_code == 202, answer.text


def test_a_recovery_of_a_disabled_endpoint_is_refused(hooks: Hooks) -> None:
    endpoint_id = hooks.create(enabled=False)["id"]
    answer = hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-01-01T00:00:00Z"})
    assert_problem(answer, 409, "invalid_state")
