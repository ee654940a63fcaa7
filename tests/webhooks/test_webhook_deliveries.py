"""Webhook deliveries in the API, and their commands in the audit log (contract, Feeds)."""

import json
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from tests.support.edge import assert_problem
from tests.support.facts import activation, fact
from tests.support.receiver import Answer, Receiver
from tests.support.views import until
from tests.support.webhook_api import Hooks
from tests.support.webhooks import body_of


def settled(hooks: Hooks, endpoint_id: str, count: int, query: str = "") -> list[dict[str, Any]]:
    """The deliveries of an endpoint, once there are ``count`` and none awaits an attempt."""
    found: list[list[dict[str, Any]]] = []

    def is_done() -> bool:
        hooks.edge.clock.advance(seconds=1)
        found[:] = [hooks.data(f"/{endpoint_id}/deliveries?limit=100{query}")]
        return len(found[0]) == count and all(
            delivery["status"] in ("delivered", "failed") for delivery in found[0]
        )

    until(is_done, "deliveries")
    return found[0]


def test_deliveries_are_shown_newest_first_with_their_attempts(hooks: Hooks) -> None:
    line, reporter = hooks.edge.fresh("capacity"), hooks.edge.token("write")
    answers = iter([Answer(500, b'{"no": "\xff"}'), Answer(204), Answer(200), Answer(200)])
    with Receiver(lambda _: next(answers)) as receiver:
        created = hooks.create(url=receiver.url, event_types=["execution.checked_in"])
        endpoint_id = created["id"]
        for number in range(2):
            (item,) = hooks.edge.accept(
                fact("execution.checked_in", line, {"hours": 1}), token=reporter
            )
            settled(hooks, endpoint_id, number + 1)
        hooks.call("POST", f"/{endpoint_id}/test")
        test, second, first = settled(hooks, endpoint_id, 3)
        bodies = [json.loads(request.body) for request in receiver.requests]
    assert [body["sequence"] for body in bodies] == [1, 1, 2, 0]
    assert second["event_id"] == item["event_ids"][0] == bodies[2]["id"]
    assert (second["type"], second["sequence"]) == ("execution.checked_in", 2)
    assert (first["sequence"], first["status"], first["next_attempt_at"]) == (1, "delivered", None)
    assert set(first) == {
        "event_id", "type", "sequence", "status", "attempts", "next_attempt_at", "request"
    }  # fmt: skip
    failed, delivered = first["attempts"]
    assert set(failed) == {"at", "response_status", "latency_ms", "error", "response_body"}
    assert (failed["response_status"], failed["response_body"]) == (500, '{"no": "�"}')
    assert (delivered["response_status"], delivered["error"]) == (204, None)
    assert (test["type"], test["sequence"], test["status"]) == ("webhook.test", 0, "delivered")
    assert hooks.data(f"/{endpoint_id}")["status"] == {"sequence": 2, "failing_since": None}
    assert (bodies[3]["type"], bodies[3]["fact"]) == ("webhook.test", None)
    assert bodies[3].keys() == bodies[2].keys()
    assert bodies[3]["subject"] == {"type": "webhook", "id": endpoint_id}


def test_failing_since_is_null_again_after_an_endpoint_was_enabled(hooks: Hooks) -> None:
    line = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(fact("execution.checked_in", line, {"hours": 1}))
        settled(hooks, endpoint_id, 1)
        assert hooks.data(f"/{endpoint_id}")["status"]["failing_since"] is not None
        hooks.edge.clock.advance(seconds=1)
        for enabled in (False, True):
            hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": enabled})
        assert hooks.data(f"/{endpoint_id}")["status"] == {"sequence": 1, "failing_since": None}


def test_deliveries_are_walked_and_filtered_by_status(hooks: Hooks) -> None:
    line = hooks.edge.fresh("capacity")

    def answer(request: Any) -> Answer:
        return Answer(500 if json.loads(request.body)["sequence"] % 2 else 200)

    with Receiver(answer) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(5)))
        found = settled(hooks, endpoint_id, 5)
    assert [delivery["sequence"] for delivery in found] == [5, 4, 3, 2, 1]
    path = f"/{endpoint_id}/deliveries"
    for status in ("failed", "delivered", "failed,delivered", "pending,failed"):
        wanted = [delivery for delivery in found if delivery["status"] in status.split(",")]
        walked: list[dict[str, Any]] = []
        cursor, has_more = "", True
        while has_more:
            page = hooks.call("GET", f"{path}?limit=1&status={status}{cursor}").json()
            walked += page["data"]
            cursor, has_more = f"&cursor={page['meta']['cursor']}", page["meta"]["has_more"]
        assert walked == wanted
    assert [delivery["sequence"] for delivery in found if delivery["status"] == "failed"] == [
        5,
        3,
        1,
    ]
    assert len(found[0]["attempts"]) == 3
    assert_problem(hooks.call("GET", f"{path}?status=lost"), 422, "invalid_request")
    assert_problem(hooks.call("GET", f"{path}?limit=2{cursor}"), 400, "invalid_cursor")


def test_deliveries_that_have_not_ended_are_shown_as_pending(hooks: Hooks) -> None:
    line = hooks.edge.fresh("capacity")
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        endpoint_id = hooks.create(url=receiver.url, event_types=["execution.checked_in"])["id"]
        hooks.edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(20)))
        receiver.await_count(16)
        found = hooks.data(f"/{endpoint_id}/deliveries")
        assert [delivery["sequence"] for delivery in found] == list(range(20, 0, -1))
        assert {(delivery["status"], tuple(delivery["attempts"])) for delivery in found} == {
            ("pending", ())
        }
        assert [delivery["request"] for delivery in found] == [None] * 20
        assert [delivery["next_attempt_at"] for delivery in found[:4]] == [None] * 4
        assert all(delivery["next_attempt_at"] for delivery in found[4:])
        assert hooks.data(f"/{endpoint_id}/deliveries?status=pending") == found
        assert hooks.data(f"/{endpoint_id}/deliveries?status=pending&limit=3") == found[:3]
        assert hooks.data(f"/{endpoint_id}/deliveries?status=failed") == []
        hooks.call("PATCH", f"/{endpoint_id}", json={"enabled": False})
        found = hooks.data(f"/{endpoint_id}/deliveries")
        assert {delivery["next_attempt_at"] for delivery in found} == {None}
        hooks.call("DELETE", f"/{endpoint_id}")


def test_deliveries_are_signed_with_the_secret_that_was_answered(hooks: Hooks) -> None:
    with Receiver() as receiver:
        created = hooks.create(url=receiver.url)
        hooks.edge.accept(activation(hooks.edge.fresh_id()))
        (request,) = receiver.await_count(1)
        # The clock of these tests is in the past. The library's ``verify`` refuses so old a
        # timestamp before it checks the signature, and ``sign`` computes the same signature.
        headers = request.headers
        sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        library = Webhook(created["secret"])
        signature = library.sign(headers["webhook-id"], sent_at, request.body.decode())
        assert headers["webhook-signature"].split(" ") == [signature]
        assert body_of(request)["type"] == "execution.started"
