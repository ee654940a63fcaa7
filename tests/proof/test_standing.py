"""The decisions of nodes about signing, driven through what happens to nodes and databases."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ledger.features.proof.sealing.peers import (
    FOLLOWS,
    SEALS,
    STOPPED,
    UNHEARD,
    UNVOUCHED,
    PeerMonitor,
    Row,
)
from tests.proof.cluster_model import Cluster, Database, Node, contradict

NODES = 3
one = st.integers(0, NODES - 1)


def test_a_read_that_began_before_a_beat_was_acknowledged_misses_nothing() -> None:
    """The beat and the sealer of a node read the rows at the same time."""
    monitor, old = PeerMonitor("n", 0.0), Row("n", None, 0.5, 1.0, "here")
    assert monitor.hear(1.0, 1.1, "here", [old]).has_waited
    monitor.beaten(2.0, 2.0)
    assert monitor.hear(1.9, 2.1, "here", [old]).has_waited
    assert not monitor.hear(2.2, 2.3, "here", [old]).has_waited, "the beat is lost"


def test_another_process_that_beats_as_this_node_is_not_gone_while_the_database_is_away() -> None:
    monitor = PeerMonitor("n", 0.0)

    def hear(now: float, beaten_at: float) -> bool:
        row = Row("n", None, 0.5, beaten_at, "here")
        return monitor.hear(now, now, "here", [row], is_between_beats=True).is_doubled

    found = []
    for second in range(1, 5):
        found.append(hear(float(second), second - 0.5))
        monitor.beaten(float(second), float(second))
    assert found == [False, False, False, True]
    doubled = [hear(float(second), 4.0) for second in range(40, 57)]
    assert doubled == [True] * 15 + [False] * 2, "it has had the time to beat"


@pytest.mark.parametrize("has_room_again", [False, True])
def test_a_new_node_that_can_keep_no_file_waits_for_the_others_reports(
    has_room_again: bool,
) -> None:
    cluster = Cluster(2)
    signer, other = cluster.nodes
    cluster.append(2)
    cluster.start(signer)
    cluster.second(cluster.nodes, signer)
    before = cluster.backup()
    other.is_full = True
    cluster.start(other)
    for _ in range(20):
        cluster.second(cluster.nodes, signer)
    cluster.append(1)
    cluster.seal(signer)
    cluster.restore(before)
    cluster.append(1)
    other.is_full = not has_room_again
    cluster.seal(other)
    for _ in range(20):
        cluster.second(cluster.nodes, other)
    assert cluster.database.stopped


def test_a_node_is_in_each_case_at_some_time() -> None:
    cluster = Cluster(2)
    signer, other = cluster.nodes
    cluster.append(2)
    cluster.start(signer)
    cluster.second(cluster.nodes, signer)
    assert cluster.cases == [FOLLOWS, SEALS]
    backup = cluster.backup()
    cluster.stop(signer)
    cluster.start(other)
    cluster.seal(other)
    assert cluster.cases[2:] == [UNHEARD], "another PostgreSQL than the node knows: none"
    for _ in range(20):
        cluster.second(cluster.nodes, other)
    assert cluster.cases[-1] is UNVOUCHED
    cluster.restore(backup)
    cluster.database.log = (7, 7)
    cluster.start(signer)
    cluster.second(cluster.nodes, signer)
    assert cluster.cases[-1] is STOPPED
    assert set(cluster.cases) == {STOPPED, FOLLOWS, UNHEARD, UNVOUCHED, SEALS}


class _Machine(RuleBasedStateMachine):
    """The steps of every history."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(NODES)
        self.leads = 0

    @initialize()
    def begin(self) -> None:
        """A ledger that a node has begun to seal, and that others follow."""
        self.cluster.append(2)
        self.cluster.start(self.node(0))
        self.pass_seconds(2, 0)
        assert self.cluster.database.shown_size == 2
        for node in self.cluster.nodes:
            self.cluster.start(node)
        self.pass_seconds(16, 0)

    def node(self, number: int) -> Node:
        return self.cluster.nodes[number]

    def running(self, number: int) -> int:
        """A node that runs, if there is one."""
        numbers = [(number + more) % NODES for more in range(NODES)]
        return next((candidate for candidate in numbers if self.node(candidate).runs), number)

    @rule(seconds=st.sampled_from((1, 1, 2, 5, 14, 16)), first=one)
    def pass_seconds(self, seconds: int, first: int) -> None:
        order = self.cluster.nodes[first:] + self.cluster.nodes[:first]
        for _ in range(seconds):
            self.cluster.second(order, self.node(self.leads))

    @rule(number=one, events=st.integers(0, 2))
    def seal(self, number: int, events: int) -> None:
        """Another node leads, at once."""
        self.cluster.append(events)
        self.leads = self.running(number)
        if self.node(self.leads).runs:
            self.cluster.seal(self.node(self.leads))

    @rule(number=one)
    def start_or_thaw(self, number: int) -> None:
        self.cluster.thaw(self.node(number))
        self.cluster.start(self.node(number))

    @rule(number=one, how=st.sampled_from(("stop", "freeze", "die while signing")))
    def disturb(self, number: int, how: str) -> None:
        node = self.node(number)
        if how == "stop":
            self.cluster.stop(node)
        elif how == "freeze":
            self.cluster.freeze(node)
        elif node.runs:
            self.cluster.append(1)
            self.cluster.seal(node, dies=True)

    @rule(number=one)
    def fill_or_clear_the_disk(self, number: int) -> None:
        self.node(number).is_full = not self.node(number).is_full

    @rule(lineage=st.booleans())
    def lose_the_database(self, lineage: bool) -> None:
        """Nobody reaches it for 20 s; then it is back, or another one has all that it had."""
        self.cluster.now += 20.0
        if lineage:
            self.cluster.restore(self.cluster.backup())

    @rule()
    def fail_over_without_loss(self) -> None:
        self.cluster.restore(self.cluster.backup())


