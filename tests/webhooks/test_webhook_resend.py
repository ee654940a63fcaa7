"""A delivery is sent again, and shows the request that was sent (contract, Feeds)."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from ledger import __version__
from tests.support.edge import assert_problem
from tests.support.facts import WORKSPACE, fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import query, until
from tests.support.webhook_api import NOBODYS, OTHER_WORKSPACE, Hooks

CHECK_INS = {"event_types": ["execution.checked_in"]}

_EVENTS = "SELECT topic FROM ledger.ledger_events WHERE originator_id = %s ORDER BY notification_id"


def report(hooks: Hooks, **more: Any) -> str:
    """Report a check-in on a line of its own; return its event's id."""
    line = hooks.edge.fresh("capacity", **more)
    (item,) = hooks.edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    return str(item["event_ids"][0])


def delivery(hooks: Hooks, endpoint_id: str, attempts: int) -> dict[str, Any]:
    """The endpoint's only delivery, once it has that many attempts."""
    found: list[dict[str, Any]] = []

    def is_done() -> bool:
        hooks.edge.clock.advance(seconds=1)
        found[:] = hooks.data(f"/{endpoint_id}/deliveries")
        return bool(found) and len(found[0]["attempts"]) >= attempts

    until(is_done, "an attempt")
    return found[0]


def resend(hooks: Hooks, endpoint_id: str, event_id: str, **options: Any) -> Any:
    return hooks.call("POST", f"/{endpoint_id}/deliveries/{event_id}/resend", **options)


def events_of(hooks: Hooks, endpoint_id: str) -> list[Any]:
    """The endpoint's own events. (Those of other tests' endpoints may still be recorded.)"""
    return query(hooks.edge.conninfo, _EVENTS, endpoint_id)


