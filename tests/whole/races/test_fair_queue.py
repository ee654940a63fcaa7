"""Organizations rotate in the writers of a node (contract, Access, "Shares")."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.app.cli import load
from ledger.engine.log.event_log import Log
from ledger.engine.log.vault import Vault
from ledger.engine.reads.positions import ViewFollower
from ledger.engine.values.errors import NotFound, RateLimited
from ledger.engine.values.principal import COMMAND_LINE, Principal
from ledger.engine.writer import fair_queue
from ledger.engine.writer.command import Command, OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from tests.support.facts import LINE, activation, fact
from tests.support.log_checker import check
from tests.support.racing_writers import now, parsed, principal
from tests.support.views import until

FLOOD = principal("flood")
OTHER = Principal("other", "api_key", frozenset({"read", "write"}), organization_id="ORG-26-000002")
OTHER_LINE = "LIN-26-200001"
BEGUN = 2
"""The position when both lines are activated."""


class Calls(OwnCommand):
    """A command that calls a function while it is decided, and changes nothing."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(FLOOD)
        self._call = call

    def decide(self, group: Group) -> Receipt:
        self._call()
        return Receipt(LINE, (), 0)


class Node:
    """The writers of a node on one database, each with a line of both organizations to write on."""

    def __init__(self, conninfo: str, stack: ExitStack) -> None:
        self._conninfo, self._stack = conninfo, stack
        begin = self.writer()
        self.start(begin)
        activations = (
            (FLOOD, activation()),
            (OTHER, activation(OTHER_LINE, organization_id="ORG-26-000002")),
        )
        for by, event in activations:
            assert isinstance(begin.execute(command_of(parsed(event), by)), Receipt)

    def writer(self, *, is_apart: bool = False) -> Writer:
        """A writer that is not started: the node's, or an import's."""
        log, vault = Log(self._conninfo), Vault(bytes(32))
        self._stack.callback(log.close)
        hour = timedelta(hours=1)
        return Writer(log, vault, now, lambda _: hour, is_apart=is_apart)

    def start(self, writer: Writer) -> None:
        writer.start()
        self._stack.callback(writer.stop)

    def last(self) -> int:
        """The end of the log."""
        statement = "SELECT max(notification_id) FROM ledger.ledger_events"
        with psycopg.connect(self._conninfo) as connection:
            ((position,),) = connection.execute(statement)
        return int(position)

    def await_waiting(self) -> None:
        """Wait until an append waits for the lock."""
        waits = (
            "SELECT FROM pg_locks WHERE relation = 'ledger.append_lock'::regclass AND NOT granted"
        )
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            until(lambda: connection.execute(waits).rowcount, "an append that waits")

    def appends(self, first: int) -> list[int]:
        """How many events each append since this position recorded."""
        statement = (
            "SELECT count(*) FROM ledger.ledger_events WHERE notification_id >= %s"
            " GROUP BY xmin ORDER BY min(notification_id)"
        )
        with psycopg.connect(self._conninfo) as connection:
            return [count for (count,) in connection.execute(statement, (first,))]


@pytest.fixture
def node(conninfo: str) -> Iterator[Node]:
    with ExitStack() as stack:
        yield Node(conninfo, stack)
    assert check(conninfo).findings == []


def check_ins(count: int, by: Principal = FLOOD, line: str = LINE) -> list[Command]:
    events = (fact("execution.checked_in", line, {"hours": 1}) for _ in range(count))
    return [command_of(parsed(event), by) for event in events]


def other() -> list[Command]:
    return check_ins(1, OTHER, OTHER_LINE)


def positions(outcomes: Sequence[Any]) -> list[int]:
    assert [o for o in outcomes if not isinstance(o, Receipt)] == []
    return [outcome.position for outcome in outcomes]


def test_a_fact_is_recorded_behind_at_most_100_facts_of_a_neighbour_that_came_before(
    node: Node,
) -> None:
    writer = node.writer()
    flood, fact = writer.submit(check_ins(1_000)), writer.submit(other())
    node.start(writer)
    (at,) = positions(fact.result(20))
    batch = positions(flood.result(20))
    assert batch == sorted(batch)
    assert len([position for position in batch if position < at]) == 100


