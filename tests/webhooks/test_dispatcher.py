"""The dispatcher with a real database and a real receiver (contract, Feeds, webhooks)."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from standardwebhooks import WebhookVerificationError

from projections.webhooks.view import WebhookView
from tests.support.facts import fact
from tests.support.feeds import ENVELOPE
from tests.support.model import model_of
from tests.support.receiver import Answer, Receiver, Request, Script
from tests.support.views import projecting, query, until, view_positions
from tests.support.webhooks import (
    LINE,
    Delivery,
    ShiftedClock,
    WebhookLedger,
    body_of,
    received,
    webhook_ledger,
)

CHECK_INS = ["execution.checked_in"]
SLOW = "3600,3600,3600,3600"
"""A schedule of retries that are too late to happen within a test."""


@pytest.fixture
def ledger(ledger: WebhookLedger) -> WebhookLedger:
    """A ledger with a line, and a dispatcher that runs."""
    ledger.start()
    return ledger


@pytest.fixture
def patient(conninfo: str) -> Iterator[WebhookLedger]:
    """The same with a slow schedule: no failed delivery is retried by itself."""
    with webhook_ledger(conninfo, retries=SLOW) as ledger:
        ledger.activate()
        ledger.start()
        yield ledger


def answering(*statuses: int, then: int = 200) -> Script:
    """A script that gives these statuses one after the other, and then always ``then``."""
    left = iter(statuses)
    return lambda _: Answer(next(left, then))


# Requests.


def test_a_delivery_is_signed_and_carries_the_feeds_event_and_its_number(
    ledger: WebhookLedger,
) -> None:
    with Receiver() as receiver:
        endpoint, secret = ledger.create(receiver.url + "/hooks?of=us", CHECK_INS)
        check_in = fact("execution.checked_in", LINE, {"hours": 1})
        (event_id,) = ledger.report(check_in)
        (request,) = receiver.await_count(1)
        body = body_of(request, secret)
        assert (body["id"], body.pop("sequence")) == (event_id, 1)
        assert body["fact"] == {"source": check_in["source"], "id": check_in["id"]}
        assert set(body) == set(ENVELOPE)
        assert (request.method, request.path) == ("POST", "/hooks?of=us")
        assert request.headers["content-type"] == "application/json"
        (delivery,) = ledger.await_all(endpoint, 1)
        (attempt,) = delivery.attempts
        assert attempt["response_status"] == 200
        assert attempt["error"] is None
        with pytest.raises(WebhookVerificationError):
            body_of(request, ledger.create(receiver.url)[1])


def test_each_endpoint_gets_matching_events_under_its_own_numbers(ledger: WebhookLedger) -> None:
    chosen = {
        "all": ["*"],
        "some": ["execution.checked_in", "execution.updated"],
        "none": ["run.failed"],
    }
    with Receiver() as receiver:
        made = {
            name: ledger.create(f"{receiver.url}/{name}", types)[0]
            for name, types in chosen.items()
        }
        ledger.check_in(3)
        ledger.activate("LIN-26-000002")
        ledger.check_in(2)
        model = model_of(ledger.conninfo)
        for name, endpoint in made.items():
            expected = model.due_to(endpoint)
            ledger.await_all(endpoint, len(expected))
            got = [request for request in receiver.requests if request.path == f"/{name}"]
            assert received(got) == expected
            assert len(got) == len(expected), "no event is sent twice if no attempt failed"
        assert len(model.due_to(made["all"])) == 6


def test_both_secrets_verify_during_a_rotation_and_only_the_new_one_after_it(conninfo: str) -> None:
    # The verifier accepts only recent timestamps, so the rotation lies almost a day back.
    clock = ShiftedClock(hours=-24, seconds=60)
    with webhook_ledger(conninfo, clock) as ledger, Receiver() as receiver:
        ledger.activate()
        _, old = ledger.create(receiver.url, CHECK_INS)
        new = ledger.rotate(only_endpoint(ledger))
        ledger.start()
        ledger.advance(hours=24, seconds=-90)
        ledger.check_in()
        (request,) = receiver.await_count(1)
        body_of(request, old, new)
        ledger.advance(seconds=120)
        ledger.check_in()
        request = receiver.await_count(2)[1]
        body_of(request, new)
        with pytest.raises(WebhookVerificationError):
            body_of(request, old)


def only_endpoint(ledger: WebhookLedger) -> str:
    ((endpoint,),) = query(
        ledger.conninfo,
        "SELECT DISTINCT originator_id FROM ledger.ledger_events WHERE originator_id ~ '^WHK'",
    )
    return str(endpoint)


def test_no_private_address_is_connected_to_unless_the_settings_allow_it(conninfo: str) -> None:
    with webhook_ledger(conninfo, allow_private=False) as ledger, Receiver() as receiver:
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        (delivery,) = ledger.await_all(endpoint, 1, "failed")
        assert {attempt["error"] for attempt in delivery.attempts} == {"the address is not allowed"}
        assert receiver.count_connections() == 0


def test_a_delivery_is_sent_only_after_every_view_shows_its_event(conninfo: str) -> None:
    answers: list[bool] = []

    def check(request: Request) -> Answer:
        position = body_of(request)["position"]
        answers.append(all(at >= position for at, _ in view_positions(conninfo).values()))
        return Answer()

    with webhook_ledger(conninfo, follow=False) as ledger, Receiver(check) as receiver:
        ledger.start()
        ledger.activate()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        with projecting(conninfo, WebhookView()) as ahead:
            ahead.catch_up()
            until(lambda: ledger.dispatch(endpoint), "the dispatcher")
        with projecting(conninfo) as projector:
            projector.catch_up()
            (delivery,) = ledger.await_all(endpoint, 1)
        assert delivery.statuses == [200]
        assert answers == [True]


# Retries.


def test_a_failed_delivery_is_retried_with_the_same_id_and_number(ledger: WebhookLedger) -> None:
    with Receiver(answering(500, 503, 404)) as receiver:
        endpoint, secret = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        requests = receiver.await_count(4)
        assert len({request.body for request in requests}) == 1
        for request in requests:
            body_of(request, secret)
        (delivery,) = ledger.await_all(endpoint, 1)
        assert delivery.statuses == [500, 503, 404, 200]
        assert ledger.dispatch(endpoint)[2] is None, "it has succeeded since"


def test_a_retry_waits_as_long_as_the_receiver_asks(patient: WebhookLedger) -> None:
    with Receiver(lambda _: Answer(429, headers={"retry-after": "80000"})) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        patient.check_in()
        (delivery,) = patient.await_deliveries(endpoint, attempted(1))
        assert delivery.due_at is not None
        waits = delivery.due_at - patient.clock()
        assert timedelta(seconds=79_000) < waits <= timedelta(seconds=80_000)
        patient.advance(hours=2)
        patient.advance(hours=21)
        patient.await_deliveries(endpoint, attempted(2))


def attempted(count: int) -> Callable[[list[Delivery]], bool]:
    """A condition: every delivery has had ``count`` attempts."""
    return lambda found: bool(found) and all(len(d.attempts) == count for d in found)


def test_a_failed_delivery_is_announced_once_to_other_endpoints_and_never_to_its_own(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda r: Answer(500 if r.path == "/dead" else 200)) as receiver:
        dead, _ = ledger.create(receiver.url + "/dead")
        other, _ = ledger.create(receiver.url + "/other", ["webhook.delivery_failed"])
        (event_id,) = ledger.check_in()
        ledger.await_all(dead, 1, "failed")
        (announcement,) = ledger.await_all(other, 1)
        requests = [r for r in receiver.requests if r.path == "/other"]
        (body,) = map(body_of, requests)
        assert body["subject"] == {"type": "webhook", "id": dead}
        assert body["causation_id"] == event_id
        assert body["payload"] == {
            "event_id": event_id, "sequence": 1, "attempts": 5, "response_status": 500,
            "error": None,
        }  # fmt: skip
        assert ledger.topics(dead) == ["webhook.created", "webhook.delivery_failed"]
        assert len([r for r in receiver.requests if r.path == "/dead"]) == 5
        assert announcement.type == "webhook.delivery_failed"


def test_two_dead_endpoints_do_not_announce_each_others_failures_for_ever(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        made = [ledger.create(f"{receiver.url}/{n}")[0] for n in range(2)]
        ledger.check_in()
        for endpoint in made:
            found = ledger.await_all(endpoint, 2, "failed")
            assert [d.type for d in found] == ["execution.checked_in", "webhook.delivery_failed"]
        for endpoint in made:
            assert ledger.topics(endpoint) == ["webhook.created", "webhook.delivery_failed"]


# Disabling.


def test_a_410_disables_an_endpoint_at_once_and_enabling_resumes_its_deliveries(
    ledger: WebhookLedger,
) -> None:
    with Receiver(answering(500, 410)) as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        until(lambda: ledger.item(endpoint)["disabled_reason"] == "gone", "the end")
        ledger.check_in()
        (delivery,) = ledger.await_deliveries(endpoint, attempted(2))
        assert (delivery.status, delivery.tried) == ("pending", 1)
        assert ledger.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        ledger.update(endpoint, enabled=True)
        ledger.await_all(endpoint, 1)
        ledger.check_in()
        ledger.await_all(endpoint, 2)
        assert received(receiver.requests) == model_of(ledger.conninfo).due_to(endpoint)
        assert [r.number for r in receiver.requests] == [1, 2, 3, 4]


def test_a_410_from_an_old_url_does_not_disable_an_endpoint_that_has_moved(
    ledger: WebhookLedger,
) -> None:
    moved = threading.Event()

    def gone_once_moved(request: Request) -> Answer:
        moved.wait(10)
        return Answer(410)

    with Receiver(gone_once_moved) as old, Receiver() as new:
        endpoint, _ = ledger.create(old.url, CHECK_INS)
        ledger.check_in()
        old.await_count(1)
        ledger.update(endpoint, url=new.url)
        moved.set()
        ledger.check_in()
        ledger.await_all(endpoint, 2)
        assert sorted(d.sequence for d in ledger.deliveries(endpoint)) == [1, 2]
        assert ledger.topics(endpoint) == ["webhook.created", "webhook.updated"]


def test_many_410s_disable_an_endpoint_once(ledger: WebhookLedger) -> None:
    with Receiver(lambda _: Answer(410, delay_seconds=0.05)) as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in(40)
        until(lambda: ledger.item(endpoint)["disabled_reason"] == "gone", "the end")
        ledger.stop()
        assert ledger.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        assert {d.status for d in ledger.deliveries(endpoint)} == {"pending"}
        assert len(receiver.requests) == 16, "no request is begun after the first 410"


def test_five_days_of_nothing_but_failure_disable_an_endpoint(patient: WebhookLedger) -> None:
    with Receiver(answering(500, 200, then=500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        fails(patient, endpoint, receiver, 1)
        patient.advance(days=6)
        # The retry succeeds: the time of failures is counted anew from here.
        receiver.await_count(2)
        patient.await_all(endpoint, 1)
        assert patient.dispatch(endpoint)[2] is None
        fails(patient, endpoint, receiver, 3)
        patient.advance(days=4, hours=23)
        receiver.await_count(4)
        until(lambda: patient.deliveries(endpoint)[1].tried == 2, "the attempt's record")
        assert patient.item(endpoint)["enabled"]
        patient.advance(hours=3)
        receiver.await_count(5)
        until(lambda: patient.item(endpoint)["disabled_reason"] == "failing", "the end")
        assert patient.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        # An endpoint that is enabled again has five days again.
        patient.update(endpoint, enabled=True)
        patient.check_in()
        patient.await_deliveries(endpoint, lambda found: len(found) == 3 and bool(found[2].tried))
        assert patient.item(endpoint)["enabled"]


def test_a_failure_counts_though_the_endpoint_was_enabled_by_a_clock_that_was_ahead(
    patient: WebhookLedger,
) -> None:
    with Receiver(answering(500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        patient.advance(seconds=-5)
        fails(patient, endpoint, receiver, 1)
        enabled = "SELECT enabled_at FROM ledger.webhook WHERE endpoint_id = %s"
        assert query(patient.conninfo, enabled, endpoint) == [(patient.dispatch(endpoint)[2],)]


def fails(ledger: WebhookLedger, endpoint: str, receiver: Receiver, count: int) -> None:
    """Publish an event; its attempt, the receiver's ``count``-th request, fails."""
    ledger.check_in()
    receiver.await_count(count)
    until(lambda: ledger.dispatch(endpoint)[2] is not None, "the failure's record")


