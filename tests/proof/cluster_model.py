"""A model of nodes on one PostgreSQL, which decide by the ledger's own ``judge``.

The model's log is a row of numbers, a root is the row itself, and time passes in seconds. A node
has files, which outlive its process, and a process, which may be frozen.
"""

import copy
import itertools
from dataclasses import dataclass, field, replace

from ledger.features.proof.sealing.peers import (
    FOLLOWS,
    SEALS,
    STOPPED,
    UNHEARD,
    UNVOUCHED,
    Case,
    Evidence,
    LogConsistency,
    PeerMonitor,
    Row,
    Verdict,
    Witnessed,
    judge,
)

_NOTICED_SECONDS = 5
"""How long a process may beat as another node before somebody notices."""

Log = tuple[int, ...]


def note(origin: int, events: Log) -> Witnessed:
    return Witnessed(origin, len(events), repr(events).encode(), "")


def events_of(witness: Witnessed) -> Log:
    events: Log = eval(witness.root)
    return events


def contradict(one: Witnessed, other: Witnessed) -> bool:
    """True if two notes of an origin cannot both be of one log that only grew."""
    short, long = sorted((events_of(one), events_of(other)), key=len)
    return one.origin == other.origin and long[: len(short)] != short


@dataclass
class Database:
    """The content of a PostgreSQL. A copy of it is a backup, or a standby."""

    lineage: str = "1"
    log: Log = ()
    origin: int = 1
    stopped: bool = False
    waits: bool = False
    has_key: bool = False
    """True if the log has a key: the first checkpoint brings one."""
    checkpoints: list[Witnessed] = field(default_factory=list)
    mark: Witnessed | None = None
    """The last checkpoint, as it is kept with the key."""
    shown_size: int = 0
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def newest(self) -> Witnessed | None:
        return self.checkpoints[-1] if self.checkpoints and self.has_key else None

    def keep(self, made: Witnessed) -> None:
        self.checkpoints.append(made)
        self.mark = made


@dataclass
class Node:
    """A node with its files; ``monitor`` is its process, None if it doesn't run."""

    name: str
    witness: Witnessed | None = None
    lineage: str | None = None
    is_full: bool = False
    """True if it can write no file."""
    monitor: PeerMonitor | None = None
    unkept: Witnessed | None = None
    """A witness newer than the file, which the process only remembers."""
    is_frozen: bool = False
    has_beaten: bool = False
    """True if it has beaten since it was started or thawed: only then it lives for others."""
    doubled_seconds: int = 0
    """For how long another process has beaten as this node without a pause."""

    @property
    def runs(self) -> bool:
        return self.monitor is not None and not self.is_frozen

    @property
    def own(self) -> Witnessed | None:
        """The newest witness that its process knows."""
        return self.witness if self.unkept is None else self.unkept

    def keep(self, witness: Witnessed) -> None:
        if self.own is not None and witness[:2] <= self.own[:2]:
            return
        if self.is_full:
            self.unkept = witness
        else:
            self.witness, self.unkept = witness, None

    def keep_again(self) -> None:
        if self.unkept is not None and not self.is_full:
            self.witness, self.unkept = self.unkept, None

    def keep_lineage(self, lineage: str) -> None:
        if not self.is_full:
            self.lineage = lineage