def test_a_slot_ends_for_a_fact_that_comes_in_the_middle_of_a_batch(node: Node) -> None:
    writer = node.writer()
    came = []
    batch = check_ins(1_000)
    batch[150] = Calls(lambda: came.append(writer.submit(other())))
    flood = writer.submit(batch)
    node.start(writer)
    outcomes = flood.result(20)
    (position,) = positions(came[0].result(20))
    before = [o for o in positions(outcomes) if 0 < o < position]
    # The facts up to the end of the slot, and the next slot of the batch.
    assert 150 <= len(before) <= 150 + 10 + 100


def test_an_imports_slot_ends_by_time_for_an_append_that_waits(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "SLOT_SECONDS", 0.0)
    monkeypatch.setattr(fair_queue, "_RECENT_SECONDS", 0.0)
    importing, worker = node.writer(is_apart=True), node.writer()
    node.start(worker)
    came = []
    batch = check_ins(1_000)
    batch[150] = Calls(lambda: (came.append(worker.submit(other())), node.await_waiting()))
    flood = importing.submit(batch)
    node.start(importing)
    last = positions(flood.result(20))[-1]
    (position,) = positions(came[0].result(20))
    assert position < last


def test_an_organization_alone_has_its_batch_recorded_by_one_append(node: Node) -> None:
    writer = node.writer()
    # Its own facts in another process do not count as others'.
    another = node.writer()
    node.start(another)
    positions(another.submit(check_ins(1)).result(20))
    flood = writer.submit(check_ins(1_000))
    node.start(writer)
    assert node.appends(positions(flood.result(20))[0]) == [1_000]


def test_a_slot_ends_by_time_while_others_wait_and_a_fact_is_never_divided(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "SLOT_SECONDS", 0.0)
    writer = node.writer()
    flood, fact = writer.submit(check_ins(20)), writer.submit(other())
    node.start(writer)
    batch, (position,) = positions(flood.result(20)), positions(fact.result(20))
    assert batch[0] < position < batch[1]


def test_a_divided_batch_is_answered_whole_and_in_order_with_its_duplicates(node: Node) -> None:
    writer = node.writer()
    batch = check_ins(350)
    batch[300] = batch[10]
    missing = fact("execution.checked_in", "LIN-26-404404", {"hours": 1})
    batch[200] = command_of(parsed(missing), FLOOD)
    flood = writer.submit(batch)
    fact_ = writer.submit(other())
    node.start(writer)
    outcomes = flood.result(20)
    positions(fact_.result(20))
    assert len(outcomes) == 350
    refused = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Receipt)]
    assert refused == [200]
    assert [n for n, o in enumerate(outcomes) if getattr(o, "duplicate", False)] == [300]
    assert outcomes[300].event_ids == outcomes[10].event_ids  # type: ignore[union-attr]
    recorded = [o.position for n, o in enumerate(outcomes) if n not in (200, 300)]  # type: ignore[union-attr]
    assert recorded == sorted(set(recorded))


def test_administrators_share_as_one_organization(node: Node) -> None:
    admin = Principal("KEY-26-000001", "api_key", frozenset({"admin"}))
    assert admin.tenant_key == COMMAND_LINE.tenant_key
    assert admin.tenant_key not in (FLOOD.tenant_key, OTHER.tenant_key)