class AnyHistory(_Machine):
    """No two notes of an origin contradict each other while a node that saw the lost one lives.

    ``Cluster`` asserts it with each note. It also asserts that two nodes have each published
    checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backups: list[Database] = []

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.cluster.backup())

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def roll_back(self, data: Any) -> None:
        """A failover that loses something, or the restore of a backup."""
        self.cluster.restore(data.draw(st.sampled_from(self.backups)))

    @rule(number=one)
    def replace(self, number: int) -> None:
        self.cluster.replace(self.node(number))

    @rule(number=one, onto=one, are_alone=st.booleans(), seconds=st.sampled_from((0, 6, 20)))
    def copy(self, number: int, onto: int, are_alone: bool, seconds: int) -> None:
        """An operator copies a data directory, which the contract forbids, and starts both."""
        if number == onto:
            return
        if are_alone:
            for node in self.cluster.nodes:
                self.cluster.stop(node)
        self.cluster.copy(self.node(number), self.node(onto))
        self.start_or_thaw(number)
        self.start_or_thaw(onto)
        self.pass_seconds(seconds, number)

    @rule(signs=one, seconds=st.sampled_from((0, 0, 1, 20)), goes_on=one, events=st.integers(1, 2))
    def lose_what_was_just_signed(
        self, signs: int, seconds: int, goes_on: int, events: int
    ) -> None:
        """A node signs, nobody else has seen it, and another node goes on after the loss."""
        before = self.cluster.backup()
        self.seal(signs, 1)
        self.cluster.restore(before)
        self.cluster.append(events)
        self.leads = self.running(goes_on)
        self.pass_seconds(seconds, goes_on)
        self.seal(goes_on, 0)

    @precondition(lambda self: self.cluster.database.stopped or self.cluster.database.waits)
    @rule(number=one)
    def adopt(self, number: int) -> None:
        assert self.cluster.adopt(self.node(number))


class LosslessHistory(_Machine):
    """No operator is needed while a node with a witness lives through each replacement."""

    @rule(number=one)
    def replace(self, number: int) -> None:
        others = [node for node in self.cluster.nodes if node is not self.node(number)]
        if any(node.runs and node.witness is not None for node in others):
            self.cluster.replace(self.node(number))

    def teardown(self) -> None:
        for number in range(NODES):
            self.node(number).is_full = False
            self.cluster.thaw(self.node(number))
            self.cluster.start(self.node(number))
        self.pass_seconds(40, 0)
        database = self.cluster.database
        assert not database.stopped
        assert not database.waits
        assert database.shown_size == len(database.log)
        notes = self.cluster.signed
        assert not any(contradict(a, b) for a in notes for b in notes)


class AttackedHistory(_Machine):
    """only a witness proves that."""

    @rule(
        remaining=st.integers(0, 3),
        has_key=st.booleans(),
        witness=st.sampled_from(("kept", "removed", "replaced")),
        goes_on=one,
    )
    def rewrite(self, remaining: int, has_key: bool, witness: str, goes_on: int) -> None:
        has_witness = self.node(goes_on).witness is not None
        count = len(self.cluster.signed)
        self.cluster.rewrite(remaining, has_key, witness)
        left = self.cluster.database.has_key or any(self.cluster.database.checkpoints)
        self.cluster.start(self.node(goes_on))
        self.leads = goes_on
        self.pass_seconds(20, goes_on)
        if left or (witness == "kept" and has_witness):
            assert self.cluster.signed[count:] == [], "nothing is signed"

    @precondition(lambda self: self.cluster.database.stopped or self.cluster.database.waits)
    @rule(number=one)
    def adopt(self, number: int) -> None:
        assert self.cluster.adopt(self.node(number))


SHORT = 25
"""The number of histories of the short forms, which are the same each time. The long forms search
for new ones."""


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=examples == SHORT,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class MoreHistories(AnyHistory):
    """The same, for long."""


class MoreLosslessHistories(LosslessHistory):
    """The same, for long."""


class MoreAttackedHistories(AttackedHistory):
    """The same, for long."""


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = _settings(SHORT)
TestLosslessHistory = LosslessHistory.TestCase
TestLosslessHistory.settings = _settings(SHORT)
TestAttackedHistory = AttackedHistory.TestCase
TestAttackedHistory.settings = _settings(SHORT)
TestMoreHistories = pytest.mark.soak(MoreHistories.TestCase)
TestMoreHistories.settings = _settings(1_000)
TestMoreLosslessHistories = pytest.mark.soak(MoreLosslessHistories.TestCase)
TestMoreLosslessHistories.settings = _settings(1_000)
TestMoreAttackedHistories = pytest.mark.soak(MoreAttackedHistories.TestCase)
TestMoreAttackedHistories.settings = _settings(100)
