"""The dispatcher under trouble: endpoints that hang, connections that break, a lead that moves."""

import random
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.model import model_of
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import query, until
from tests.support.webhooks import Post, body_of, posting, received

CHECK_INS = ["execution.checked_in"]

_OURS = "application_name = 'ledger dispatcher' AND datname = current_database()"
_LEADERS = f"""
SELECT l.pid FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.{_OURS.replace("AND ", "AND a.")}
"""


@pytest.fixture
def post(conninfo: str) -> Iterator[Post]:
    with posting(conninfo) as post:
        post.activate()
        yield post


def leaders(post: Post) -> list[int]:
    """The backends that hold the dispatchers' advisory lock."""
    return [row[0] for row in query(post.conninfo, _LEADERS)]


def test_a_dead_and_a_slow_endpoint_delay_no_other_endpoint(post: Post) -> None:
    """A delivery that waited behind theirs would miss the deadline on any machine."""
    deadline = 60.0

    def answer(request: Request) -> Answer:
        if request.path == "/dead":
            return Answer(action="hang")
        return Answer(delay_seconds=deadline / 10 if request.path == "/slow" else 0)

    with Receiver(answer) as receiver:
        post.start(deadline)
        made = {
            name: post.create(f"{receiver.url}/{name}", CHECK_INS)[0]
            for name in ("dead", "slow", "good")
        }
        refused, _ = post.create("http://127.0.0.1:9/", CHECK_INS)
        post.check_in(300)
        receiver.await_count(300, deadline * 0.9, "/good")
        slow = [d for d in post.deliveries(made["slow"]) if d.status == "delivered"]
        assert len(slow) < 200, "the good endpoint did not wait for the slow one"
        assert len([r for r in receiver.requests if r.path == "/dead"]) == 16
        until(lambda: post.dispatch(refused)[2] is not None, "the failure's record", deadline)
        post.await_all(made["good"], 300, seconds=deadline)


def test_a_failing_endpoint_has_at_most_four_requests_in_flight(conninfo: str) -> None:
    def answer(request: Request) -> Answer:
        if body_of(request)["sequence"] == 1:
            return Answer(500)
        return Answer(action="hang")

    with posting(conninfo, retries="3600") as post, Receiver(answer) as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        until(lambda: post.dispatch(endpoint) and post.dispatch(endpoint)[2], "the failure")
        post.check_in(30)
        receiver.await_count(5)
        until(lambda: len(post.deliveries(endpoint)) == 31, "the others")
        begun = [d for d in post.deliveries(endpoint) if d.tried is not None]
        assert len(begun) == 1 + 4


def test_one_dispatcher_leads_and_another_takes_over_when_it_stops(post: Post) -> None:
    with Receiver() as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        first, second = post.start(), post.start()
        until(lambda: leaders(post), "a leader")
        post.check_in(50)
        post.await_all(endpoint, 50)
        assert len(leaders(post)) == 1
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}"
        until(lambda: query(post.conninfo, count)[0][0] == 3, "the connections of both dispatchers")
        first.stop()
        post.check_in(50)
        post.await_all(endpoint, 100)
        assert len(leaders(post)) == 1
        assert len(receiver.requests) == 100, "a leader that stops cleanly repeats no request"
        second.stop()
        assert leaders(post) == []


def test_requests_in_flight_are_finished_and_recorded_when_the_dispatcher_stops(post: Post) -> None:
    with Receiver(lambda _: Answer(delay_seconds=0.4)) as receiver:
        dispatching = post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in(20)
        receiver.await_count(16)
        dispatching.stop()
        statuses = [d.status for d in post.deliveries(endpoint)]
        assert statuses == ["delivered"] * 16 + ["pending"] * 4
        post.start()
        post.await_all(endpoint, 20)
        assert len(receiver.requests) == 20


def test_a_hanging_request_ends_at_its_deadline_when_the_dispatcher_stops(post: Post) -> None:
    with Receiver(lambda _: Answer(action="hang")) as receiver:
        dispatching = post.start(deadline=0.3)
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        receiver.await_count(1)
        dispatching.stop()
        (delivery,) = post.deliveries(endpoint)
        assert delivery.attempts[0]["error"] == "timed out"


