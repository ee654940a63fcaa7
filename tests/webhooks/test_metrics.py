"""The metrics of webhooks: what became of deliveries, what waits, and which endpoints are off."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from prometheus_client import REGISTRY

from ledger.engine.http.gauges import DatabaseGauges
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.features.webhooks.gauges import GAUGES
from tests.support.reader import reading
from tests.support.receiver import Answer, Receiver
from tests.support.views import query, until
from tests.support.webhooks import QUICK, ShiftedClock, webhook_ledger

CHECK_INS = ["execution.checked_in"]
SLOW = "3600,3600,3600,3600"


def counts() -> dict[str, float]:
    """The deliveries so far, by outcome."""
    return {
        outcome: REGISTRY.get_sample_value(
            "ledger_webhook_deliveries_total", {"format": "standard", "outcome": outcome}
        )
        or 0.0
        for outcome in ("delivered", "retrying", "failed")
    }


def since(before: dict[str, float]) -> dict[str, float]:
    return {name: now - before[name] for name, now in counts().items() if now > before[name]}


def gauges(conninfo: str) -> dict[str, float]:
    """The gauges of webhooks, as a worker reads them."""

    async def read() -> dict[str, float]:
        pool = ReadPool(reading(conninfo))
        await pool.open()
        try:
            metrics = await DatabaseGauges(pool.fetch, Path("/nowhere"), [GAUGES]).read()
        finally:
            await pool.close()
        values = {m.name: m.samples[0].value for m in metrics if m.samples}
        return {name: values[name] for name in values if "webhook" in name or "endpoint" in name}

    return asyncio.run(read())


def has_metrics(backlog: int, disabled: int = 0) -> Callable[[dict[str, float]], bool]:
    return lambda found: (
        (found["ledger_webhook_backlog"], found["ledger_endpoints_disabled"]) == (backlog, disabled)
    )


def test_an_attempt_counts_by_what_became_of_its_delivery(conninfo: str) -> None:
    with webhook_ledger(conninfo, retries=QUICK) as ledger, Receiver() as receiver:
        ledger.activate()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.start()
        before = counts()
        ledger.check_in(3)
        ledger.await_all(endpoint, 3)
        assert since(before) == {"delivered": 3}
        before = counts()
        receiver.script = lambda _: Answer(500)
        ledger.check_in()
        ledger.await_deliveries(endpoint, lambda found: found[-1].status == "failed")
        ledger.stop()
        assert since(before) == {"retrying": 4, "failed": 1}
        ledger.start()
        before = counts()
        ledger.test(endpoint)
        ledger.await_deliveries(endpoint, lambda found: found[-1].sequence == 0)
        ledger.stop()
        assert since(before) == {}, "a test is no delivery"


def test_deliveries_wait_from_the_event_on_and_while_they_are_tried_again(conninfo: str) -> None:
    clock = ShiftedClock(seconds=-300)
    with webhook_ledger(conninfo, clock, retries=SLOW) as ledger, Receiver() as receiver:
        ledger.activate()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        assert has_metrics(0)(gauges(conninfo))
        ledger.check_in(3)
        ledger.await_deliveries(endpoint, lambda found: len(found) == 3)
        found = gauges(conninfo)
        assert has_metrics(3)(found), "no dispatcher has run yet"
        assert 300 <= found["ledger_webhook_oldest_seconds"] < 330
        receiver.script = lambda _: Answer(500)
        ledger.start()
        ledger.await_deliveries(endpoint, lambda found: all(d.tried == 1 for d in found))
        found = gauges(conninfo)
        assert has_metrics(3)(found)
        assert found["ledger_webhook_oldest_seconds"] == 0, "the next attempt is not due yet"
        receiver.script = lambda _: Answer(200)
        ledger.advance(hours=2)
        ledger.await_all(endpoint, 3)
        assert has_metrics(0)(gauges(conninfo))


def test_a_disabled_endpoint_is_counted_and_what_waits_for_it_is_not(conninfo: str) -> None:
    with webhook_ledger(conninfo, retries=SLOW) as ledger, Receiver() as receiver:
        receiver.script = lambda _: Answer(410)
        ledger.activate()
        endpoint, _ = ledger.create(receiver.url, CHECK_INS)
        ledger.start()
        ledger.check_in()
        ledger.await_deliveries(endpoint, lambda _: not ledger.item(endpoint)["enabled"])
        assert has_metrics(0, disabled=1)(gauges(conninfo))
        ledger.delete(endpoint)
        deleted = "SELECT 1 FROM ledger.webhook WHERE deleted"
        until(lambda: query(conninfo, deleted) == [(1,)], "the view")
        assert has_metrics(0)(gauges(conninfo))


def test_deliveries_of_several_endpoints_add_up(conninfo: str) -> None:
    with webhook_ledger(conninfo, retries=SLOW) as ledger, Receiver() as receiver:
        ledger.activate()
        endpoints = [ledger.create(receiver.url, CHECK_INS)[0] for _ in range(2)]
        ledger.check_in(2)
        for endpoint in endpoints:
            ledger.await_deliveries(endpoint, lambda found: len(found) == 2)
        assert has_metrics(4)(gauges(conninfo))