def test_events_of_a_disabled_endpoint_get_no_number_and_waiting_deliveries_resume(
    patient: WebhookLedger,
) -> None:
    with Receiver(answering(500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        patient.check_in()
        patient.await_deliveries(endpoint, attempted(1))
        patient.update(endpoint, enabled=False)
        until(lambda: not patient.item(endpoint)["enabled"], "the view")
        patient.check_in(2)
        patient.advance(hours=3)
        tested = patient.test(endpoint)
        receiver.await_count(2)
        patient.await_deliveries(
            endpoint, lambda f: [d.status for d in f] == ["pending", "delivered"]
        )
        patient.update(endpoint, enabled=True)
        patient.await_all(endpoint, 2)
        patient.check_in()
        patient.await_all(endpoint, 3)
        assert received(receiver.requests) == model_of(patient.conninfo).due_to(endpoint)
        assert sorted(received(receiver.requests)) == [1, 2]
        assert body_of(receiver.requests[1])["id"] == tested


def test_a_deleted_endpoint_is_sent_no_more_requests(patient: WebhookLedger) -> None:
    with Receiver(answering(500)) as receiver:
        endpoint, _ = patient.create(receiver.url + "/first", CHECK_INS)
        patient.check_in()
        patient.await_deliveries(endpoint, attempted(1))
        patient.delete(endpoint)
        until(lambda: is_deleted(patient, endpoint), "the view")
        other, _ = patient.create(receiver.url + "/second", CHECK_INS)
        patient.advance(hours=3)
        patient.check_in()
        patient.await_all(other, 1)
        assert [request.path for request in receiver.requests] == ["/first", "/second"]


def is_deleted(ledger: WebhookLedger, endpoint: str) -> bool:
    """True if the view has marked the endpoint as deleted."""
    statement = "SELECT deleted FROM ledger.webhook WHERE endpoint_id = %s"
    return bool(query(ledger.conninfo, statement, endpoint)[0][0])


# Test events.


def test_a_test_event_affects_neither_numbers_nor_failures_nor_the_endpoints_state(
    patient: WebhookLedger,
) -> None:
    with Receiver(answering(200, 500, 410, 200)) as receiver:
        endpoint, secret = patient.create(receiver.url, CHECK_INS)
        for number in range(1, 4):
            event_id = patient.test(endpoint)
            body = body_of(receiver.await_count(number)[-1], secret)
            assert (body["id"], body["type"], body["sequence"]) == (event_id, "webhook.test", 0)
            assert (body["subject"]["id"], body["payload"]) == (endpoint, {})
        found = patient.await_deliveries(
            endpoint, lambda found: all(d.status != "pending" for d in found)
        )
        assert [d.status for d in found] == ["delivered", "failed", "failed"]
        assert patient.dispatch(endpoint)[2] is None
        assert patient.item(endpoint)["enabled"]
        patient.check_in()
        receiver.await_count(4)
        assert received(receiver.requests) == model_of(patient.conninfo).due_to(endpoint)
        assert "webhook.delivery_failed" not in patient.topics(endpoint)