def test_the_facts_of_one_organization_cannot_fill_the_queue_for_others(node: Node) -> None:
    writer = node.writer()  # never started: all commands wait
    for _ in range(2):
        writer.submit(check_ins(1) * 10_000)
    with pytest.raises(RateLimited):
        writer.submit(check_ins(1))
    assert not writer.submit(other()).done()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have views waited for, however long they have not moved, and others forgotten at once."""
    monkeypatch.setattr(fair_queue, "STILL_SECONDS", 3600.0)
    monkeypatch.setattr(fair_queue, "_RECENT_SECONDS", 0.0)


@pytest.mark.usefixtures("patient")
def test_with_others_an_organization_is_few_slots_ahead_of_the_views(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "_RECENT_SECONDS", 60.0)
    writer = node.writer()
    writer.note_projected(BEGUN)
    node.start(writer)
    flood = writer.submit(check_ins(1_000))
    # Other organizations are not held, each before it has written.
    for number in range(3, 8):
        late = Principal(f"late {number}", "api_key", frozenset({"write"}), f"ORG-26-{number:06d}")
        (outcome,) = writer.submit(check_ins(1, late)).result(20)
        assert isinstance(outcome, NotFound)
    assert not flood.done()
    assert node.last() <= BEGUN + 300 + 5
    writer.note_projected(2**40)
    assert len(positions(flood.result(20))) == 1_000


@pytest.mark.usefixtures("patient")
def test_an_organization_far_ahead_of_the_views_waits_for_them_and_others_do_not(
    node: Node,
) -> None:
    writer = node.writer()
    writer.note_projected(BEGUN)
    node.start(writer)
    for _ in range(3):
        positions(writer.submit(check_ins(1_000)).result(20))
    held = writer.submit(check_ins(1))
    (position,) = positions(writer.submit(other()).result(20))
    assert not held.done()
    writer.note_projected(position)
    assert positions(held.result(20)) > [position]


@pytest.mark.usefixtures("patient")
def test_commands_that_wait_for_views_are_carried_out_when_the_writer_stops(node: Node) -> None:
    writer = node.writer()
    writer.note_projected(BEGUN)
    writer.start()
    for _ in range(3):
        positions(writer.submit(check_ins(1_000)).result(20))
    held = writer.submit(check_ins(1))
    writer.stop()
    assert len(positions(held.result(0))) == 1


def test_views_that_do_not_move_are_not_waited_for(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "STILL_SECONDS", 0.0)
    writer = node.writer()
    writer.note_projected(BEGUN)
    node.start(writer)
    for _ in range(3):
        positions(writer.submit(check_ins(1_000)).result(20))


def test_an_import_hands_in_again_what_was_turned_away(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "RETRY_SECONDS", 0.01)
    writer = node.writer(is_apart=True)
    waiting = [writer.submit(check_ins(1) * 10_000) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(load.submit_patiently, writer, check_ins(1))
        node.start(writer)
        assert len(positions(late.result(60).result(60))) == 1
    assert all(future.done() for future in waiting)


@pytest.mark.usefixtures("patient")
def test_an_import_alone_does_not_wait_for_views_and_with_others_it_does(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing, worker = node.writer(is_apart=True), node.writer()
    node.start(importing)
    node.start(worker)
    importing.note_projected(BEGUN)
    for _ in range(3):
        positions(importing.submit(check_ins(1_000)).result(20))
    monkeypatch.setattr(fair_queue, "_RECENT_SECONDS", 60.0)
    positions(worker.submit(other()).result(20))
    # The next append finds the event of the other organization.
    positions(importing.submit(check_ins(1)).result(20))
    held = importing.submit(check_ins(1))
    (position,) = positions(worker.submit(check_ins(1)).result(20))
    assert not held.done()
    importing.note_projected(position)
    positions(held.result(20))


def test_the_follower_of_views_tells_what_all_live_views_have_reached(conninfo: str) -> None:
    positions: queue.Queue[int] = queue.Queue()
    follower = ViewFollower(conninfo, positions.put)
    listens = (
        "SELECT FROM pg_stat_activity WHERE application_name = 'ledger view follower'"
        " AND state = 'idle' AND query LIKE '%FROM ledger.projection%'"
    )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        views = [name for (name,) in connection.execute("SELECT name FROM ledger.projection")]
        first, *others = views
        connection.execute("UPDATE ledger.projection SET position = 3")  # not a movement
        follower.start()
        try:
            until(lambda: connection.execute(listens).rowcount, "it")

            def notify(payload: str) -> None:
                connection.execute("SELECT pg_notify('ledger_views', %s)", (payload,))

            notify(f"{','.join(others)} 7")
            notify(f"{first} 5")
            assert positions.get(timeout=20) == 5
            notify(f"{first} stopped")
            assert positions.get(timeout=20) == 7
        finally:
            follower.stop()
