"""Recovery: failed deliveries are sent again at a client's request (contract, Feeds)."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.support.model import model_of
from tests.support.receiver import Answer, Receiver, Script
from tests.support.views import query
from tests.support.webhooks import Post, body_of, posting, received

CHECK_INS = ["execution.checked_in"]

# Makes every message a failed delivery without sending it.
_FAIL_ALL = """
WITH failed AS (
    INSERT INTO ledger.delivery (endpoint_id, position, sequence, status)
    SELECT endpoint_id, position, sequence, 'failed' FROM ledger.webhook_message
)
UPDATE ledger.dispatch SET planned = (SELECT max(position) FROM ledger.webhook_message)
"""


@pytest.fixture
def post(conninfo: str) -> Iterator[Post]:
    with posting(conninfo) as post:
        post.activate()
        post.start()
        yield post


class Switch:
    """Answers 500 until it is turned on."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self, _: object) -> Answer:
        return Answer(200 if self.on else 500)


def test_deliveries_that_failed_since_a_time_are_sent_again_with_their_ids_and_numbers(
    post: Post,
) -> None:
    switch = Switch()
    with Receiver(switch) as receiver:
        endpoint, secret = post.create(receiver.url, CHECK_INS)
        post.check_in(2)
        post.await_all(endpoint, 2, "failed")
        since = post.clock()
        post.check_in(3)
        post.await_all(endpoint, 5, "failed")
        switch.on, before = True, len(receiver.requests)
        (delivered,) = post.check_in()
        post.await_deliveries(
            endpoint, lambda found: [d.status for d in found[5:]] == ["delivered"]
        )
        post.recover(endpoint, since)
        found = post.await_deliveries(
            endpoint, lambda found: [d.status for d in found].count("delivered") == 4
        )
        assert [d.status for d in found] == ["failed"] * 2 + ["delivered"] * 4
        assert [len(d.attempts) for d in found] == [5, 5, 6, 6, 6, 1]
        again = receiver.requests[before:]
        assert sorted(body_of(r, secret)["sequence"] for r in again) == [3, 4, 5, 6]
        post.recover(endpoint, since - timedelta(days=1))
        post.await_all(endpoint, 6)
        assert received(receiver.requests) == model_of(post.conninfo).due_to(endpoint)
        sent = [body_of(request)["id"] for request in receiver.requests]
        assert sent.count(delivered) == 1, "a delivered event is not sent again"


def test_recovery_makes_a_waiting_retry_due_at_once(conninfo: str) -> None:
    switch = Switch()
    with posting(conninfo, retries="3600,3600") as post, Receiver(switch) as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        post.await_deliveries(endpoint, lambda found: bool(found) and found[0].tried == 1)
        post.recover(endpoint, post.clock() - timedelta(minutes=1))
        receiver.await_count(2)
        found = post.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)
        assert found[0].tried == 1, "a recovery begins a round of its own"
        switch.on = True
        post.recover(endpoint, post.clock() - timedelta(minutes=1))
        post.await_all(endpoint, 1)


def test_each_failed_round_of_attempts_is_recorded_once(post: Post) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        post.await_all(endpoint, 1, "failed")
        for rounds in (2, 3):
            post.recover(endpoint, post.clock() - timedelta(minutes=1))
            post.await_deliveries(
                endpoint,
                lambda found, rounds=rounds: (  # type: ignore[misc]
                    len(found[0].attempts) == 5 * rounds and found[0].status == "failed"
                ),
            )
            assert post.topics(endpoint).count("webhook.delivery_failed") == rounds


def test_a_delivery_in_flight_at_a_recovery_is_sent_again_if_it_fails(conninfo: str) -> None:
    answers = iter([Answer(500, delay_seconds=0.5), Answer(200)])
    with posting(conninfo, retries="3600") as post, Receiver(lambda _: next(answers)) as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        receiver.await_count(1)
        position = post.recover(endpoint, post.clock() - timedelta(minutes=1))
        (delivery,) = post.await_all(endpoint, 1)
        assert delivery.statuses == [500, 200]
        assert delivery.tried == 0, "a failure of the round before does not count in this one"
        post.await_heeded(endpoint, position)


def test_recovery_does_not_send_a_test_event_again(conninfo: str) -> None:
    answers = iter([Answer(500), Answer(500, delay_seconds=0.5)])
    with posting(conninfo, retries="0") as post, Receiver(lambda _: next(answers)) as receiver:
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.test(endpoint)
        post.await_all(endpoint, 1, "failed")
        post.test(endpoint)
        receiver.await_count(2)
        position = post.recover(endpoint, post.clock() - timedelta(minutes=1))
        post.await_heeded(endpoint, position)
        found = post.await_all(endpoint, 2, "failed")
        assert [delivery.statuses for delivery in found] == [[500], [500]]


def test_a_recovery_of_2500_deliveries_sends_each_of_them_once_more(conninfo: str) -> None:
    with posting(conninfo) as post, Receiver() as receiver:
        post.activate()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        first = post.start()
        post.check_in()
        post.await_all(endpoint, 1)
        first.stop()
        for _ in range(5):
            post.check_in(500)
        post.await_deliveries(endpoint, lambda found: len(found) == 2501)
        query(conninfo, "DELETE FROM ledger.delivery")
        query(conninfo, _FAIL_ALL)
        position = post.recover(endpoint, post.clock() - timedelta(minutes=1))
        post.start()
        receiver.await_count(2502, 30)
        post.await_all(endpoint, 2501)
        post.await_heeded(endpoint, position)
        assert len(receiver.requests) == 2502, "each delivery is sent once more"
        assert received(receiver.requests) == model_of(conninfo).due_to(endpoint)


def test_at_most_fifty_attempts_of_a_delivery_are_kept(conninfo: str) -> None:
    failing: Script = lambda _: Answer(500)  # noqa: E731
    with posting(conninfo, retries="0") as post, Receiver(failing) as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        post.await_all(endpoint, 1, "failed")
        full = "array_fill('{\"response_status\": 1}'::text, '{49}')"
        query(conninfo, f"UPDATE ledger.delivery SET attempts = {full}")
        post.recover(endpoint, post.clock() - timedelta(minutes=1))
        (delivery,) = post.await_deliveries(
            endpoint, lambda found: found[0].statuses[-2:] == [500, 500]
        )
        assert delivery.statuses == [1] * 48 + [500] * 2
