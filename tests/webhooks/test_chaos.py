"""A consumer behind a receiver that loses, delays, doubles or fails most requests.

After recovery the consumer has exactly the feed's events, and their numbers prove it (contract,
Feeds).
"""

import json
import random
import threading
from collections import Counter
from typing import Any

from ledger.app.composition.loops import Dispatching
from ledger.app.settings import Settings
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.receiver import Answer, Receiver, Request
from tests.support.views import until
from tests.support.webhooks import ShiftedClock, body_of

TYPES = ["execution.checked_in", "health.changed", "execution.updated"]


class Chaos:
    """A receiver's script: nine in ten requests go wrong, and three of those miss the consumer."""

    def __init__(self, secret: str) -> None:
        self._secret, self._dice = secret, random.Random(11)
        self._lock = threading.Lock()
        self.calm = False
        self.suffered: Counter[str] = Counter()
        self.sent: dict[int, dict[str, Any]] = {}
        """The events that the consumer has, by sequence number."""
        self.repeated = 0

    def __call__(self, request: Request) -> Answer:
        with self._lock:
            fates = ["lost", "unanswered", "late", "doubled", "failed", "unheard"]
            fate = self._dice.choice(fates) if self._dice.random() < 0.9 else "fine"
            self.suffered[fate] += 1
            if fate not in ("lost", "failed"):
                self.consume(request)
            if fate == "doubled":
                self.consume(request)
        return {
            "lost": Answer(action="drop"),
            "unanswered": Answer(action="drop"),
            "late": Answer(delay_seconds=0.2),
            "failed": Answer(500),
            "unheard": Answer(500),
        }.get(fate, Answer())

    def consume(self, request: Request) -> None:
        """Do a consumer's work: verify, drop a repeated event, keep a new one by its number."""
        body = body_of(request, self._secret)
        number = body.pop("sequence")
        if number in self.sent:
            self.repeated += 1
            assert self.sent[number] == body
        self.sent[number] = body

    def gaps(self, latest: int) -> set[int]:
        """The numbers that the consumer lacks."""
        with self._lock:
            return set(range(1, latest + 1)) - self.sent.keys()


def feed(edge: Edge) -> list[dict[str, Any]]:
    """All events of the types, page by page as a client polls them."""
    events: list[dict[str, Any]] = []
    path = f"/v1/events?limit=100&type={','.join(TYPES)}"
    more, cursor = True, ""
    while more:
        page = edge.get(path + cursor).json()
        events += page["data"]
        cursor, more = f"&cursor={page['meta']['cursor']}", page["meta"]["has_more"]
    return events


def work(edge: Edge, line: str, dice: random.Random, count: int) -> None:
    """Report ``count`` facts of a line; some of them publish no event."""
    facts = []
    for _ in range(count):
        status = dice.choice(["green", "red"])
        facts.append(
            dice.choice(
                [
                    fact("execution.checked_in", line, {"hours": 1}),
                    fact("health.signal_reported", line, {"signal": "sla_compliance",
                                                          "status": status}),
                    fact("service_line.updated", line, {"project_tags": [status]}),
                    fact("execution.blocked", line, {"blocker_id": str(dice.random()),
                                                     "cause": "approval_gap"}),
                ]
            )
        )  # fmt: skip
    edge.accept(*facts)


def test_after_recovery_a_consumer_has_exactly_the_feeds_events(conninfo: str) -> None:
    settings = Settings(
        master_key=MASTER_KEY,
        idle_sweep_seconds=3600,
        webhook_allow_private=True,
        webhook_retry_seconds="0.02",
    )
    clock, dice = ShiftedClock(), random.Random(5)
    with edge_of(settings, conninfo, clock) as edge, Receiver() as receiver:
        line = edge.fresh("capacity")
        created = edge.post("/v1/webhooks", json={"url": receiver.url, "event_types": TYPES})
        endpoint = created.json()["data"]
        path = f"/v1/webhooks/{endpoint['id']}"
        chaos = Chaos(endpoint["secret"])
        receiver.script = chaos
        dispatching = Dispatching(settings, conninfo, clock)
        dispatching.start()
        try:
            for _ in range(6):
                work(edge, line, dice, 50)
            latest = edge.data(path)["status"]["sequence"]
            await_settled(edge, path)
            assert chaos.gaps(latest), "nothing was lost: there is nothing to recover"
            since = json.dumps({"since": "2026-01-01T00:00:00Z"})
            headers = {"content-type": "application/json"}
            while chaos.gaps(latest) or edge.data(path + "/deliveries?status=failed"):
                answer = edge.post(path + "/recover", content=since, headers=headers)
                assert answer.status_code == 202, answer.text
                await_settled(edge, path)
        finally:
            dispatching.stop()
        expected = feed(edge)
        assert len(expected) == latest > 150
        assert [chaos.sent[number] for number in sorted(chaos.sent)] == expected
        assert sorted(chaos.sent) == list(range(1, latest + 1))
        assert min(chaos.suffered.values()) > 5
        assert chaos.repeated > 0
        assert {d["status"] for d in edge.data(path + "/deliveries?limit=100")} == {"delivered"}


def await_settled(edge: Edge, path: str) -> None:
    """Wait until no delivery is pending or retrying, and the latest recovery was heeded."""
    applied = """SELECT count(*) FROM ledger.webhook JOIN ledger.dispatch USING (endpoint_id)
        WHERE requested > heeded"""

    def quiet() -> bool:
        # First the recovery: deliveries wait again once it is heeded.
        return edge.select(applied) == [(0,)] and not any(
            edge.data(f"{path}/deliveries?status={status}") for status in ("pending", "retrying")
        )

    until(quiet, "the deliveries", 30)
