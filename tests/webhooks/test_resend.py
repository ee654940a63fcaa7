"""A delivery is sent again at a client's request, delivered or not (contract, Feeds)."""

import asyncio

from ledger.features.webhooks.delivery.deliveries import Deliveries, connect
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.model import model_of
from tests.support.rebuilding import rebuild, view
from tests.support.receiver import Answer, Receiver
from tests.support.views import query, until
from tests.support.webhooks import WebhookLedger, body_of, received, webhook_ledger

CHECK_INS = ["execution.checked_in"]


def test_a_delivered_event_is_sent_again_alone_with_its_id_and_number(
    ledger: WebhookLedger,
) -> None:
    ledger.start()
    with Receiver() as receiver:
        endpoint, secret = ledger.create(receiver.url, CHECK_INS)
        _, second, _ = ledger.check_in(3)
        ledger.await_all(endpoint, 3)
        for times in (2, 3):
            position = ledger.resend(endpoint, second)
            request = receiver.await_count(2 + times)[-1]
            body = body_of(request, secret)
            assert (body["id"], body["sequence"]) == (second, 2)
            found = ledger.await_deliveries(
                endpoint,
                lambda found, times=times: len(found[1].attempts) == times,  # type: ignore[misc]
            )
            assert [d.status for d in found] == ["delivered"] * 3
            assert [len(d.attempts) for d in found] == [1, times, 1]
            ledger.await_applied(endpoint, position)
        assert received(receiver.requests) == model_of(ledger.conninfo).due_to(endpoint)


def test_a_resend_that_fails_has_a_new_series_of_attempts_and_its_failure_is_recorded(
    ledger: WebhookLedger,
) -> None:
    ledger.start()
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        (event,) = ledger.check_in()
        ledger.await_all(endpoint, 1)
        receiver.script = lambda _: Answer(500)
        for rounds in (1, 2):
            ledger.resend(endpoint, event)
            (delivery,) = ledger.await_deliveries(
                endpoint,
                lambda found, rounds=rounds: (  # type: ignore[misc]
                    found[0].status == "failed" and len(found[0].attempts) == 1 + 5 * rounds
                ),
            )
            assert delivery.statuses == [200] + [500] * 5 * rounds
            assert ledger.topics(endpoint).count("webhook.delivery_failed") == rounds
    assert_decision_tables_match_log(ledger.conninfo)


def test_a_waiting_retry_is_sent_at_once_and_others_go_on_waiting(conninfo: str) -> None:
    with (
        webhook_ledger(conninfo, retries="3600") as ledger,
        Receiver(lambda _: Answer(500)) as receiver,
    ):
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        first, second = ledger.check_in(2)
        ledger.await_deliveries(endpoint, lambda found: [d.tried for d in found] == [1, 1])
        receiver.script = lambda _: Answer()
        position = ledger.resend(endpoint, second)
        found = ledger.await_deliveries(endpoint, lambda found: found[1].status == "delivered")
        ledger.await_applied(endpoint, position)
        assert [d.status for d in found] == ["pending", "delivered"]
        assert [body_of(request)["id"] for request in receiver.requests].count(first) == 1


def test_a_success_of_an_attempt_from_before_the_resend_does_not_replace_it(
    ledger: WebhookLedger,
) -> None:
    answers = iter([Answer(delay_seconds=0.5), Answer()])
    ledger.start()
    with Receiver(lambda _: next(answers)) as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        (event,) = ledger.check_in()
        receiver.await_count(1)
        ledger.await_applied(endpoint, ledger.resend(endpoint, event))
        (delivery,) = ledger.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)
        assert (delivery.status, delivery.statuses) == ("delivered", [200, 200])


def test_an_event_that_is_not_begun_yet_is_sent_once(ledger: WebhookLedger) -> None:
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        event, other = ledger.check_in(2)
        position = ledger.resend(endpoint, event)
        ledger.start()
        ledger.await_all(endpoint, 2)
        ledger.await_applied(endpoint, position)
        sent = [body_of(request)["id"] for request in receiver.requests]
        assert sorted(sent) == [event, other]


def test_a_test_is_sent_again_too(ledger: WebhookLedger) -> None:
    ledger.start()
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        test = ledger.test(endpoint)
        ledger.await_all(endpoint, 1)
        ledger.resend(endpoint, test)
        first, again = receiver.await_count(2)
        assert again.body == first.body
        assert body_of(again)["sequence"] == 0


# Other dispatchers, crashes, rebuilds.


def test_the_next_dispatcher_applies_a_resend_that_was_requested_while_there_was_none(
    ledger: WebhookLedger,
) -> None:
    first = ledger.start()
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        (event,) = ledger.check_in()
        ledger.await_all(endpoint, 1)
        first.stop()
        position = ledger.resend(endpoint, event)
        second = ledger.start()
        receiver.await_count(2)
        ledger.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)
        second.stop()
        ledger.start()
        last = ledger.test(endpoint)
        ledger.await_all(endpoint, 2)
        assert [body_of(r)["id"] for r in receiver.requests] == [event, event, last]
        assert ledger.dispatch(endpoint)[1] > position


def test_a_resend_that_a_dispatcher_applied_before_it_died_is_sent_by_the_next(
    ledger: WebhookLedger,
) -> None:
    first = ledger.start()
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        (event,) = ledger.check_in()
        ledger.await_all(endpoint, 1)
        first.stop()
        position = ledger.resend(endpoint, event)
        requested = "SELECT requested FROM ledger.webhook"
        until(lambda: query(ledger.conninfo, requested) == [(position,)], "the view")

        async def apply_and_die() -> None:
            async with await connect(ledger.conninfo) as connection:
                (applied,) = await Deliveries(connection).apply_requests([endpoint], ledger.clock())
                assert (applied.position, applied.is_done) == (position, True)

        asyncio.run(apply_and_die())
        (delivery,) = ledger.deliveries(endpoint)
        assert (delivery.status, len(delivery.attempts)) == ("pending", 1)
        ledger.start()
        receiver.await_count(2)
        ledger.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)


def test_a_rebuilt_view_has_the_same_resends_and_none_is_applied_twice(
    ledger: WebhookLedger,
) -> None:
    rows = "SELECT * FROM ledger.webhook_message ORDER BY endpoint_id, position"
    ledger.start()
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        (event,) = ledger.check_in()
        ledger.await_all(endpoint, 1)
        ledger.await_applied(endpoint, ledger.resend(endpoint, event))
        ledger.await_deliveries(endpoint, lambda found: len(found[0].attempts) == 2)
        before = query(ledger.conninfo, rows)
        assert rebuild(ledger.conninfo, view("webhook")).differing == 0
        assert query(ledger.conninfo, rows) == before
        test = ledger.test(endpoint)
        ledger.await_all(endpoint, 2)
        assert [body_of(r)["id"] for r in receiver.requests] == [event, event, test]
