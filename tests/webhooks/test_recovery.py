"""Recovery: failed deliveries are sent again at a client's request (contract, Feeds)."""

from datetime import timedelta

import pytest

from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.model import model_of
from tests.support.receiver import Answer, Receiver, Script
from tests.support.views import query
from tests.support.webhooks import WebhookLedger, body_of, received, webhook_ledger

CHECK_INS = ["execution.checked_in"]

# Makes every message a failed delivery without sending it.
_FAIL_ALL = """
WITH failed AS (
    INSERT INTO ledger.delivery (endpoint_id, position, sequence, status)
    SELECT endpoint_id, position, sequence, 'failed' FROM ledger.webhook_message
)
UPDATE ledger.dispatch SET planned = (SELECT max(position) FROM ledger.webhook_message)
"""


class Switch:
    """Answers 500 until it is turned on."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self, _: object) -> Answer:
        return Answer(200 if self.on else 500)


@pytest.fixture
def ledger(ledger: WebhookLedger) -> WebhookLedger:
    """A ledger with a line, and a dispatcher that runs."""
    ledger.start()
    return ledger


def test_deliveries_that_failed_since_a_time_are_sent_again_with_their_ids_and_numbers(
    ledger: WebhookLedger,
) -> None:
    switch = Switch()
    with Receiver(switch) as receiver:
        endpoint, secret = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in(2)
        ledger.await_all(endpoint, 2, "failed")
        since = ledger.clock()
        ledger.check_in(3)
        ledger.await_all(endpoint, 5, "failed")
        switch.on, before = True, len(receiver.requests)
        (delivered,) = ledger.check_in()
        ledger.await_deliveries(
            endpoint, lambda found: [d.status for d in found[5:]] == ["delivered"]
        )
        ledger.recover(endpoint, since)
        found = ledger.await_deliveries(
            endpoint, lambda found: [d.status for d in found].count("delivered") == 4
        )
        assert [d.status for d in found] == ["failed"] * 2 + ["delivered"] * 4
        assert [len(d.attempts) for d in found] == [5, 5, 6, 6, 6, 1]
        again = receiver.requests[before:]
        assert sorted(body_of(r, secret)["sequence"] for r in again) == [3, 4, 5, 6]
        ledger.recover(endpoint, since - timedelta(days=1))
        ledger.await_all(endpoint, 6)
        assert received(receiver.requests) == model_of(ledger.conninfo).due_to(endpoint)
        sent = [body_of(request)["id"] for request in receiver.requests]
        assert sent.count(delivered) == 1, "a delivered event is not sent again"


def test_recovery_makes_a_waiting_retry_due_at_once(conninfo: str) -> None:
    switch = Switch()
    with webhook_ledger(conninfo, retries="3600,3600") as ledger, Receiver(switch) as receiver:
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        ledger.await_deliveries(endpoint, lambda found: bool(found) and found[0].tried == 1)
        ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        receiver.await_count(2)
        found = ledger.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)
        assert found[0].tried == 1, "a recovery begins a round of its own"
        switch.on = True
        ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        ledger.await_all(endpoint, 1)


def test_each_failed_round_of_attempts_is_recorded_once(ledger: WebhookLedger) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        ledger.await_all(endpoint, 1, "failed")
        for rounds in (2, 3):
            ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
            ledger.await_deliveries(
                endpoint,
                lambda found, rounds=rounds: (  # type: ignore[misc]
                    len(found[0].attempts) == 5 * rounds and found[0].status == "failed"
                ),
            )
            assert ledger.topics(endpoint).count("webhook.delivery_failed") == rounds
    assert_decision_tables_match_log(ledger.conninfo)


def test_a_delivery_in_flight_at_a_recovery_is_sent_again_if_it_fails(conninfo: str) -> None:
    answers = iter([Answer(500, delay_seconds=0.5), Answer(200)])
    with (
        webhook_ledger(conninfo, retries="3600") as ledger,
        Receiver(lambda _: next(answers)) as receiver,
    ):
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        receiver.await_count(1)
        position = ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        (delivery,) = ledger.await_all(endpoint, 1)
        assert delivery.statuses == [500, 200]
        assert delivery.tried == 0, "a failure of the round before does not count in this one"
        ledger.await_applied(endpoint, position)


def test_recovery_does_not_send_a_test_event_again(conninfo: str) -> None:
    answers = iter([Answer(500), Answer(500, delay_seconds=0.5)])
    with (
        webhook_ledger(conninfo, retries="0") as ledger,
        Receiver(lambda _: next(answers)) as receiver,
    ):
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.test(endpoint)
        ledger.await_all(endpoint, 1, "failed")
        ledger.test(endpoint)
        receiver.await_count(2)
        position = ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        ledger.await_applied(endpoint, position)
        found = ledger.await_all(endpoint, 2, "failed")
        assert [delivery.statuses for delivery in found] == [[500], [500]]


def test_a_recovery_of_more_than_a_thousand_deliveries_sends_each_of_them_once_more(
    conninfo: str,
) -> None:
    with webhook_ledger(conninfo) as ledger, Receiver() as receiver:
        ledger.activate()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        first = ledger.start()
        ledger.check_in()
        ledger.await_all(endpoint, 1)
        first.stop()
        ledger.check_in(1_100)
        ledger.await_deliveries(endpoint, lambda found: len(found) == 1_101)
        query(conninfo, "DELETE FROM ledger.delivery")
        query(conninfo, _FAIL_ALL)
        position = ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        ledger.start()
        receiver.await_count(1_102, 30)
        ledger.await_all(endpoint, 1_101)
        ledger.await_applied(endpoint, position)
        assert len(receiver.requests) == 1_102, "each delivery is sent once more"
        assert received(receiver.requests) == model_of(conninfo).due_to(endpoint)


def test_at_most_fifty_attempts_of_a_delivery_are_stored(conninfo: str) -> None:
    failing: Script = lambda _: Answer(500)  # noqa: E731
    with webhook_ledger(conninfo, retries="0") as ledger, Receiver(failing) as receiver:
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        ledger.await_all(endpoint, 1, "failed")
        full = "array_fill('{\"response_status\": 1}'::text, '{49}')"
        query(conninfo, f"UPDATE ledger.delivery SET attempts = {full}")
        ledger.recover(endpoint, ledger.clock() - timedelta(minutes=1))
        (delivery,) = ledger.await_deliveries(
            endpoint, lambda found: found[0].statuses[-2:] == [500, 500]
        )
        assert delivery.statuses == [1] * 48 + [500] * 2