def test_every_number_arrives_though_the_dispatchers_connections_are_killed_repeatedly(
    post: Post,
) -> None:
    dice = random.Random(7)
    with Receiver(lambda _: Answer(500 if dice.random() < 0.2 else 200)) as receiver:
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        for number in range(1, 5):
            post.check_in(60)
            receiver.await_count(60 * number - 30)
            killed = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}"
            query(post.conninfo, killed)
        post.await_deliveries(
            endpoint,
            lambda found: len(found) == 240 and all(d.status != "pending" for d in found),
            30,
        )
        expected = model_of(post.conninfo).due_to(endpoint)
        assert received(receiver.requests) == expected
        assert len(expected) == 240


def test_every_number_arrives_though_the_dispatcher_is_stopped_in_the_middle(post: Post) -> None:
    with Receiver() as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        for number in range(1, 6):
            post.check_in(80)
            dispatching = post.start()
            receiver.await_count(80 * number - 40)
            dispatching.stop()
        post.start()
        post.await_all(endpoint, 400)
        assert received(receiver.requests) == model_of(post.conninfo).due_to(endpoint)
        assert len(receiver.requests) == 400


def test_a_failure_recorded_in_the_log_but_not_in_the_table_is_recorded_once(
    post: Post,
) -> None:
    with Receiver(lambda _: Answer(500)) as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        dispatching = post.start()
        post.check_in()
        post.await_all(endpoint, 1, "failed")
        dispatching.stop()
        # A crash between the log's append and the table's update would leave this row.
        query(post.conninfo, "UPDATE ledger.delivery SET status = 'pending', due_at = now()")
        post.start()
        (delivery,) = post.await_all(endpoint, 1, "failed")
        assert len(delivery.attempts) == 5 == len(receiver.requests)
        assert post.topics(endpoint).count("webhook.delivery_failed") == 1


def test_a_delivery_that_cannot_be_signed_is_a_failed_attempt(post: Post) -> None:
    with Receiver() as receiver:
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.settings = post.settings.model_copy(update={"master_key": "1f" * 32})
        post.start()
        post.check_in()
        (delivery,) = post.await_all(endpoint, 1, "failed")
        assert {attempt["error"] for attempt in delivery.attempts} == {"it could not be sent"}
        assert post.topics(endpoint) == ["webhook.created", "webhook.delivery_failed"]
        assert receiver.requests == []


def test_a_failed_test_event_disables_no_endpoint_however_long_it_has_failed(conninfo: str) -> None:
    failing = Receiver(lambda _: Answer(500))
    with posting(conninfo, retries="0") as post, failing as receiver:
        post.activate()
        post.start()
        endpoint, _ = post.create(receiver.url, CHECK_INS)
        post.check_in()
        post.await_all(endpoint, 1, "failed")
        post.advance(days=6)
        post.test(endpoint)
        post.await_all(endpoint, 2, "failed")
        post.stop()  # the consequences of the attempt are recorded by then
        assert "webhook.disabled" not in post.topics(endpoint)


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


def test_deliveries_are_kept_no_longer_than_their_endpoint(post: Post) -> None:
    def kept() -> dict[str, int]:
        return dict(
            query(post.conninfo, "SELECT endpoint_id, count(*) FROM ledger.delivery GROUP BY 1")
        )

    with Receiver() as receiver:
        post.start()
        first, second, third = (post.create(receiver.url, CHECK_INS)[0] for _ in range(3))
        post.check_in(3)
        for endpoint in (first, second, third):
            post.await_all(endpoint, 3)
        assert kept() == {first: 3, second: 3, third: 3}
        post.delete(first)
        until(
            lambda: kept() == {second: 3, third: 3}, "the running dispatcher to drop the deliveries"
        )
        post.stop()
        post.delete(second)
        post.start()
        until(lambda: kept() == {third: 3}, "the next dispatcher to drop the deliveries")
        assert len(receiver.requests) == 9
