"""Formats of webhook endpoints, and the choice of alerts, over HTTP (contract, Feeds)."""

import json
from typing import Any

import pytest

from tests.support.edge import assert_problem
from tests.support.receiver import Receiver
from tests.support.views import until
from tests.support.webhook_api import URL, Hooks

WATCHES = [f"WCH-26-{number:06d}" for number in range(1, 52)]


def delivery(hooks: Hooks, endpoint: str) -> dict[str, Any]:
    """The latest delivery of an endpoint, once an attempt was made."""
    found: list[dict[str, Any]] = []

    def is_done() -> bool:
        found[:] = hooks.data(f"/{endpoint}/deliveries")
        return bool(found and found[0]["attempts"])

    until(is_done, "an attempt")
    return found[0]


def test_the_choice_of_alerts_is_shown_and_changed(hooks: Hooks) -> None:
    chosen = {"watch_ids": WATCHES[:50], "min_severity": "critical", "details": False}
    data = hooks.create(format="cloudevents", **chosen)
    assert {name: data[name] for name in chosen} == chosen
    assert hooks.data(f"/{data['id']}") | {"status": None} == {
        name: value for name, value in data.items() if name != "secret"
    }
    changed = hooks.call("PATCH", f"/{data['id']}", json={"watch_ids": None, "details": True})
    assert changed.status_code == 200
    found = changed.json()["data"]
    assert (found["watch_ids"], found["min_severity"], found["details"]) == (None, "critical", True)
    assert found["format"] == "cloudevents"


def test_deliveries_show_the_request_in_the_endpoints_format(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint = hooks.create(format="cloudevents", url=receiver.url)["id"]
        assert hooks.call("POST", f"/{endpoint}/test", json={}).status_code == 202
        (request,) = receiver.await_count(1)
        row = delivery(hooks, endpoint)
        assert json.loads(row["request"]["body"]) == json.loads(request.body)
        assert row["request"]["headers"]["content-type"] == request.headers["content-type"]


KEY = "R0UT1NGKEYR0UT1NGKEYR0UT1NGKEY00"
SLACK = "http://127.0.0.1:9/services/T/B/SECRET"


def test_a_channel_has_no_signing_secret_and_its_own_is_never_shown(hooks: Hooks) -> None:
    slack = hooks.create(format="slack", url=SLACK)
    assert (slack["url"], slack["routing_key"]) == ("http://127.0.0.1:9/***", None)
    pagerduty = hooks.create(format="pagerduty", url=URL, routing_key=KEY)
    assert (pagerduty["url"], pagerduty["routing_key"]) == (URL, "***")
    for data in (slack, pagerduty):
        assert data["secret"] is None
        path = f"/{data['id']}"
        hooks.call("POST", f"{path}/test", json={})
        row = delivery(hooks, data["id"])
        assert row["request"]["url"] == data["url"]
        assert not {"webhook-id", "webhook-signature"} & set(row["request"]["headers"])
        texts = hooks.call("GET", path).text + hooks.call("GET", f"{path}/deliveries").text
        assert "SECRET" not in texts
        assert KEY not in texts
        problem = hooks.call("POST", f"{path}/rotate-secret", json={})
        assert_problem(problem, 409, "invalid_state")
    assert json.loads(row["request"]["body"])["routing_key"] == "***"


def test_a_created_channel_is_answered_again_without_its_secret(hooks: Hooks) -> None:
    body = {"url": SLACK, "event_types": ["*"], "format": "slack"}
    headers = {"Idempotency-Key": "channel-1"}
    first, again = (hooks.call("POST", json=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert "SECRET" not in first.text


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"format": "pagerduty"}, "/routing_key"),
        ({"format": "pagerduty", "routing_key": "a b"}, "/routing_key"),
        ({"format": "slack"}, "/url"),
        ({"format": "slack", "url": SLACK, "routing_key": KEY}, "/routing_key"),
        ({"url": URL, "routing_key": KEY}, "/routing_key"),
        ({"url": "mailto:a@example.com"}, "/url"),
        ({"format": "cloudevents", "url": "mailto:a@example.com"}, "/url"),
        ({"format": "slack", "url": "MAILTO:a@example.com"}, "/url"),
        ({"format": "slack", "url": "mailto:a@example.com"}, "/url"),
        ({"format": "pagerduty", "url": "mailto:a@example.com", "routing_key": KEY}, "/url"),
        ({"format": "slack", "url": SLACK, "event_types": ["run.failed"]}, "/event_types"),
        ({"format": "slack", "url": SLACK, "event_types": ["*", "alert.opened"]}, "/event_types"),
    ],
    ids=str,
)
def test_a_wrong_address_of_a_channel_is_named(
    hooks: Hooks, body: dict[str, Any], pointer: str
) -> None:
    answer = hooks.call("POST", json={"event_types": ["*"]} | body)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert "SECRET" not in answer.text


@pytest.mark.parametrize(
    "chosen",
    [
        {"url": URL},
        {"url": URL, "format": "cloudevents"},
        {"url": SLACK, "format": "slack"},
        {"format": "pagerduty", "routing_key": KEY},
    ],
    ids=str,
)
def test_a_mail_address_is_no_change_for_another_format(
    hooks: Hooks, chosen: dict[str, str]
) -> None:
    endpoint = hooks.create(**chosen)
    answer = hooks.call("PATCH", f"/{endpoint['id']}", json={"url": "mailto:a@example.com"})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/url"]
    assert hooks.data(f"/{endpoint['id']}")["url"] == endpoint["url"]


def test_a_channel_accepts_the_types_of_alerts_and_of_failed_deliveries(hooks: Hooks) -> None:
    types = ["alert.opened", "alert.reminded", "alert.acknowledged", "alert.resolved"]
    types += ["webhook.delivery_failed"]
    data = hooks.create(format="slack", url=SLACK, event_types=types)
    assert data["event_types"] == types
    answer = hooks.call("PATCH", f"/{data['id']}", json={"event_types": ["run.failed"]})
    assert_problem(answer, 422, "invalid_request")


def test_the_secret_of_a_channel_is_replaced_by_a_change(hooks: Hooks) -> None:
    def sent() -> list[str]:
        return [request.path for request in receiver.requests]

    with Receiver() as receiver:
        endpoint = hooks.create(format="slack", url=f"{receiver.url}/services/first")["id"]
        path = f"/{endpoint}"
        hooks.call("POST", f"{path}/test", json={})
        receiver.await_count(1)
        # The masked address leaves the secret as it is.
        url = hooks.data(path)["url"]
        assert hooks.call("PATCH", path, json={"url": url, "enabled": True}).status_code == 200
        hooks.call("POST", f"{path}/test", json={})
        receiver.await_count(2)
        changed = hooks.call("PATCH", path, json={"url": f"{receiver.url}/services/second"})
        assert changed.json()["data"]["url"] == url
        hooks.call("POST", f"{path}/test", json={})
        receiver.await_count(3)
        assert sent() == ["/services/first", "/services/first", "/services/second"]


def test_where_mail_is_not_set_up_the_format_is_refused(hooks: Hooks) -> None:
    body = {"format": "email", "url": "mailto:a@example.com", "event_types": ["*"]}
    problem = assert_problem(hooks.call("POST", json=body), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/format"]
    assert "a@example.com" not in json.dumps(problem)