def test_a_delivered_event_is_sent_again_and_the_command_is_audited(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        event_id = report(hooks)
        assert delivery(hooks, endpoint_id, 1)["status"] == "delivered"
        before = hooks.head()
        answer = resend(hooks, endpoint_id, event_id)
        assert answer.status_code == 202, answer.text
        assert (answer.json()["data"]["id"], answer.json()["data"]["status"]) == (endpoint_id, None)
        item = delivery(hooks, endpoint_id, 2)
        assert (item["status"], item["sequence"]) == ("delivered", 1)
        first, again = receiver.await_count(2)
        assert first.body == again.body
        assert json.loads(again.body)["id"] == event_id == again.headers["webhook-id"]
        (entry,) = hooks.audited(before)
        assert (entry["action"], entry["outcome"]) == ("webhook.resend", "succeeded")
        assert entry["resource"] == {"type": "webhook", "id": endpoint_id}
        assert hooks.edge.data(f"/v1/events?after=EVT-26-{before:06d}") == []


def test_a_request_with_the_same_idempotency_key_is_sent_again_once(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        event_id = report(hooks)
        delivery(hooks, endpoint_id, 1)
        key = {"headers": {"idempotency-key": "once"}}
        answers = [resend(hooks, endpoint_id, event_id, **key) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[1].headers["idempotency-replayed"] == "true"
        assert answers[0].content == answers[1].content
        receiver.await_count(2)
        hooks.call("POST", f"/{endpoint_id}/test")
        bodies = [json.loads(request.body) for request in receiver.await_count(3)]
        assert [body["id"] for body in bodies[:2]] == [event_id] * 2
        assert bodies[2]["type"] == "webhook.test"


def test_a_disabled_endpoint_refuses_with_409_and_nothing_is_sent(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        event_id = report(hooks)
        delivery(hooks, endpoint_id, 1)
        hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
        before, events = hooks.head(), events_of(hooks, endpoint_id)
        assert_problem(resend(hooks, endpoint_id, event_id), 409, "invalid_state")
        assert hooks.entries(before) == [("webhook.resend", "invalid_state", endpoint_id)]
        assert events_of(hooks, endpoint_id) == events
        assert len(receiver.requests) == 1


def test_a_delivery_that_does_not_exist_is_a_404(hooks: Hooks) -> None:
    endpoint_id = hooks.create(**CHECK_INS)["id"]
    other_id = hooks.create(workspace_id=OTHER_WORKSPACE, **CHECK_INS)["id"]
    event_id = report(hooks)
    hooks.call("POST", f"/{endpoint_id}/recover", json={"since": "2026-04-15"})
    recovery = f"EVT-26-{hooks.head():06d}"
    another_year = event_id.replace("EVT-26", "EVT-25")
    unknown = ["EVT-26-999999", another_year, recovery, "EVT-26-1", "nonsense", endpoint_id]
    for name in unknown:
        before = hooks.head()
        assert_problem(resend(hooks, endpoint_id, name), 404, "not_found")
        assert hooks.entries(before) == [("webhook.resend", "not_found", endpoint_id)]
    assert_problem(resend(hooks, other_id, event_id), 404, "not_found")
    assert_problem(resend(hooks, NOBODYS, event_id), 404, "not_found")


def test_the_endpoint_of_another_tenant_is_a_404_although_it_has_the_delivery(
    hooks: Hooks,
) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        event_id = report(hooks, workspace_id=WORKSPACE)
        delivery(hooks, endpoint_id, 1)
        for token in (hooks.other, hooks.narrow):
            answer = resend(hooks, endpoint_id, event_id, token=token)
            assert_problem(answer, 404, "not_found")
            unknown = resend(hooks, NOBODYS, event_id, token=token)
            assert answer.json()["detail"] == unknown.json()["detail"]
        assert len(receiver.requests) == 1


@pytest.mark.parametrize("body", [{"since": "2026-04-15"}, [], "x"])
def test_a_body_with_fields_is_a_422(hooks: Hooks, body: Any) -> None:
    endpoint_id = hooks.create(**CHECK_INS)["id"]
    event_id = report(hooks)
    assert_problem(resend(hooks, endpoint_id, event_id, json=body), 422, "invalid_request")


# The request, and the status ``retrying``.


def test_a_delivery_shows_its_latest_request_with_a_masked_signature(hooks: Hooks) -> None:
    answers = iter([Answer(500), Answer()])
    with Receiver(lambda _: next(answers)) as receiver:
        endpoint_id = hooks.create(url=f"{receiver.url}/first?a=b", **CHECK_INS)["id"]
        event_id = report(hooks)
        assert hooks.data(f"/{endpoint_id}/deliveries")[0]["event_id"] == event_id
        item = delivery(hooks, endpoint_id, 2)
        sent = receiver.await_count(2)[1]
    assert set(item["request"]) == {"url", "headers", "body"}
    assert item["request"]["url"] == f"{receiver.url}/first?a=b"
    assert item["request"]["body"] == sent.body.decode()
    names = ["content-type", "user-agent", "webhook-id", "webhook-timestamp"]
    assert item["request"]["headers"] == {
        **{name: sent.headers[name] for name in names},
        "webhook-signature": "v1,***",
    }
    assert sent.headers["user-agent"] == f"execution-ledger/{__version__}"
    assert sent.headers["webhook-signature"][3:] not in json.dumps(item)
    at = datetime.fromisoformat(item["attempts"][-1]["at"])
    assert sent.headers["webhook-timestamp"] == str(int(at.timestamp()))


def test_the_shown_body_is_the_text_that_was_signed(hooks: Hooks) -> None:
    with Receiver() as receiver:
        created = hooks.create(url=receiver.url, event_types=["execution.started"])
        hooks.edge.fresh(name="Zahlungen ü €")
        request = delivery(hooks, created["id"], 1)["request"]
        (sent,) = receiver.await_count(1)
    headers = request["headers"]
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signature = Webhook(created["secret"]).sign(headers["webhook-id"], at, request["body"])
    assert sent.headers["webhook-signature"] == signature


def test_a_test_shows_its_request_too(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        hooks.call("POST", f"/{endpoint_id}/test")
        request = delivery(hooks, endpoint_id, 1)["request"]
        (sent,) = receiver.await_count(1)
    assert request["body"] == sent.body.decode()
    assert list(json.loads(sent.body)).count("fact") == sent.body.count(b'"fact"') == 1


def test_an_attempt_of_an_earlier_version_shows_no_request(hooks: Hooks) -> None:
    with Receiver() as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        report(hooks)
        delivery(hooks, endpoint_id, 1)
        hooks.edge.select("UPDATE ledger.delivery SET url = NULL RETURNING 1")
        assert hooks.data(f"/{endpoint_id}/deliveries")[0]["request"] is None


def test_a_delivery_is_retrying_after_a_failed_attempt(hooks: Hooks) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, **CHECK_INS)["id"]
        report(hooks)
        path = f"/{endpoint_id}/deliveries"
        # The clock stands, so the next attempt does not come.
        until(lambda: bool(hooks.data(path)[0]["attempts"]), "an attempt")
        (endpoint,) = hooks.data(path)
        assert (endpoint["status"], len(endpoint["attempts"])) == ("retrying", 1)
        assert endpoint["next_attempt_at"] is not None
        assert endpoint["request"]["url"] == receiver.url
        assert hooks.data(f"{path}?status=retrying") == [endpoint]
        assert hooks.data(f"{path}?status=retrying,failed") == [endpoint]
        assert hooks.data(f"{path}?status=pending") == []
        delivery(hooks, endpoint_id, 3)
        until(lambda: hooks.data(path)[0]["status"] == "failed", "the failure")
        assert hooks.data(f"{path}?status=retrying") == []
