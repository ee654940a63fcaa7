"""The dispatcher with a real database and a real receiver (contract 5, webhooks)."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from standardwebhooks import WebhookVerificationError

from projections.webhook.view import WebhookView
from tests.support.managers import due_to
from tests.support.receiver import Answer, Receiver, Request, Script
from tests.support.views import projecting, query, standing, until
from tests.support.webhooks import (
    Delivery,
    Post,
    Ticking,
    body_of,
    events_of,
    posting,
    received,
)

CHECK_INS = ["execution.checked_in"]
SLOW = "3600,3600,3600,3600"
"""A schedule whose next attempt is as good as never."""


@pytest.fixture
def post(conninfo: str) -> Iterator[Post]:
    """A ledger with a line and a dispatcher."""
    with posting(conninfo) as post:
        post.activate()
        post.start()
        yield post


@pytest.fixture
def patient(conninfo: str) -> Iterator[Post]:
    """The same, and what failed is not tried again by itself."""
    with posting(conninfo, retries=SLOW) as post:
        post.activate()
        post.start()
        yield post


def answering(*statuses: int, then: int = 200) -> Script:
    """These answers one after the other, then always the same."""
    left = iter(statuses)
    return lambda _: Answer(next(left, then))


# What is sent.


def test_an_event_is_delivered_signed_as_the_feed_has_it_with_its_number(post: Post) -> None:
    with Receiver() as receiver:
        endpoint, secret = post.create(receiver.url + "/hooks?of=us", CHECK_INS)
        (event_id,) = post.check_in()
        (request,) = receiver.await_count(1)
        body = body_of(request, secret)
        assert (body["id"], body.pop("sequence")) == (event_id, 1)
        assert set(body) == {
            "id", "type", "occurred_at", "recorded_at", "position", "actor", "reported_by",
            "subject", "service_line_id", "organization_id", "workspace_id", "causation_id",
            "payload",
        }  # fmt: skip
        assert (request.method, request.path) == ("POST", "/hooks?of=us")
        assert request.headers["content-type"] == "application/json"
        (delivery,) = post.await_all(endpoint, 1)
        (attempt,) = delivery.attempts
        assert attempt["response_status"] == 200
        assert attempt["error"] is None
        with pytest.raises(WebhookVerificationError):
            body_of(request, post.create(receiver.url)[1])


def test_each_endpoint_gets_what_matches_it_numbered_for_itself(post: Post) -> None:
    chosen = {
        "all": ["*"],
        "some": ["execution.checked_in", "execution.updated"],
        "none": ["run.failed"],
    }
    with Receiver() as receiver:
        made = {
            name: post.create(f"{receiver.url}/{name}", types)[0] for name, types in chosen.items()
        }
        post.check_in(3)
        post.activate("LIN-26-000002")
        post.check_in(2)
        events = events_of(post.conninfo)
        for name, endpoint in made.items():
            expected = due_to(events, endpoint)
            post.await_all(endpoint, len(expected))
            got = [request for request in receiver.requests if request.path == f"/{name}"]
            assert received(got) == expected
            assert len(got) == len(expected), "nothing twice where nothing failed"
        assert len(due_to(events, made["all"])) == 6


def test_while_a_secret_overlaps_both_verify_and_later_the_new_one_alone(conninfo: str) -> None:
    # The package wants timestamps of these minutes: the rotation lies almost a day back.
    clock = Ticking(hours=-24, seconds=60)
    with posting(conninfo, clock) as post, Receiver() as receiver:
        post.activate()
        _, old = post.create(receiver.url, CHECK_INS)
        new = post.rotate(post_endpoint(post))
        post.start()
        post.advance(hours=24, seconds=-90)
        post.check_in()
        (request,) = receiver.await_count(1)
        body_of(request, old, new)
        post.advance(seconds=120)
        post.check_in()
        request = receiver.await_count(2)[1]
        body_of(request, new)
        with pytest.raises(WebhookVerificationError):
            body_of(request, old)


def post_endpoint(post: Post) -> str:
    """The only endpoint there is."""
    ((endpoint,),) = query(
        post.conninfo,
        "SELECT DISTINCT originator_id FROM ledger.ledger_events WHERE originator_id ~ '^WHK'",
    )
    return str(endpoint)


def test_where_private_addresses_are_not_allowed_none_is_connected_to(conninfo: str) -> None:
    with posting(conninfo, allow_private=False) as post, Receiver() as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        (delivery,) = post.await_all(endpoint, 1, "failed")
        assert {attempt["error"] for attempt in delivery.attempts} == {"the address is not allowed"}
        assert receiver.count_connections() == 0


def test_nothing_is_sent_before_whoever_hears_of_it_can_read_it(conninfo: str) -> None:
    shown: list[bool] = []

    def look(request: Request) -> Answer:
        position = body_of(request)["position"]
        shown.append(all(at >= position for at, _ in standing(conninfo).values()))
        return Answer()

    with posting(conninfo, follow=False) as post, Receiver(look) as receiver:
        post.start()
        post.activate()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        with projecting(conninfo, WebhookView()) as ahead:
            ahead.catch_up()
            until(lambda: post.dispatch(endpoint), "the dispatcher")
        with projecting(conninfo) as projector:
            projector.catch_up()
            (delivery,) = post.await_all(endpoint, 1)
        assert delivery.statuses == [200]
        assert shown == [True]


# Retries.


def test_a_failed_delivery_is_tried_again_with_the_same_id_and_number(post: Post) -> None:
    with Receiver(answering(500, 503, 404)) as receiver:
        endpoint, secret = post.create(receiver.url, CHECK_INS)
        post.check_in()
        requests = receiver.await_count(4)
        assert len({request.body for request in requests}) == 1
        for request in requests:
            body_of(request, secret)
        (delivery,) = post.await_all(endpoint, 1)
        assert delivery.statuses == [500, 503, 404, 200]
        assert post.dispatch(endpoint)[2] is None, "it has succeeded since"


def test_what_a_receiver_asks_for_is_waited(patient: Post) -> None:
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
    """All deliveries have had so many attempts."""
    return lambda found: bool(found) and all(len(d.attempts) == count for d in found)


def test_after_the_last_attempt_others_are_told_once_and_the_endpoint_itself_never(
    post: Post,
) -> None:
    with Receiver(lambda r: Answer(500 if r.path == "/dead" else 200)) as receiver:
        dead, _ = post.create(receiver.url + "/dead")
        other, _ = post.create(receiver.url + "/other", ["webhook.delivery_failed"])
        (event_id,) = post.check_in()
        post.await_all(dead, 1, "failed")
        (told,) = post.await_all(other, 1)
        requests = [r for r in receiver.requests if r.path == "/other"]
        (body,) = map(body_of, requests)
        assert body["subject"] == {"type": "webhook", "id": dead}
        assert body["causation_id"] == event_id
        assert body["payload"] == {
            "event_id": event_id, "sequence": 1, "attempts": 5, "response_status": 500,
            "error": None,
        }  # fmt: skip
        assert post.topics(dead) == ["webhook.created", "webhook.delivery_failed"]
        assert len([r for r in receiver.requests if r.path == "/dead"]) == 5
        assert told.type == "webhook.delivery_failed"


def test_two_dead_endpoints_do_not_tell_of_each_other_for_ever(post: Post) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        made = [post.create(f"{receiver.url}/{n}")[0] for n in range(2)]
        post.check_in()
        for endpoint in made:
            found = post.await_all(endpoint, 2, "failed")
            assert [d.type for d in found] == ["execution.checked_in", "webhook.delivery_failed"]
        for endpoint in made:
            assert post.topics(endpoint) == ["webhook.created", "webhook.delivery_failed"]


# Disabling.


def test_an_endpoint_that_is_gone_is_disabled_at_once_and_goes_on_when_enabled(
    post: Post,
) -> None:
    with Receiver(answering(500, 410)) as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        until(lambda: post.shown(endpoint)["disabled_reason"] == "gone", "the end")
        post.check_in()
        (delivery,) = post.await_deliveries(endpoint, attempted(2))
        assert (delivery.status, delivery.tried) == ("pending", 1)
        assert post.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        post.update(endpoint, enabled=True)
        post.await_all(endpoint, 1)
        post.check_in()
        post.await_all(endpoint, 2)
        assert received(receiver.requests) == due_to(events_of(post.conninfo), endpoint)
        assert [r.number for r in receiver.requests] == [1, 2, 3, 4]


def test_an_address_that_is_gone_does_not_disable_the_endpoint_at_its_new_one(post: Post) -> None:
    moved = threading.Event()

    def gone_once_moved(request: Request) -> Answer:
        moved.wait(10)
        return Answer(410)

    with Receiver(gone_once_moved) as old, Receiver() as new:
        endpoint, _ = post.create(old.url, CHECK_INS)
        post.check_in()
        old.await_count(1)
        post.update(endpoint, url=new.url)
        moved.set()
        post.check_in()
        post.await_all(endpoint, 2)
        assert sorted(d.sequence for d in post.deliveries(endpoint)) == [1, 2]
        assert post.topics(endpoint) == ["webhook.created", "webhook.updated"]


def test_many_answers_of_an_endpoint_that_is_gone_disable_it_once(post: Post) -> None:
    with Receiver(lambda _: Answer(410, delay_seconds=0.05)) as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in(40)
        until(lambda: post.shown(endpoint)["disabled_reason"] == "gone", "the end")
        post.stop()
        assert post.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        assert {d.status for d in post.deliveries(endpoint)} == {"pending"}
        assert len(receiver.requests) == 16, "nothing is begun after the first such answer"


def test_five_days_of_nothing_but_failure_disable_an_endpoint(patient: Post) -> None:
    with Receiver(answering(500, 200, then=500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        fails(patient, endpoint, receiver, 1)
        patient.advance(days=6)
        # Of the two that are due then the first is taken: it counts anew from here.
        receiver.await_count(2)
        patient.await_all(endpoint, 1)
        assert patient.dispatch(endpoint)[2] is None
        fails(patient, endpoint, receiver, 3)
        patient.advance(days=4, hours=23)
        receiver.await_count(4)
        until(lambda: patient.deliveries(endpoint)[1].tried == 2, "the attempt's record")
        assert patient.shown(endpoint)["enabled"]
        patient.advance(hours=3)
        receiver.await_count(5)
        until(lambda: patient.shown(endpoint)["disabled_reason"] == "failing", "the end")
        assert patient.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        # Enabled again, it has five days again.
        patient.update(endpoint, enabled=True)
        patient.check_in()
        patient.await_deliveries(endpoint, lambda found: len(found) == 3 and bool(found[2].tried))
        assert patient.shown(endpoint)["enabled"]


def test_who_fails_is_seen_to_fail_though_a_clock_was_ahead_when_it_was_enabled(
    patient: Post,
) -> None:
    with Receiver(answering(500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        patient.advance(seconds=-5)
        fails(patient, endpoint, receiver, 1)
        enabled = "SELECT enabled_at FROM ledger.webhook WHERE endpoint_id = %s"
        assert query(patient.conninfo, enabled, endpoint) == [(patient.dispatch(endpoint)[2],)]


def fails(post: Post, endpoint: str, receiver: Receiver, count: int) -> None:
    """An event whose first attempt fails; the receiver's request of that number."""
    post.check_in()
    receiver.await_count(count)
    until(lambda: post.dispatch(endpoint)[2] is not None, "the failure's record")


