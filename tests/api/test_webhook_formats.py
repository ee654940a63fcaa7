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

    def look() -> bool:
        found[:] = hooks.data(f"/{endpoint}/deliveries")
        return bool(found and found[0]["attempts"])

    until(look, "an attempt")
    return found[0]


def test_an_endpoint_has_the_standard_format_and_all_alerts_unless_it_says_otherwise(
    hooks: Hooks,
) -> None:
    data = hooks.create()
    found = {name: data[name] for name in ("format", "watch_ids", "min_severity", "details")}
    assert found == {
        "format": "standard",
        "watch_ids": None,
        "min_severity": "info",
        "details": True,
    }


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "teams"),
        ("format", None),
        ("watch_ids", []),
        ("watch_ids", WATCHES),
        ("watch_ids", WATCHES[:1] * 2),
        ("watch_ids", ["LIN-26-000001"]),
        ("watch_ids", "WCH-26-000001"),
        ("min_severity", "red"),
        ("min_severity", None),
        ("details", None),
        ("details", "no"),
        ("event_types", ["alert.*"]),
    ],
    ids=str,
)
def test_a_wrong_choice_is_named(hooks: Hooks, field: str, value: Any) -> None:
    body = {"url": URL, "event_types": ["*"]} | {field: value}
    problem = assert_problem(hooks.call("POST", json=body), 422, "invalid_request")
    assert [error["pointer"].split("/")[1] for error in problem["errors"]] == [field]


def test_the_format_is_set_once(hooks: Hooks) -> None:
    endpoint = hooks.create()["id"]
    answer = hooks.call("PATCH", f"/{endpoint}", json={"format": "standard"})
    assert_problem(answer, 422, "invalid_request")


def test_deliveries_show_the_request_in_the_endpoints_format(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint = hooks.create(format="cloudevents", url=receiver.url)["id"]
        assert hooks.call("POST", f"/{endpoint}/test", json={}).status_code == 202
        (request,) = receiver.await_count(1)
        row = delivery(hooks, endpoint)
        assert json.loads(row["request"]["body"]) == json.loads(request.body)
        assert row["request"]["headers"]["content-type"] == request.headers["content-type"]
