"""A dispatcher whose node has a wrong clock: it can send, but not record what becomes of that."""

import threading
import time

import pytest

from ledger.app.composition.loops import Dispatching
from ledger.features.webhooks.delivery import lead
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import query, until
from tests.support.webhooks import WebhookLedger, received

CHECK_INS = ["execution.checked_in"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lead need not be kept for a minute before it is left."""
    monkeypatch.setattr(lead, "_STORED_SECONDS", 0.0)


def set_ahead(dispatching: Dispatching, seconds: float) -> None:
    """Set the clock of the dispatcher's writer ahead of the database's."""
    dispatching._writer._log.wall = lambda: time.time() + seconds


def led_since(ledger: WebhookLedger) -> object:
    """When the present dispatcher took the lead."""
    statement = "SELECT led_since FROM ledger.leader WHERE loop = 'dispatcher'"
    return query(ledger.conninfo, statement)[0][0]


def start_ahead(ledger: WebhookLedger) -> Dispatching:
    """Start a dispatcher an hour ahead; it leads if no other does."""
    dispatching = ledger.start()
    set_ahead(dispatching, 3600)
    leads = "SELECT 1 FROM ledger.leader WHERE loop = 'dispatcher'"
    until(lambda: query(ledger.conninfo, leads), "the lead")
    return dispatching


def paths(receiver: Receiver) -> list[str]:
    return sorted(request.path for request in receiver.requests)


@pytest.mark.usefixtures("hasty")
def test_the_lead_is_left_to_a_node_with_a_right_clock_and_no_request_is_lost_or_doubled(
    ledger: WebhookLedger,
) -> None:
    go_on = threading.Event()

    def answer(request: Request) -> Answer:
        if request.path == "/dead":
            return Answer(500)
        if request.path == "/slow":
            go_on.wait(10)
        return Answer()

    with Receiver() as slow, Receiver(answer) as receiver:
        start_ahead(ledger)
        slow.script = answer
        held, _ = ledger.create(f"{slow.url}/slow", CHECK_INS)
        dead, _ = ledger.create(f"{receiver.url}/dead", CHECK_INS)
        ledger.check_in()
        slow.await_count(1)
        receiver.await_count(5)
        since = led_since(ledger)
        ledger.start()
        go_on.set()
        ledger.await_all(dead, 1, "failed")
        ledger.await_all(held, 1)
        assert led_since(ledger) != since
        ledger.check_in()
        ledger.await_all(held, 2)
        ledger.await_all(dead, 2, "failed")
        assert ledger.topics(dead) == ["webhook.created"] + ["webhook.delivery_failed"] * 2
        assert paths(receiver) == ["/dead"] * 10
        assert [received(slow.requests).keys(), len(slow.requests)] == [{1, 2}, 2]


@pytest.mark.usefixtures("hasty")
def test_an_endpoint_is_disabled_by_the_next_leader(ledger: WebhookLedger) -> None:
    with Receiver(lambda _: Answer(410)) as receiver:
        start_ahead(ledger)
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.start()
        ledger.check_in()
        until(lambda: ledger.item(endpoint)["disabled_reason"] == "gone", "the end")
        assert ledger.topics(endpoint) == ["webhook.created", "webhook.disabled"]
        (delivery,) = ledger.deliveries(endpoint)
        assert (delivery.status, delivery.tried) == ("pending", 0)


def test_a_single_node_goes_on_sending_and_records_once_its_clock_is_right(
    ledger: WebhookLedger,
) -> None:
    with Receiver(lambda r: Answer(500 if r.path == "/dead" else 200)) as receiver:
        dispatching = start_ahead(ledger)
        since = led_since(ledger)
        dead, _ = ledger.create(f"{receiver.url}/dead", CHECK_INS)
        good, _ = ledger.create(f"{receiver.url}/good", CHECK_INS)
        ledger.check_in()
        receiver.await_count(6)
        ledger.check_in(20)
        ledger.await_all(good, 21)
        assert led_since(ledger) == since
        assert ledger.topics(dead) == ["webhook.created"]
        set_ahead(dispatching, 0)
        ledger.await_all(dead, 21, "failed")
        assert ledger.topics(dead).count("webhook.delivery_failed") == 21
        assert paths(receiver) == ["/dead"] * 105 + ["/good"] * 21


@pytest.mark.usefixtures("hasty")
def test_a_lead_that_no_other_node_takes_is_taken_back(ledger: WebhookLedger) -> None:
    with Receiver(lambda r: Answer(500 if r.path == "/dead" else 200)) as receiver:
        start_ahead(ledger)
        since = led_since(ledger)
        ledger.create(f"{receiver.url}/dead", CHECK_INS)
        good, _ = ledger.create(f"{receiver.url}/good", CHECK_INS)
        ledger.check_in()
        ledger.await_all(good, 1)
        until(lambda: led_since(ledger) != since, "the lead to be taken back")
        ledger.check_in()
        ledger.await_all(good, 2)
        assert paths(receiver).count("/good") == 2