def test_what_passes_while_disabled_is_not_counted_and_what_waited_goes_on(
    patient: Post,
) -> None:
    with Receiver(answering(500)) as receiver:
        endpoint, _ = patient.create(receiver.url, CHECK_INS)
        patient.check_in()
        patient.await_deliveries(endpoint, attempted(1))
        patient.update(endpoint, enabled=False)
        until(lambda: not patient.shown(endpoint)["enabled"], "the view")
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
        assert received(receiver.requests) == due_to(events_of(patient.conninfo), endpoint)
        assert sorted(received(receiver.requests)) == [1, 2]
        assert body_of(receiver.requests[1])["id"] == tested


def test_to_a_deleted_endpoint_nothing_is_sent_any_more(patient: Post) -> None:
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


def is_deleted(post: Post, endpoint: str) -> bool:
    """Whether reads show it no more."""
    statement = "SELECT deleted FROM ledger.webhook WHERE endpoint_id = %s"
    return bool(query(post.conninfo, statement, endpoint)[0][0])


# Tests.


def test_a_test_counts_for_nothing(patient: Post) -> None:
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
        assert patient.shown(endpoint)["enabled"]
        patient.check_in()
        receiver.await_count(4)
        assert received(receiver.requests) == due_to(events_of(patient.conninfo), endpoint)
        assert "webhook.delivery_failed" not in patient.topics(endpoint)
