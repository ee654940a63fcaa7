"""Two nodes on one database: the process that leads the loops dies, or freezes and wakes again."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.facts import LINE, activation, fact
from tests.support.load import Load, recorded
from tests.support.log_checker import check
from tests.support.nodes import LOOPS, frozen, leaders, node_id, two_nodes
from tests.support.rebuilding import verify_all
from tests.support.receiver import Receiver
from tests.support.served import Served, post
from tests.support.views import head, query, until, view_positions
from tests.support.webhooks import received

Nodes = tuple[Served, Served]


@pytest.fixture
def nodes(conninfo: str, tmp_path: Path) -> Iterator[Nodes]:
    """Two nodes. The first leads all loops."""
    with two_nodes(conninfo, tmp_path, LEDGER_WEBHOOK_ALLOW_PRIVATE="true") as pair:
        yield pair


def record(client: httpx.Client, count: int = 1) -> None:
    """Report check-ins; each must be acknowledged."""
    for _ in range(count):
        answer = post(client, fact("execution.checked_in", LINE, {"hours": 1}))
        assert answer.status_code == 201, answer.text


def views_are_level(conninfo: str) -> bool:
    """True if all views have folded the whole log."""
    return {position for position, _ in view_positions(conninfo).values()} == {head(conninfo)}


def leader_of(conninfo: str, loop: str) -> str | None:
    return leaders(conninfo).get(loop)


def test_another_node_leads_when_the_leading_process_is_killed(nodes: Nodes, conninfo: str) -> None:
    first, second = nodes
    with second.client(second.token()) as client:
        assert post(client, activation(model="capacity")).status_code == 201
        # The supervisor would start the process again, and that one would be a rival too.
        with frozen(first.process.pid):
            os.kill(first.loops(), signal.SIGKILL)
            until(lambda: leader_of(conninfo, "projector") == node_id(second), "a leader", 30.0)
            record(client, 3)
            until(lambda: views_are_level(conninfo), "the views", 30.0)
            own = ("projector", "sweeper", "leases", "housekeeper", "watches")
            until(lambda: led_by(conninfo, own) == {node_id(second)}, "the other loops", 30.0)
        assert leader_of(conninfo, "dispatcher") == node_id(first), "another process leads it"


def led_by(conninfo: str, loops: tuple[str, ...]) -> set[str | None]:
    """The nodes that lead these loops."""
    now = leaders(conninfo)
    return {now.get(loop) for loop in loops}


@pytest.mark.crash
def test_another_node_leads_within_15_s_when_the_leading_process_freezes_and_it_wakes_as_a_rival(
    nodes: Nodes, conninfo: str
) -> None:
    first, second = nodes
    with second.client(second.token()) as client:
        assert post(client, activation(model="capacity")).status_code == 201
        until(lambda: views_are_level(conninfo), "the views")
        with frozen(first.loops()):
            began = time.monotonic()
            while leader_of(conninfo, "projector") != node_id(second):
                record(client)
                assert time.monotonic() - began < 15.0
            until(lambda: views_are_level(conninfo), "the views")
        until(lambda: "lost the database" in first.output, "the end of the old session")
        record(client, 20)
        until(lambda: views_are_level(conninfo), "the views")
        assert leader_of(conninfo, "projector") == node_id(second)
        assert leader_of(conninfo, "sealer") == node_id(first), "the other processes live"
    assert check(conninfo).findings == []
    assert verify_all(conninfo) == []


@pytest.mark.crash
def test_a_long_statement_of_the_leader_does_not_look_frozen(nodes: Nodes, conninfo: str) -> None:
    first, second = nodes
    until(lambda: leader_of(conninfo, "projector") == node_id(first), "the leader")
    before = query(conninfo, "SELECT pid, led_since FROM ledger.leader ORDER BY loop")
    began = time.monotonic()
    # The projector waits for the row of a view, as it does while a rebuild is swapped in.
    hold = "SELECT pg_sleep(9) FROM ledger.projection WHERE name = 'run' FOR UPDATE"
    with second.client(second.token()) as client:
        assert post(client, activation(model="capacity")).status_code == 201
    assert query(conninfo, hold)
    assert time.monotonic() - began > 9
    assert query(conninfo, "SELECT pid, led_since FROM ledger.leader ORDER BY loop") == before


@pytest.mark.crash
def test_a_dispatcher_that_was_frozen_sends_nothing_that_another_node_has_sent(
    nodes: Nodes, conninfo: str
) -> None:
    first, second = nodes
    token = second.token("webhooks:manage")
    with Receiver() as receiver, second.client(token) as client:
        assert post(client, activation(model="capacity")).status_code == 201
        body = {"url": receiver.url, "event_types": ["execution.checked_in"]}
        assert client.post("/v1/webhooks", json=body).status_code == 201
        record(client)
        receiver.await_count(1)
        # A request that is under way when its process freezes may arrive twice.
        pending = "SELECT 1 FROM ledger.delivery WHERE status <> 'delivered'"
        until(lambda: not query(conninfo, pending), "the first result")
        with frozen(first.dispatcher()):
            record(client, 5)
            receiver.await_count(6, 15)
            assert leader_of(conninfo, "dispatcher") == node_id(second)
        until(lambda: "cannot dispatch webhooks" in first.output, "the lead to be lost")
        record(client, 5)
        receiver.await_count(11)
        until(lambda: not query(conninfo, pending), "the results")
        assert len(receiver.requests) == 11
        assert len(received(receiver.requests)) == 11


@pytest.mark.crash
def test_a_node_that_freezes_under_load_loses_and_doubles_nothing_and_holds_up_nobody_for_long(
    nodes: Nodes, conninfo: str
) -> None:
    first, second = nodes
    token = second.token()
    with second.client(token) as client:
        assert post(client, activation(model="capacity")).status_code == 201
    # The node that freezes takes facts too, so it may hold the append lock at that moment.
    other_load = Load(first, token, 2, reads=False, name="beside")
    with Load(second, token, 4, reads=False) as load:
        with other_load:
            other_load.await_more(40)
            with frozen(*first.processes(), first.process.pid):
                began = time.monotonic()
                until(lambda: led_by(conninfo, tuple(LOOPS)) == {node_id(second)}, "a leader", 15)
                until(lambda: views_move(conninfo), "the views", 15)
                load.await_more(40)
                assert time.monotonic() - began < 20
        until(lambda: httpx.get(f"{first.address}/readyz").status_code == 200, "the node", 30)
        load.await_more(40)
        assert led_by(conninfo, tuple(LOOPS)) == {node_id(second)}, "it wakes as a rival"
    assert set(load.statuses) <= {201, 503}
    assert (load.timed_out, load.outages) == (0, 0), "a living node answers within 10 s"
    for one in (load, other_load):
        acknowledged = len(one.acknowledged)
        assert one.send_again()["duplicate"] >= acknowledged
    names = sorted(recorded(conninfo))
    assert names == sorted({*load.acknowledged, *other_load.acknowledged})
    assert check(conninfo).findings == []
    assert verify_all(conninfo) == []


def views_move(conninfo: str) -> bool:
    """True if the views have reached what was the log's end a moment ago."""
    end = head(conninfo)
    until(lambda: min(p for p, _ in view_positions(conninfo).values()) >= end, "the views", 5.0)
    return True
