"""Channels: the order of an alert's deliveries, skipped ones, and messages about many alerts."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY

from tests.support.alerts import Alarms, alarms
from tests.support.rebuilding import verify_all
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import query, until
from tests.support.webhooks import Delivery, webhook_ledger
from tests.webhooks.test_channels import KEY, slack

SLOW = "60,60,60"


@pytest.fixture
def alarm(conninfo: str) -> Iterator[Alarms]:
    with webhook_ledger(conninfo, retries=SLOW) as ledger, alarms(ledger) as found:
        yield found


def actions(requests: list[Request]) -> list[str]:
    return [json.loads(request.body)["event_action"] for request in requests]


def statuses(found: list[Delivery]) -> list[str]:
    return [delivery.status for delivery in found]


def tried(found: list[Delivery]) -> list[Delivery]:
    """Deliveries with a recorded attempt: the record comes later than the arrival."""
    return [delivery for delivery in found if delivery.attempts]


def are(*expected: str) -> Callable[[list[Delivery]], bool]:
    return lambda found: statuses(found) == [*expected]


def planned(count: int) -> Callable[[list[Delivery]], bool]:
    """True once that many deliveries are sent, or have a due time."""
    return lambda found: len(found) == count and all(d.due_at or d.attempts for d in found)


def skipped(format_: str) -> float:
    labels = {"format": format_, "outcome": "skipped"}
    return REGISTRY.get_sample_value("ledger_webhook_deliveries_total", labels) or 0.0


def pager(alarm: Alarms, receiver: Receiver) -> str:
    return alarm.ledger.create(receiver.url, format="pagerduty", routing_key=KEY)[0]


# Order.


def test_an_acknowledgement_waits_while_the_opening_is_tried_again(alarm: Alarms) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint = pager(alarm, receiver)
        alarm.ledger.start()
        alarm.watch()
        (alert,) = alarm.block(*alarm.lines())
        receiver.await_count(1)
        alarm.acknowledge(alert)
        (other,) = alarm.block(*alarm.lines())
        # The other alert does not wait.
        receiver.await_count(2)
        found = alarm.ledger.await_deliveries(endpoint, lambda found: len(tried(found)) == 2)
        assert [len(delivery.attempts) for delivery in found] == [1, 0, 1]
        receiver.script = lambda _: Answer(202)
        alarm.ledger.advance(minutes=2)
        alarm.ledger.await_all(endpoint, 3)
        sent = [json.loads(request.body) for request in receiver.requests]
        of_alert = [event["event_action"] for event in sent if event["dedup_key"] == alert]
        assert of_alert == ["trigger", "trigger", "acknowledge"]
        assert {event["dedup_key"] for event in sent} == {alert, other}


def test_of_one_alert_one_delivery_is_in_hand(alarm: Alarms) -> None:
    with Receiver(lambda _: Answer(202, delay_seconds=0.1)) as receiver:
        endpoint = pager(alarm, receiver)
        alarm.watch()
        (alert,) = alarm.block(*alarm.lines())
        for _ in range(5):
            alarm.acknowledge(alert)
        alarm.ledger.start()
        alarm.ledger.await_all(endpoint, 6)
        times = [request.arrived_at for request in receiver.requests]
        assert all(b - a >= 0.09 for a, b in pairwise(times))
        assert actions(receiver.requests) == ["trigger", *["acknowledge"] * 5]


# Skipped deliveries.


def test_an_opening_whose_alert_is_resolved_before_an_attempt_is_skipped_with_its_end(
    alarm: Alarms,
) -> None:
    before = skipped("pagerduty")
    with Receiver() as receiver:
        endpoint = pager(alarm, receiver)
        alarm.watch()
        (line,) = alarm.lines()
        alarm.block(line)
        alarm.unblock(line)
        alarm.ledger.start()
        alarm.ledger.await_all(endpoint, 2, "skipped")
        assert receiver.requests == []
        until(lambda: skipped("pagerduty") == before + 2, "the metric")


def test_an_opening_that_fails_is_skipped_once_its_alert_is_resolved(alarm: Alarms) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint = pager(alarm, receiver)
        alarm.ledger.start()
        alarm.watch()
        (line,) = alarm.lines()
        alarm.block(line)
        receiver.await_count(1)
        alarm.unblock(line)
        alarm.ledger.await_deliveries(endpoint, lambda found: len(found) == 2)
        alarm.ledger.advance(minutes=2)
        first, second = alarm.ledger.await_all(endpoint, 2, "skipped")
        assert (first.statuses, second.statuses) == ([500], [])
        assert len(receiver.requests) == 1


def test_an_end_is_sent_where_anything_of_the_alert_was_delivered(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint = pager(alarm, receiver)
        alarm.ledger.start()
        alarm.watch()
        (line,) = alarm.lines()
        (alert,) = alarm.block(line)
        alarm.ledger.await_all(endpoint, 1)
        receiver.script = lambda _: Answer(500)
        alarm.acknowledge(alert)
        receiver.await_count(2)
        alarm.unblock(line)
        receiver.script = lambda _: Answer(202)
        alarm.ledger.await_deliveries(endpoint, lambda found: len(found) == 3)
        alarm.ledger.advance(minutes=2)
        alarm.ledger.await_all(endpoint, 3)
        assert actions(receiver.requests) == ["trigger", "acknowledge", "acknowledge", "resolve"]


def test_an_endpoint_that_is_sent_ends_alone_gets_them(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint = pager(alarm, receiver)
        alarm.ledger.update(endpoint, event_types=("alert.resolved",))
        alarm.watch()
        (line,) = alarm.lines()
        alarm.block(line)
        alarm.unblock(line)
        alarm.ledger.start()
        alarm.ledger.await_all(endpoint, 1)
        assert actions(receiver.requests) == ["resolve"]


def test_a_skipped_delivery_is_sent_if_somebody_asks_for_it(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint = pager(alarm, receiver)
        alarm.watch()
        (line,) = alarm.lines()
        alarm.block(line)
        alarm.unblock(line)
        alarm.ledger.start()
        first, _ = alarm.ledger.await_all(endpoint, 2, "skipped")
        alarm.ledger.resend(endpoint, first.event_id)
        alarm.ledger.await_deliveries(endpoint, are("delivered", "skipped"))
        assert actions(receiver.requests) == ["trigger"]


def test_the_numbers_of_a_channel_are_a_fold_of_the_log(alarm: Alarms, conninfo: str) -> None:
    with Receiver() as receiver:
        endpoint = pager(alarm, receiver)
        alarm.watch()
        lines = alarm.lines(3)
        alarm.block(*lines)
        alarm.unblock(*lines[:1])
        alarm.ledger.start()
        found = alarm.ledger.await_deliveries(
            endpoint, lambda found: sorted(statuses(found)) == ["delivered"] * 2 + ["skipped"] * 2
        )
        assert [delivery.sequence for delivery in found] == [1, 2, 3, 4]
        assert verify_all(conninfo) == []


# Messages about many alerts.


def test_deliveries_that_are_due_of_one_watch_go_as_one_message(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.watch(name="First")
        alarm.block(*alarm.lines(232))
        alarm.ledger.start()
        alarm.ledger.await_all(endpoint, 232)
        (request,) = receiver.requests
        message = json.loads(request.body)
        slack.validate(message)
        assert message["text"].startswith("[warning] 232 lines · First\n")
        assert len(message["text"].split("\n")) == 22
        assert message["text"].endswith("\nand 212 more")
        assert alarm.ledger.dispatch(endpoint)[2] is None


def test_a_message_tells_of_events_of_one_type(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.watch()
        lines = alarm.lines(6)
        alarm.block(*lines[:4])
        alarm.ledger.start(gather=3600)
        alarm.ledger.await_deliveries(endpoint, planned(4))
        alarm.ledger.advance(hours=2)
        alarm.ledger.await_all(endpoint, 4)
        for alert in alarm.alerts()[:2]:
            alarm.acknowledge(alert)
        alarm.unblock(*lines[2:4])
        alarm.block(*lines[4:])
        alarm.ledger.await_deliveries(endpoint, planned(10))
        alarm.ledger.advance(hours=2)
        alarm.ledger.await_all(endpoint, 10)
        heads = [json.loads(request.body)["text"].split("\n")[0] for request in receiver.requests]
        assert heads[0] == "[warning] 4 lines · Blocked"
        assert sorted(heads[1:]) == [
            "Acknowledged: 2 lines · Blocked",
            "Resolved: 2 lines · Blocked",
            "[warning] 2 lines · Blocked",
        ]


def test_an_alert_that_comes_within_the_window_joins_the_message(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.ledger.start(gather=3600)
        alarm.watch()
        for _ in range(3):
            alarm.block(*alarm.lines())
        found = alarm.ledger.await_deliveries(endpoint, planned(3))
        assert len({delivery.due_at for delivery in found}) == 1
        assert receiver.requests == []
        alarm.ledger.advance(hours=2)
        alarm.ledger.await_all(endpoint, 3)
        assert len(receiver.requests) == 1


def test_watches_have_messages_of_their_own_at_most_one_a_second(alarm: Alarms) -> None:
    with Receiver() as receiver:
        endpoint, _ = alarm.ledger.create(f"{receiver.url}/secret", format="slack")
        for _ in range(3):
            alarm.watch()
        alarm.block(*alarm.lines(2))
        alarm.ledger.start()
        alarm.ledger.await_all(endpoint, 6)
        times = [request.arrived_at for request in receiver.requests]
        assert len(times) == 3
        # A message may arrive late on a busy machine, and the next one in time.
        assert all(b - a > 0.5 for a, b in pairwise(times))


def test_a_message_that_fails_is_sent_again_as_one(conninfo: str) -> None:
    with (
        webhook_ledger(conninfo) as ledger,
        alarms(ledger) as alarm,
        Receiver(lambda request: Answer(500 if request.number == 1 else 200)) as receiver,
    ):
        endpoint, _ = ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.watch()
        alarm.block(*alarm.lines(30))
        ledger.start()
        found = ledger.await_all(endpoint, 30)
        assert len(receiver.requests) == 2
        assert {tuple(delivery.statuses) for delivery in found} == {(500, 200)}


def test_a_message_that_fails_for_good_is_a_failure_of_each_event(conninfo: str) -> None:
    with (
        webhook_ledger(conninfo) as ledger,
        alarms(ledger) as alarm,
        Receiver(lambda _: Answer(404)) as receiver,
    ):
        endpoint, _ = ledger.create(f"{receiver.url}/secret", format="slack")
        alarm.watch()
        alarm.block(*alarm.lines(30))
        ledger.start()
        ledger.await_all(endpoint, 30, "failed")
        until(lambda: ledger.topics(endpoint).count("webhook.delivery_failed") == 30, "the log")
        ledger.stop()
        assert len(receiver.requests) == 1
        counted = "SELECT count(*) FROM ledger.delivery WHERE status = 'pending'"
        assert query(conninfo, counted) == [(0,)]
