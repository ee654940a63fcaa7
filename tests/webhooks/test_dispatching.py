"""The dispatcher under trouble: endpoints that hang, connections that break, a lead that moves."""

import random

import psycopg
import pytest

from tests.support.model import model_of
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import query, until
from tests.support.webhooks import WebhookLedger, body_of, received, webhook_ledger

CHECK_INS = ["execution.checked_in"]

_OURS = "application_name = 'ledger dispatcher' AND datname = current_database()"
_LEADERS = f"""
SELECT l.pid FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.{_OURS.replace("AND ", "AND a.")}
"""


def leaders(ledger: WebhookLedger) -> list[int]:
    """The backends that hold the dispatchers' advisory lock."""
    return [row[0] for row in query(ledger.conninfo, _LEADERS)]


def test_a_dead_and_a_slow_endpoint_delay_no_other_endpoint(ledger: WebhookLedger) -> None:
    """A delivery that waited behind theirs would miss the deadline on any machine."""
    deadline = 60.0

    def answer(request: Request) -> Answer:
        if request.path == "/dead":
            return Answer(action="hang")
        return Answer(delay_seconds=deadline / 10 if request.path == "/slow" else 0)

    with Receiver(answer) as receiver:
        ledger.start(deadline)
        made = {
            name: ledger.create(f"{receiver.url}/{name}", CHECK_INS)[0]
            for name in ("dead", "slow", "good")
        }
        refused, _ = ledger.create("http://127.0.0.1:9/", CHECK_INS)
        ledger.check_in(300)
        receiver.await_count(300, deadline * 0.9, "/good")
        slow = [d for d in ledger.deliveries(made["slow"]) if d.status == "delivered"]
        assert len(slow) < 200, "the good endpoint did not wait for the slow one"
        assert len([r for r in receiver.requests if r.path == "/dead"]) == 16
        until(lambda: ledger.dispatch(refused)[2] is not None, "the failure's record", deadline)
        ledger.await_all(made["good"], 300, seconds=deadline)


def test_a_failing_endpoint_has_at_most_four_requests_in_flight(conninfo: str) -> None:
    def answer(request: Request) -> Answer:
        if body_of(request)["sequence"] == 1:
            return Answer(500)
        return Answer(action="hang")

    with webhook_ledger(conninfo, retries="3600") as ledger, Receiver(answer) as receiver:
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        until(lambda: ledger.dispatch(endpoint) and ledger.dispatch(endpoint)[2], "the failure")
        ledger.check_in(30)
        receiver.await_count(5)
        until(lambda: len(ledger.deliveries(endpoint)) == 31, "the others")
        begun = [d for d in ledger.deliveries(endpoint) if d.tried is not None]
        assert len(begun) == 1 + 4


def test_one_dispatcher_leads_and_another_takes_over_when_it_stops(ledger: WebhookLedger) -> None:
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        first, second = ledger.start(), ledger.start()
        until(lambda: leaders(ledger), "a leader")
        ledger.check_in(50)
        ledger.await_all(endpoint, 50)
        assert len(leaders(ledger)) == 1
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}"
        until(
            lambda: query(ledger.conninfo, count)[0][0] == 2, "the connections of both dispatchers"
        )
        first.stop()
        ledger.check_in(50)
        ledger.await_all(endpoint, 100)
        assert len(leaders(ledger)) == 1
        assert len(receiver.requests) == 100, "a leader that stops cleanly repeats no request"
        second.stop()
        until(lambda: leaders(ledger) == [], "the server to notice the end of the session")


def test_no_event_is_sent_to_an_address_that_was_replaced_before_it(ledger: WebhookLedger) -> None:
    with Receiver() as receiver:
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        for number in range(1, 41):
            ledger.update(endpoint, url=f"{receiver.url}/{number}", event_types=CHECK_INS)
            ledger.check_in()
        sent = {body_of(r)["sequence"]: int(r.path[1:]) for r in receiver.await_count(40)}
        assert [number for number in range(1, 41) if sent[number] < number] == []


def test_requests_in_flight_are_finished_and_recorded_when_the_dispatcher_stops(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda _: Answer(delay_seconds=0.4)) as receiver:
        dispatching = ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in(20)
        receiver.await_count(16)
        dispatching.stop()
        statuses = [d.status for d in ledger.deliveries(endpoint)]
        assert statuses == ["delivered"] * 16 + ["pending"] * 4
        ledger.start()
        ledger.await_all(endpoint, 20)
        assert len(receiver.requests) == 20


def test_a_hanging_request_ends_at_its_deadline_when_the_dispatcher_stops(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        dispatching = ledger.start(deadline=0.3)
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        receiver.await_count(1)
        dispatching.stop()
        (delivery,) = ledger.deliveries(endpoint)
        assert delivery.attempts[0]["error"] == "timed out"


def test_every_number_arrives_though_the_dispatchers_connections_are_killed_repeatedly(
    ledger: WebhookLedger,
) -> None:
    dice = random.Random(7)
    with Receiver(lambda _: Answer(500 if dice.random() < 0.2 else 200)) as receiver:
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        for number in range(1, 5):
            ledger.check_in(60)
            receiver.await_count(60 * number - 30)
            killed = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}"
            query(ledger.conninfo, killed)
        ledger.await_deliveries(
            endpoint,
            lambda found: len(found) == 240 and all(d.status != "pending" for d in found),
            30,
        )
        expected = model_of(ledger.conninfo).due_to(endpoint)
        assert received(receiver.requests) == expected
        assert len(expected) == 240


