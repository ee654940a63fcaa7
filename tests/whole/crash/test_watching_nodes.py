"""Two nodes watch lines while they are killed and frozen: each episode has exactly one alert."""

import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.app.settings import Settings
from ledger.features.watches.kinds import InState
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation, encode, fact
from tests.support.ledger import Ledger, new_id, working
from tests.support.log_checker import check
from tests.support.nodes import frozen, leaders, node_id, two_nodes
from tests.support.rebuilding import verify_all
from tests.support.served import Served
from tests.support.service import BATCH, Clock
from tests.support.views import until
from tests.support.watch_model import WatchModel
from tests.support.watch_model_lines import Episode

Nodes = tuple[Served, Served]

FOR_SECONDS = 2
IN_TIME = timedelta(seconds=25)
"""How long a due episode may have no alert: a frozen leader is replaced by then."""


@pytest.fixture
def nodes(conninfo: str, tmp_path: Path) -> Iterator[Nodes]:
    """Two nodes. The first leads all loops."""
    with two_nodes(conninfo, tmp_path, LEDGER_WATCH_SECONDS="1") as pair:
        yield pair


@pytest.fixture
def watched(nodes: Nodes, conninfo: str) -> Iterator[Ledger]:
    """The ledger of the nodes, with a watch that opens an alert for each blocked line."""
    clock = Clock(datetime.now(UTC))
    with working(conninfo, Settings(master_key=MASTER_KEY), clock) as ledger:
        ledger.watch(InState(("blocked",)), FOR_SECONDS, name="Blocked")
        yield ledger


def report(client: httpx.Client, *facts: dict[str, Any]) -> None:
    """Report facts; each must be recorded."""
    answer = client.post("/v1/facts", content=encode(facts), headers=BATCH)
    outcomes = [each["outcome"] for each in answer.json()["data"]]
    assert outcomes == ["recorded"] * len(facts), answer.text


def lines_of(client: httpx.Client, count: int) -> list[str]:
    lines = [new_id("LIN") for _ in range(count)]
    report(client, *(activation(line, "capacity") for line in lines))
    return lines


def blocked(line: str) -> dict[str, Any]:
    return fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"})


def unblocked(line: str) -> dict[str, Any]:
    return fact("execution.unblocked", line, {"blocker_id": "b"})


def alerts(ledger: Ledger, kind: str) -> list[dict[str, Any]]:
    """The stored events of alerts of a kind, in log order."""
    return [event for event in ledger.events() if event["topic"] == f"alert.{kind}/1"]


def episodes(ledger: Ledger) -> dict[int, Episode]:
    """The blocked episodes of all lines, by the position at which each began."""
    model = WatchModel()
    for event in ledger.events():
        if not event["originator_id"].startswith("ALR"):
            model.take(event)
    condition = {"kind": "in_state", "states": ["blocked"]}
    found = [each for line in model.lines.values() for each in line.episodes(condition)]
    return {each.key: each for each in found}


def faults(ledger: Ledger) -> list[str]:
    """The faults of the alerts, now that nothing moves any more."""
    blocked, found = episodes(ledger), list[str]()
    opened, resolved = dict[int, str](), dict[str, datetime]()
    for event in alerts(ledger, "opened"):
        began = int(event["state"]["body"]["began_by"])
        if began in opened:
            found.append(f"the episode of {began} has two alerts")
        opened[began] = event["originator_id"]
        due = datetime.fromisoformat(event["state"]["occurred_at"])
        if due != blocked[began].since + timedelta(seconds=FOR_SECONDS):
            found.append(f"the episode of {began} was due at another time")
    for event in alerts(ledger, "resolved"):
        if event["originator_id"] in resolved:
            found.append(f"{event['originator_id']} is resolved twice")
        resolved[event["originator_id"]] = datetime.fromisoformat(event["state"]["occurred_at"])
    for began, episode in blocked.items():
        due = episode.since + timedelta(seconds=FOR_SECONDS)
        if (episode.end is None or episode.end > due + IN_TIME) and began not in opened:
            found.append(f"the episode of {began} has no alert")
        if began in opened and resolved.get(opened[began]) != (
            episode.end and max(episode.end, due)
        ):
            found.append(f"the alert of {began} ended at another time")
    return found


def is_settled(ledger: Ledger) -> bool:
    """True if each episode that lasts has an alert, and no other alert is open."""
    lasting = {began for began, each in episodes(ledger).items() if each.end is None}
    ends = {event["originator_id"] for event in alerts(ledger, "resolved")}
    unresolved = [e for e in alerts(ledger, "opened") if e["originator_id"] not in ends]
    return {int(event["state"]["body"]["began_by"]) for event in unresolved} == lasting


def leader(nodes: Nodes, conninfo: str) -> Served:
    now = leaders(conninfo).get("watches")
    return next((node for node in nodes if node_id(node) == now), nodes[0])


def test_alerts_that_become_due_while_nothing_runs_open_once_and_the_longest_due_first(
    nodes: Nodes, watched: Ledger, conninfo: str
) -> None:
    first, second = nodes
    with second.client(second.token()) as client:
        lines = lines_of(client, 6)
        with frozen(second.loops(), first.process.pid):
            os.kill(first.loops(), signal.SIGKILL)
            # One request: each waits in vain for the views.
            report(client, *(blocked(line) for line in reversed(lines)))
            until(lambda: _all_are_due(watched), "the due times", 10.0)
            assert alerts(watched, "opened") == []
        until(lambda: is_settled(watched), "the alerts", 30.0)
        subjects = [e["state"]["service_line_id"] for e in alerts(watched, "opened")]
        assert subjects == [*reversed(lines)]
        report(client, unblocked(lines[0]))
        until(lambda: is_settled(watched), "the end of the alert", 15.0)
    assert faults(watched) == []


def _all_are_due(ledger: Ledger) -> bool:
    latest = max(each.since for each in episodes(ledger).values())
    return datetime.now(UTC) > latest + timedelta(seconds=FOR_SECONDS)


@pytest.mark.crash
def test_nodes_that_are_killed_and_frozen_open_one_alert_an_episode(
    nodes: Nodes, watched: Ledger, conninfo: str, pytestconfig: pytest.Config
) -> None:
    dice = random.Random(43)
    with nodes[1].client(nodes[1].token()) as client:
        lines = lines_of(client, 30)
        stuck = set[str]()

        def toggle() -> None:
            line = dice.choice(changing)
            report(client, unblocked(line) if line in stuck else blocked(line))
            stuck.symmetric_difference_update({line})

        for number in range(pytestconfig.getoption("--crash-rounds")):
            changing = dice.sample(lines, 10)  # the blockers of the others last
            node, until_then = leader(nodes, conninfo), time.monotonic() + dice.choice([1, 5, 14])
            if number % 2:
                os.kill(node.loops(), signal.SIGKILL)
                while time.monotonic() < until_then:
                    toggle()
            else:
                with frozen(node.loops()):
                    while time.monotonic() < until_then:
                        toggle()
        until(lambda: is_settled(watched), "the alerts", 60.0)
    assert len(alerts(watched, "opened")) > 20
    assert faults(watched) == []
    assert check(conninfo).findings == []
    assert verify_all(conninfo) == []