class Cluster:
    """Nodes on one database, and every note that was ever signed."""

    def __init__(self, nodes: int) -> None:
        self.now = 0.0
        self.database = Database()
        self.nodes = [Node(f"n{number}") for number in range(nodes)]
        self.cases: list[Case] = []
        """The cases of the nodes, in order."""
        self.signed: list[Witnessed] = []
        self.committed: list[Witnessed] = []
        """The notes that reached the database, and not only the file of a node that died."""
        self.is_attacked = False
        self._lineages = map(str, itertools.count(2))
        self._events = itertools.count(1)
        self._names = map("n{}".format, itertools.count(nodes))
        self._gone: list[Node] = []
        """Nodes whose data directory is no more: they have kept and reported what they had."""
        self._beats = itertools.count()
        self._copied: set[str] = set()
        """The nodes whose data directory was copied at some time."""

    # Events of the database.

    def append(self, count: int) -> None:
        self.database.log += tuple(itertools.islice(self._events, count))

    def backup(self) -> Database:
        return copy.deepcopy(self.database)

    def restore(self, backup: Database, lineage: str | None = None) -> None:
        """Another PostgreSQL takes over: with everything, or with what it has."""
        self.database = replace(copy.deepcopy(backup), lineage=lineage or next(self._lineages))

    def adopt(self, node: Node) -> bool:
        """An operator adopts the log with a node's data directory; return True if possible."""
        database = self.database
        if not (database.stopped or database.waits):
            return False
        noted = [database.newest, node.witness, *(row.witness for row in database.rows.values())]
        database.origin = 1 + max([database.origin, *(w.origin for w in noted if w is not None)])
        database.checkpoints, database.shown_size = [], 0
        database.stopped = database.waits = False
        made = note(database.origin, database.log)
        self._sign(made)
        self._commit(made)
        if not node.is_full and (node.witness is None or node.witness[:2] < made[:2]):
            node.witness = made
        return True

    def rewrite(self, remaining: int, has_key: bool, witness: str) -> None:
        """The database's superuser rewrites the first event, and makes the log look untouched."""
        database, self.is_attacked = self.database, True
        database.log = (next(self._events), *database.log[1:])
        database.checkpoints = database.checkpoints[:remaining]
        database.rows, database.shown_size = {}, 0
        database.stopped = database.waits = False
        if not has_key:
            database.has_key, database.mark = False, None
        for node in self.nodes:
            self.stop(node)
            if witness != "kept":
                is_replaced = witness == "replaced" and database.checkpoints
                node.witness = database.checkpoints[-1] if is_replaced else None

    # Events of nodes.

    def start(self, node: Node) -> None:
        if node.monitor is None:
            node.monitor, node.is_frozen = PeerMonitor(node.name, self.now), False
            node.has_beaten = False

    def stop(self, node: Node) -> None:
        node.monitor, node.unkept, node.doubled_seconds = None, None, 0
        node.is_frozen = node.has_beaten = False

    def replace(self, node: Node) -> None:
        """An empty data directory: another node in the place of this one."""
        self._gone.append(copy.copy(node))
        self.stop(node)
        node.name, node.witness, node.lineage = next(self._names), None, None

    def copy(self, node: Node, onto: Node) -> None:
        """A copy of a node's data directory in the place of another node."""
        self._gone.append(copy.copy(onto))
        self.stop(onto)
        onto.name, onto.witness, onto.lineage = node.name, node.witness, node.lineage
        self._copied.add(node.name)

    def freeze(self, node: Node) -> None:
        node.is_frozen, node.has_beaten = node.monitor is not None, False

    def thaw(self, node: Node) -> None:
        node.is_frozen = False

    # The nodes' own deeds.

    def second(self, order: list[Node], leader: Node | None) -> None:
        """Let a second pass: all nodes beat, and one of them seals."""
        self.now += 1.0
        for node in order:
            if node.runs:
                self.beat(node)
            if node is leader and node.runs:
                self.seal(node)
        for node in self.nodes:
            is_doubled = node.has_beaten and any(self._twins(node))
            node.doubled_seconds = node.doubled_seconds + 1 if is_doubled else 0

    def beat(self, node: Node) -> None:
        verdict = self._judge(node, leads=False)
        assert verdict.shows == 0
        self._obey(node, verdict)
        lineage = self.database.lineage if verdict.settles else None
        before = self.database.rows.get(node.name)
        reported = lineage or (before.lineage if before is not None else None)
        beaten_at = self.now, next(self._beats)
        self.database.rows[node.name] = Row(node.name, node.witness, 0.0, beaten_at, reported)
        assert node.monitor is not None
        node.monitor.beaten(beaten_at, self.now)
        if lineage is not None:
            node.keep_lineage(lineage)
        node.has_beaten = True

    def seal(self, node: Node, dies: bool = False) -> None:
        """A round of the sealer, which may die between the file and the database."""
        verdict = self._judge(node, leads=True)
        self._obey(node, verdict)
        database = self.database
        database.waits = verdict.case.is_degraded
        if verdict.case is not SEALS:
            return
        self._show(node, verdict.shows)
        is_new = not database.has_key
        if is_new:  # a name and a key of its own
            database.origin = 1 + max((earlier.origin for earlier in self.signed), default=0)
        made = note(database.origin, database.log)
        if not database.log or (database.newest is not None and made.size <= database.newest.size):
            return
        self._sign(made)
        if not is_new:
            node.keep(made)
        if dies and not is_new:
            self.stop(node)
            return
        self._commit(made)
        if dies:
            self.stop(node)
            return
        node.keep(made)
        if verdict.is_alone and node.unkept is None:
            self._show(node, made.size)

    def _commit(self, made: Witnessed) -> None:
        self.database.has_key = True
        self.database.keep(made)
        self.committed.append(made)

    def _show(self, node: Node, size: int) -> None:
        """A shown checkpoint is kept by two nodes; or by this one, and no other one lives.

        Another process that beats as the same node is noticed within some seconds.
        """
        if size <= self.database.shown_size:
            return
        holders = [
            n
            for n in [*self.nodes, *self._gone]
            if n.witness is not None and n.witness.size >= size
        ]
        others = [n for n in self.nodes if n.name != node.name and n.has_beaten]
        is_alone = not others and node.doubled_seconds < _NOTICED_SECONDS
        assert len(holders) >= 2 or (node in holders and is_alone)
        self.database.shown_size = size

    def _twins(self, node: Node) -> list[Node]:
        """The other processes that beat as this node."""
        twins = [n for n in self.nodes if n is not node and n.name == node.name]
        return [n for n in twins if n.has_beaten]

    def _sign(self, made: Witnessed) -> None:
        """No note contradicts one that a living node has seen, unless it beats as another one.

        After an attack none contradicts one that the database has had.
        """
        if self.is_attacked:
            assert [one for one in self.committed if contradict(one, made)] == []
        for earlier in self.signed:
            if contradict(earlier, made):
                holders = [
                    node.name
                    for node in self.nodes
                    if node.has_beaten
                    and node.name not in self._copied
                    # Nobody receives a witness that a node only remembers.
                    and node.witness is not None
                    and node.witness.origin == earlier.origin
                    and node.witness.size >= earlier.size
                    # A node that follows a later note of the other history did not see this one.
                    and not contradict(earlier, node.witness)
                ]
                assert holders == [], (earlier, made)
        self.signed.append(made)

    def _obey(self, node: Node, verdict: Verdict) -> None:
        if verdict.contradicted is not None:
            self.database.stopped = self.database.has_key = True
        if verdict.advances and self.database.newest is not None:
            assert (
                node.own is None
                or node.own.origin < self.database.origin
                or not contradict(node.own, self.database.newest)
            )
            node.keep(self.database.newest)

    def _judge(self, node: Node, leads: bool) -> Verdict:
        database = self.database
        rows = [
            row._replace(silent_seconds=self.now - row.beaten_at[0])
            for row in database.rows.values()
        ]
        assert node.monitor is not None
        node.keep_again()
        reports = node.monitor.hear(
            self.now,
            self.now,
            database.lineage,
            rows,
            node.lineage,
            is_between_beats=not leads,
        )
        newest, own, keeps = database.newest, node.own, node.unkept is None
        evidence = Evidence(database.origin, database.stopped, newest, own, reports, leads, keeps)
        if not database.has_key:
            witnesses = [own, *(row.witness for row in rows), *database.checkpoints]
            strays = [witness for witness in witnesses if witness is not None]
            stray = max(strays, key=lambda witness: witness[:2], default=None)
            evidence = evidence._replace(origin=1, own=None, has_signed=False, stray=stray)
        elif leads:
            is_first = newest is not None and newest == database.mark == database.checkpoints[0]
            is_unseen = is_first and database.shown_size == 0
            evidence = evidence._replace(mark=database.mark, is_unseen=is_unseen)
        log = database.log
        if not leads:
            log = events_of(database.newest) if database.newest is not None else ()

        def compare(witness: Witnessed) -> LogConsistency:
            if witness.size > len(log):
                return LogConsistency.SHORTER if leads else LogConsistency.UNKNOWN
            return (
                LogConsistency.SAME
                if repr(log[: witness.size]).encode() == witness.root
                else LogConsistency.OTHER
            )

        verdict = judge(evidence, compare)
        knows = evidence.own is not None and evidence.own.origin == evidence.origin
        assert verdict.case is (
            STOPPED
            if database.stopped or verdict.contradicted is not None
            else FOLLOWS
            if not leads
            else UNHEARD
            if not verdict.settles
            else SEALS
            if newest is None or knows or verdict.advances
            else UNVOUCHED
        )
        self.cases.append(verdict.case)
        return verdict
