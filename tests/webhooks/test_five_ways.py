"""A random workload, read five ways: each way shows each event exactly where it should be.

The five ways are the histories, the feed, the stream, the webhooks and the audit log of one
organization, beside a line of another organization.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.app.composition.loops import Dispatching
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.conftest import Databases
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION
from tests.support.random_life import Life, history_of
from tests.support.receiver import Receiver
from tests.support.service import ALL
from tests.support.streaming import Listener, feed_of, listening
from tests.support.views import until
from tests.support.webhooks import ShiftedClock, body_of

OTHER = "ORG-26-000002"
BLOCKED = "execution.blocked"

Event = dict[str, Any]


class Observed:
    """The outcomes of the workload's writes, and the events that each way showed."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """(action, outcome) of everything that was sent for the organization."""
        self.histories: list[Event] = []
        self.feed: list[Event] = []
        self.streamed: list[Event] = []
        self.pushed: dict[str, list[Event]] = {}
        """The events that each of two endpoints received, by number: of all types, and blockers."""
        self.audit: list[Event] = []


class CountedLife(Life):
    """A line's life that counts the outcomes of everything that it sends."""

    outcomes: Counter[tuple[str, str]]

    def report(self, *events: Event) -> None:
        answer = self.edge.send_batch(*events, token=self.token)
        for event, item in zip(events, answer.json()["data"], strict=True):
            outcome = "refused" if item["outcome"] == "refused" else "succeeded"
            if item["outcome"] != "duplicate":
                self.outcomes[event["type"], outcome] += 1
            if item["outcome"] == "recorded":
                self.accepted.append(event | {"subject": item["subject"]})
                self._note(event, item["subject"])


@pytest.fixture(scope="module")
def observed(server: EmbeddedPostgres, databases: Databases) -> Iterator[Observed]:
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, webhook_allow_private=True)
    conninfo = server.url.replace("/ledger?", f"/{databases.take()}?")
    with edge_of(settings, conninfo) as edge, listening(edge) as address:
        # The test moves the lines' clock; receivers accept only signatures of the present time.
        dispatching = Dispatching(settings, conninfo, ShiftedClock())
        dispatching.start()
        with Receiver() as everything, Receiver() as blockers:
            try:
                yield play(Observed(edge), address, everything, blockers)
            finally:
                dispatching.stop()


def endpoint(edge: Edge, url: str, *types: str) -> tuple[str, str]:
    answer = edge.post("/v1/webhooks", json={"url": url, "event_types": types})
    assert answer.status_code == 201, answer.text
    data = answer.json()["data"]
    return data["id"], data["secret"]


def play(observed: Observed, address: Any, everything: Receiver, blockers: Receiver) -> Observed:
    edge = observed.edge
    token = edge.token(*ALL)
    ids = [endpoint(edge, everything.url, "*"), endpoint(edge, blockers.url, BLOCKED)]
    observed.outcomes["webhook.create", "succeeded"] += 2
    admin = edge.token("admin", organization_id=None)
    lives = []
    with Listener(address, token) as listener:
        assert listener.answer.status == 200
        for seed in range(5):
            tenant = {"organization_id": OTHER if seed == 4 else ORGANIZATION}
            life = CountedLife(edge, seed, admin if seed == 4 else token, **tenant)
            life.outcomes = Counter() if seed == 4 else observed.outcomes
            life.outcomes["service_line.activated", "succeeded"] += 1
            lives.append(life)
        for _ in range(4):
            for life in lives:
                life.live(4)
        lives[0].close()
        manage(observed, lives[1].line)
        observed.feed = feed_of(edge, token)
        exported = edge.get("/v1/events/export", token).text
        assert [json.loads(line) for line in exported.splitlines()] == observed.feed
        observed.streamed = listener.until(observed.feed[-1]["id"])
    for life in lives[:4]:
        observed.histories += history_of(edge, life.line)
    for (identifier, secret), receiver in zip(ids, (everything, blockers), strict=True):
        observed.pushed[identifier] = pushed(edge, identifier, secret, receiver)
    observed.audit = audit_of(edge, token)
    return observed


