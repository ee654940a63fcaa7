"""The histories of ``test_standing.py`` on a real PostgreSQL, which is lost to copies of itself."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import tuple_row

from ledger.app.composition.database import prepare_database
from ledger.app.settings import Settings
from ledger.features.proof.sealing.leaf import leaf_of
from ledger.features.proof.sealing.note import UncheckedNote, parse
from ledger.features.proof.sealing.origins import NothingIsWrong
from ledger.features.proof.sealing.tiles import GrowingTree
from ledger.features.proof.sealing.tree import hash_leaf
from tests.support.data_dirs import MASTER_KEY
from tests.support.embedded import folder_in_tmp
from tests.support.failover import Failover, failover_in
from tests.support.ledger import working
from tests.support.sealing import Node, adopt_log

pytestmark = pytest.mark.soak

SETTINGS = Settings(master_key=MASTER_KEY)
NODES = 3
TIMEOUT = 3.0
one = st.integers(0, NODES - 1)

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events ORDER BY notification_id
"""


class Histories(RuleBasedStateMachine):
    """No note contradicts one that a running node has seen."""

    cluster: Failover
    folder: Path
    numbers = itertools.count(1)

    @initialize()
    def begin(self) -> None:
        self.own = self.folder / f"history-{next(self.numbers)}"
        self.cluster.lose_to("fresh")
        self.copies = ["fresh"]
        self.signed: list[tuple[UncheckedNote, tuple[bytes, ...]]] = []
        self.folders = [self.own / f"n{number}" / "sealed" for number in range(NODES)]
        self.nodes: dict[int, Node] = {}
        self.start(0)
        self.append(2)
        self.beat_all()
        self.seal(0)
        for number in range(1, NODES):
            self.start(number)
        self.pass_time()
        self.copy()

    def teardown(self) -> None:
        for number in list(self.nodes):
            self.stop(number)

    # The nodes.

    @rule(number=one)
    def start(self, number: int) -> None:
        if number not in self.nodes:
            folder = self.folders[number]
            self.nodes[number] = Node(self.cluster.url, folder, TIMEOUT)

    @rule(number=one)
    def stop(self, number: int) -> None:
        if (node := self.nodes.pop(number, None)) is not None:
            node.__exit__()

    @rule(number=one)
    def replace(self, number: int) -> None:
        self.stop(number)
        self.folders[number] = self.own / f"n{next(self.numbers)}" / "sealed"

    @rule()
    def pass_time(self) -> None:
        """Let time pass until each node has reported, or is gone."""
        end = time.monotonic() + TIMEOUT + 0.5
        while time.monotonic() < end:
            self.beat_all()
            time.sleep(0.2)

    def beat_all(self) -> None:
        for node in self.nodes.values():
            _again(node.beat, node)

    @rule(number=one)
    def seal(self, number: int) -> None:
        if number in self.nodes:
            node = self.nodes[number]
            for other in self.nodes.values():
                if other is not node:
                    other.sealer.disconnect()  # the lead, if it had it, ends with its session
            _again(node.seal, node)
            self.judge()

    @rule(number=one)
    def append_and_seal(self, number: int) -> None:
        self.append(1)
        self.beat_all()
        self.seal(number)

    def append(self, count: int) -> None:
        with working(self.cluster.url, SETTINGS) as ledger:
            for _ in range(count):
                ledger.line()

    # The database.

    @rule()
    def copy(self) -> None:
        name = f"copy-{next(self.numbers)}"
        self.cluster.copy(name)
        self.copies.append(name)

    @precondition(lambda self: len(self.copies) > 1)
    @rule(data=st.data(), number=one)
    def lose(self, data: Any, number: int) -> None:
        self.cluster.lose_to(data.draw(st.sampled_from(self.copies[1:])))
        self.append(1)
        self.seal(number)
        self.pass_time()

    @rule(signs=one, goes_on=one)
    def lose_what_was_just_signed(self, signs: int, goes_on: int) -> None:
        self.copy()
        self.append(1)
        self.seal(signs)
        self.cluster.lose_to(self.copies[-1])
        self.append(2)
        self.seal(goes_on)
        self.pass_time()
        self.seal(goes_on)

    @rule(number=one)
    def adopt(self, number: int) -> None:
        self.beat_all()
        try:
            adopt_log(self.cluster.url, self.folders[number])
        except NothingIsWrong:
            return

    # The notes.

    def judge(self) -> None:
        """Compare the newest note with all that were ever signed."""
        with psycopg.connect(self.cluster.url, row_factory=tuple_row) as connection:
            newest = "SELECT note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"
            row = connection.execute(newest).fetchone()
            events = connection.execute(_EVENTS).fetchall()
        if row is None:
            return
        note = parse(row[0])
        leaves = tuple(hash_leaf(leaf_of(*event)) for event in events[: note.checkpoint.size])
        tree = GrowingTree(0, {})
        for leaf in leaves:
            tree.add(leaf)
        if (note, leaves) in self.signed:
            return
        assert note.checkpoint == (tree.size, tree.root())
        for earlier, others in self.signed:
            common = min(len(leaves), len(others))
            if earlier.origin == note.origin and leaves[:common] != others[:common]:
                assert self.running_that_saw(earlier) == [], (earlier, note)
        self.signed.append((note, leaves))

    def running_that_saw(self, note: UncheckedNote) -> list[int]:
        name = f"{note.origin.replace('/', '-')}.checkpoint"
        return [
            number
            for number, node in self.nodes.items()
            if (file := node.folder / name).exists()
            and parse(file.read_text()).checkpoint.size >= note.checkpoint.size
        ]


def _again(step: Any, node: Node) -> None:
    """Do a step of a node; once more if the failover took its connection."""
    for _ in range(2):
        try:
            step()
            return
        except psycopg.Error:
            node.disconnect()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter."""
    with folder_in_tmp(0o755) as folder:
        yield folder


def test_a_loss_that_one_living_node_has_seen_is_not_signed_over(
    folder: Path, template: Path
) -> None:
    with failover_in(folder, template) as cluster:
        prepare_database(SETTINGS, cluster.url)
        cluster.copy("fresh")
        Histories.cluster, Histories.folder = cluster, folder
        history = Histories()
        history.begin()
        history.lose_what_was_just_signed(0, 1)
        assert [note.checkpoint.size for note, _ in history.signed] == [2, 3]
        with psycopg.connect(cluster.url) as connection:
            stopped = connection.execute("SELECT contradicts FROM ledger.signer").fetchone()
        history.teardown()
    assert stopped == (True,)


def test_any_history_on_a_real_postgresql_leads_to_no_contradiction(
    folder: Path, template: Path
) -> None:
    with failover_in(folder, template) as cluster:
        prepare_database(SETTINGS, cluster.url)
        cluster.copy("fresh")
        Histories.cluster, Histories.folder = cluster, folder
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=4,
                stateful_step_count=8,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