def test_every_number_arrives_though_the_dispatcher_is_stopped_in_the_middle(
    ledger: WebhookLedger,
) -> None:
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        for number in range(1, 6):
            ledger.check_in(80)
            dispatching = ledger.start()
            receiver.await_count(80 * number - 40)
            dispatching.stop()
        ledger.start()
        ledger.await_all(endpoint, 400)
        assert received(receiver.requests) == model_of(ledger.conninfo).due_to(endpoint)
        assert len(receiver.requests) == 400


def test_a_failure_recorded_in_the_log_but_not_in_the_table_is_recorded_once(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        dispatching = ledger.start()
        ledger.check_in()
        ledger.await_all(endpoint, 1, "failed")
        dispatching.stop()
        # A crash between the log's append and the table's update would leave this row.
        query(ledger.conninfo, "UPDATE ledger.delivery SET status = 'pending', due_at = now()")
        ledger.start()
        (delivery,) = ledger.await_all(endpoint, 1, "failed")
        assert len(delivery.attempts) == 5 == len(receiver.requests)
        assert ledger.topics(endpoint).count("webhook.delivery_failed") == 1


def test_a_delivery_that_cannot_be_signed_is_a_failed_attempt(ledger: WebhookLedger) -> None:
    with Receiver() as receiver:
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.settings = ledger.settings.model_copy(update={"master_key": "1f" * 32})
        ledger.start()
        ledger.check_in()
        (delivery,) = ledger.await_all(endpoint, 1, "failed")
        assert {attempt["error"] for attempt in delivery.attempts} == {"it could not be sent"}
        assert ledger.topics(endpoint) == ["webhook.created", "webhook.delivery_failed"]
        assert receiver.requests == []


def test_a_failed_test_event_disables_no_endpoint_however_long_it_has_failed(conninfo: str) -> None:
    failing = Receiver(lambda _: Answer(500))
    with webhook_ledger(conninfo, retries="0") as ledger, failing as receiver:
        ledger.activate()
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        ledger.await_all(endpoint, 1, "failed")
        ledger.advance(days=6)
        ledger.test(endpoint)
        ledger.await_all(endpoint, 2, "failed")
        ledger.stop()  # the consequences of the attempt are recorded by then
        assert "webhook.disabled" not in ledger.topics(endpoint)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'lost', due_at = NULL", "delivery_status_known"),
        ("due_at = NULL", "delivery_pending_is_due"),
        ("status = 'failed'", "delivery_pending_is_due"),
        ("sequence = -1", "delivery_numbers_from_zero"),
        ("tried = -1", "delivery_numbers_from_zero"),
        ("round = -1", "delivery_numbers_from_zero"),
    ],
)
def test_the_table_of_deliveries_refuses_impossible_rows(
    conninfo: str, change: str, constraint: str
) -> None:
    query(
        conninfo,
        "INSERT INTO ledger.delivery (endpoint_id, position, sequence, due_at)"
        " VALUES ('WHK-26-000001', 1, 1, now())",
    )
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        query(conninfo, f"UPDATE ledger.delivery SET {change}")
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize("change", ["planned = -1", "heeded = -1"])
def test_the_table_of_dispatch_positions_refuses_negative_positions(
    conninfo: str, change: str
) -> None:
    query(conninfo, "INSERT INTO ledger.dispatch (endpoint_id) VALUES ('WHK-26-000001')")
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        query(conninfo, f"UPDATE ledger.dispatch SET {change}")
    assert caught.value.diag.constraint_name == "dispatch_positions_from_zero"


def test_deliveries_are_stored_no_longer_than_their_endpoint(ledger: WebhookLedger) -> None:
    def rows() -> dict[str, int]:
        return dict(
            query(ledger.conninfo, "SELECT endpoint_id, count(*) FROM ledger.delivery GROUP BY 1")
        )

    with Receiver() as receiver:
        ledger.start()
        first, second, third = (ledger.create(receiver.url, CHECK_INS)[0] for _ in range(3))
        ledger.check_in(3)
        for endpoint in (first, second, third):
            ledger.await_all(endpoint, 3)
        assert rows() == {first: 3, second: 3, third: 3}
        ledger.delete(first)
        until(
            lambda: rows() == {second: 3, third: 3}, "the running dispatcher to drop the deliveries"
        )
        ledger.stop()
        ledger.delete(second)
        ledger.start()
        until(lambda: rows() == {third: 3}, "the next dispatcher to drop the deliveries")
        assert len(receiver.requests) == 9


def test_deliveries_wait_for_the_view_of_events_while_it_is_built(
    ledger: WebhookLedger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "ledger.features.webhooks.delivery.dispatcher")
    with Receiver() as receiver:
        ledger.start()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.check_in()
        ledger.await_all(endpoint, 1)
        query(ledger.conninfo, "ALTER VIEW ledger.event RENAME TO event_away")
        ledger.check_in(2)
        until(lambda: "a view is not built yet" in caplog.text, "the dispatcher to wait")
        assert len(receiver.requests) == 1
        query(ledger.conninfo, "ALTER VIEW ledger.event_away RENAME TO event")
        ledger.await_all(endpoint, 3)
        assert received(receiver.requests) == model_of(ledger.conninfo).due_to(endpoint)