def manage(observed: Observed, line: str) -> None:
    """Send commands; some of them must be refused."""
    for verb in ("pause", "pause", "resume", "resume"):
        answer = observed.edge.post(f"/v1/execution/{line}/{verb}", json={"reason": "r"})
        outcome = "succeeded" if answer.status_code == 200 else "refused"
        observed.outcomes[f"execution.{verb}", outcome] += 1
    answer = observed.edge.post("/v1/execution/LIN-26-999999/pause", json={"reason": "r"})
    assert answer.status_code == 404
    observed.outcomes["execution.pause", "refused"] += 1


def pushed(edge: Edge, identifier: str, secret: str, receiver: Receiver) -> list[Event]:
    latest = edge.data(f"/v1/webhooks/{identifier}")["status"]["sequence"]
    until(lambda: len(receiver.requests) >= latest, f"{latest} deliveries", 30)
    bodies = [body_of(request, secret) for request in receiver.requests]
    by_number = {body.pop("sequence"): body for body in bodies}
    assert sorted(by_number) == list(range(1, latest + 1))
    return [by_number[number] for number in sorted(by_number)]


def audit_of(edge: Edge, token: str) -> list[Event]:
    """The audit log, read page by page; its export must be the same."""
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


def test_the_feed_is_all_histories_in_log_order_without_health_signals(observed: Observed) -> None:
    states = ("state_before", "state_after")
    lines = [
        {name: value for name, value in event.items() if name not in states}
        for event in sorted(observed.histories, key=lambda event: int(event["position"]))
        if event["type"] != "health.signal_reported"
    ]
    assert observed.feed == lines
    assert {event["organization_id"] for event in observed.feed} == {ORGANIZATION}
    assert len(observed.feed) > 150
    assert len({event["type"] for event in observed.feed}) > 15


def test_the_stream_equals_the_feed(observed: Observed) -> None:
    assert observed.streamed == observed.feed


def test_webhooks_push_the_feed_numbered_without_a_gap(observed: Observed) -> None:
    everything, blockers = observed.pushed.values()
    assert everything == observed.feed
    assert blockers == [event for event in observed.feed if event["type"] == BLOCKED]
    assert len(blockers) > 3


def test_the_audit_log_has_one_entry_for_each_write(observed: Observed) -> None:
    counts = Counter((entry["action"], entry["outcome"]) for entry in observed.audit)
    # Lives pause and resume by themselves too, and the edge hands out keys.
    for own in ("execution.pause", "execution.resume"):
        for outcome in ("succeeded", "refused"):
            assert counts.pop((own, outcome), 0) >= observed.outcomes.pop((own, outcome), 0)
    assert counts.pop(("key.create", "succeeded")) >= 2
    assert counts == observed.outcomes
    assert sum(count for (_, outcome), count in counts.items() if outcome == "refused") > 30


def test_recorded_writes_are_audited_at_their_positions_and_refusals_are_in_no_feed(
    observed: Observed,
) -> None:
    by_position = {event["position"]: event for event in observed.histories}
    feed_positions = {event["position"] for event in observed.feed}
    written = refused = 0
    for entry in observed.audit:
        event = by_position.get(entry["position"])
        if entry["outcome"] == "refused":
            refused += 1
            assert event is None
            assert entry["position"] not in feed_positions
        elif event is not None:
            written += 1
            assert entry["resource"] == event["subject"]
            for name in ("occurred_at", "recorded_at", "actor", "reported_by", "fact"):
                assert entry[name] == event[name]
    assert min(written, refused) > 30
    # Events without a write are the ledger's own: idleness, waking, a parent by its name, and
    # cancellation by a closing.
    unaudited = by_position.keys() - {entry["position"] for entry in observed.audit}
    assert {by_position[at]["type"] for at in unaudited} <= {
        "execution.idle", "execution.active", "run.cancelled", "run.parent_given",
    }  # fmt: skip
