"""One random workload told five ways: each event is in each exactly where it should be.

History, feed, stream, webhooks and audit log, of one organization beside another's lines.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.postgres.embedded import EmbeddedPostgres
from ledger.service.composition.dispatching import Dispatching
from ledger.settings import Settings
from tests.conftest import MASTER_KEY, Databases
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION
from tests.support.receiver import Receiver
from tests.support.service import ALL
from tests.support.stories import Life, history_of
from tests.support.streaming import Listener, feed_of, listening
from tests.support.views import until
from tests.support.webhooks import Ticking, body_of

OTHER = "ORG-26-000002"
BLOCKED = "execution.blocked"

Event = dict[str, Any]


class Told:
    """What was done, and what each way said of it."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """(action, outcome) of everything that was sent for the organization."""
        self.histories: list[Event] = []
        self.feed: list[Event] = []
        self.streamed: list[Event] = []
        self.pushed: dict[str, list[Event]] = {}
        """What came to an endpoint that wants all, and to one that wants blockers, by number."""
        self.audit: list[Event] = []


class CountedLife(Life):
    """A line's life that keeps account of what became of everything it sent."""

    outcomes: Counter[tuple[str, str]]

    def report(self, *events: Event) -> None:
        answer = self.edge.send_batch(*events, token=self.token)
        for event, item in zip(events, answer.json()["data"], strict=True):
            outcome = "refused" if item["outcome"] == "refused" else "succeeded"
            if item["outcome"] != "duplicate":
                self.outcomes[event["type"], outcome] += 1
            if item["outcome"] == "recorded":
                self.accepted.append(event | {"subject": item["subject"]})
                self._note(event["type"], item["subject"])


@pytest.fixture(scope="module")
def told(server: EmbeddedPostgres, databases: Databases) -> Iterator[Told]:
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, webhook_allow_private=True)
    conninfo = server.url.replace("/ledger?", f"/{databases.take()}?")
    with edge_of(settings, conninfo) as edge, listening(edge) as address:
        # The lines' clock is set and moved; receivers insist on the time of day.
        dispatching = Dispatching(settings, conninfo, Ticking())
        dispatching.start()
        with Receiver() as everything, Receiver() as blockers:
            try:
                yield play(Told(edge), address, everything, blockers)
            finally:
                dispatching.stop()


def endpoint(edge: Edge, url: str, *types: str) -> tuple[str, str]:
    answer = edge.post("/v1/webhooks", json={"url": url, "event_types": types})
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    return data["id"], data["secret"]


def play(told: Told, address: Any, everything: Receiver, blockers: Receiver) -> Told:
    edge = told.edge
    token = edge.token(*ALL)
    ids = [endpoint(edge, everything.url, "*"), endpoint(edge, blockers.url, BLOCKED)]
    told.outcomes["webhook.create", "succeeded"] += 2
    strange = edge.token("admin", organization_id=None)
    lives = []
    with Listener(address, token) as listener:
        assert listener.answer.status == 200
        for seed in range(5):
            tenant = {"organization_id": OTHER if seed == 4 else ORGANIZATION}
            life = CountedLife(edge, seed, strange if seed == 4 else token, **tenant)
            life.outcomes = Counter() if seed == 4 else told.outcomes
            life.outcomes["service_line.activated", "succeeded"] += 1
            lives.append(life)
        for _ in range(6):
            for life in lives:
                life.live(4)
        lives[0].close()
        manage(told, lives[1].line)
        told.feed = feed_of(edge, token)
        told.streamed = listener.until(told.feed[-1]["id"])
    for life in lives[:4]:
        told.histories += history_of(edge, life.line)
    for (identifier, secret), receiver in zip(ids, (everything, blockers), strict=True):
        told.pushed[identifier] = pushed(edge, identifier, secret, receiver)
    told.audit = audit_of(edge, token)
    return told


def manage(told: Told, line: str) -> None:
    """Commands, of which some must be refused."""
    for verb in ("pause", "pause", "resume", "resume"):
        answer = told.edge.post(f"/v1/execution/{line}/{verb}", json={"reason": "r"})
        outcome = "succeeded" if answer.status_code == 200 else "refused"
        told.outcomes[f"execution.{verb}", outcome] += 1
    answer = told.edge.post("/v1/execution/LIN-26-999999/pause", json={"reason": "r"})
    assert answer.status_code == 404
    told.outcomes["execution.pause", "refused"] += 1


def pushed(edge: Edge, identifier: str, secret: str, receiver: Receiver) -> list[Event]:
    latest = edge.data(f"/v1/webhooks/{identifier}")["status"]["sequence"]
    until(lambda: len(receiver.requests) >= latest, f"{latest} deliveries", 30)
    bodies = [body_of(request, secret) for request in receiver.requests]
    by_number = {body.pop("sequence"): body for body in bodies}
    assert sorted(by_number) == list(range(1, latest + 1))
    return [by_number[number] for number in sorted(by_number)]


def audit_of(edge: Edge, token: str) -> list[Event]:
    """Page by page, and once more as an export."""
    entries: list[Event] = []
    params: dict[str, Any] = {"organization_id": ORGANIZATION, "limit": 100}
    while True:
        page = edge.get("/v1/audit-logs", token, params=params).json()
        entries += page["data"]
        if not page["meta"]["has_more"]:
            break
        params["cursor"] = page["meta"]["cursor"]
    lines = edge.get(f"/v1/audit-logs/export?organization_id={ORGANIZATION}", token).text
    assert [json.loads(line) for line in lines.splitlines()] == entries
    return entries


def test_the_feed_is_the_histories_in_log_order_without_what_changed_nothing(told: Told) -> None:
    states = ("state_before", "state_after")
    lines = [
        {name: value for name, value in event.items() if name not in states}
        for event in sorted(told.histories, key=lambda event: int(event["position"]))
        if event["type"] != "health.signal_reported"
    ]
    assert told.feed == lines
    assert {event["organization_id"] for event in told.feed} == {ORGANIZATION}
    assert len(told.feed) > 200
    assert len({event["type"] for event in told.feed}) > 15


def test_the_stream_is_the_feed(told: Told) -> None:
    assert told.streamed == told.feed


def test_webhooks_push_the_feed_numbered_without_a_gap(told: Told) -> None:
    everything, blockers = told.pushed.values()
    assert everything == told.feed
    assert blockers == [event for event in told.feed if event["type"] == BLOCKED]
    assert len(blockers) > 3


def test_the_audit_log_has_one_entry_for_each_write(told: Told) -> None:
    kept = Counter((entry["action"], entry["outcome"]) for entry in told.audit)
    # Lives pause and resume by themselves too, and the edge hands out keys.
    for own in ("execution.pause", "execution.resume"):
        for outcome in ("succeeded", "refused"):
            assert kept.pop((own, outcome), 0) >= told.outcomes.pop((own, outcome), 0)
    assert kept.pop(("key.create", "succeeded")) >= 2
    assert kept == told.outcomes
    assert sum(count for (_, outcome), count in kept.items() if outcome == "refused") > 30


def test_what_was_recorded_is_audited_at_its_own_position_and_refusals_are_in_no_feed(
    told: Told,
) -> None:
    by_position = {event["position"]: event for event in told.histories}
    told_positions = {event["position"] for event in told.feed}
    for entry in told.audit:
        event = by_position.get(entry["position"])
        if entry["outcome"] == "refused":
            assert event is None
            assert entry["position"] not in told_positions
        elif event is not None:
            assert entry["resource"] == event["subject"]
            for name in ("occurred_at", "recorded_at", "actor", "reported_by"):
                assert entry[name] == event[name]
    # What nobody wrote is the ledger's own: idleness, waking, cancellation by a closing.
    unaudited = by_position.keys() - {entry["position"] for entry in told.audit}
    assert {by_position[at]["type"] for at in unaudited} <= {
        "execution.idle", "execution.active", "run.cancelled",
    }  # fmt: skip
