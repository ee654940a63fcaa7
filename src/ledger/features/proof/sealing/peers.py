"""Decides whether a node may sign (contract, Several nodes).

Pure: neither input nor output, and no clock of its own. ``PeerMonitor`` remembers for how long a
node has been able to read the others' reports; ``judge`` decides by what the node knows.

    a follower  takes the newest checkpoint of the database as its witness
    a sealer    is a follower that leads, and may sign and show checkpoints (the case ``SEALS``)
    a stopped   node signs nothing until an operator adopts the log, which contradicts a witness

A database may lose its last transactions: by a failover to a standby that was behind, or by the
restore of a backup. The lost checkpoints live on in the witnesses of the nodes. So a sealer
compares the log with each witness before it signs. After such an event it first gives all living
nodes the time to report their witnesses.

Somebody who can change the database may remove its checkpoints, or its key, so that a rewritten log
looks like a new one. So a log with a key and without a checkpoint is not signed. A new key is made
only if no node has a witness. The last signed checkpoint is stored with the key, as the mark, which
the log must continue like any witness.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from ledger.engine.postgres.timing import LIVING_SECONDS

_DOUBLED_AFTER = 3
"""This many foreign beats under a node's id show that another process beats as this node. A single
one may be the node's own, whose acknowledgement was lost."""

NO_WITNESS = "no living node has seen a checkpoint of this log"
NEW_POSTGRESQL = "this PostgreSQL is new: the nodes first report what they have seen"


class LogConsistency(Enum):
    """How the log compares to a checkpoint that was signed before."""

    SAME = "the log begins with the events that were sealed"
    SHORTER = "the log has fewer events than were sealed"
    OTHER = "the log begins with other events than were sealed"
    LATER = "a later origin was begun, and the log does not know of it"
    KEYLESS = "the key that signed is gone from the database"
    EMPTIED = "the log has a key, and no checkpoint that was signed by it"
    UNKNOWN = "whoever leads must compare them"


class Witnessed(NamedTuple):
    """A checkpoint that was signed."""

    origin: int
    size: int
    root: bytes
    where: str
    """Where the checkpoint is stored, in words for a person."""


class Row(NamedTuple):
    """A node's last beat, as the database has it now."""

    node_id: str
    witness: Witnessed | None
    silent_seconds: float
    beaten_at: Any
    """Instants of one node can be compared."""
    lineage: str | None


class Other(NamedTuple):
    """Another node."""

    node_id: str
    witness: Witnessed | None
    lives: bool
    is_recent: bool
    """True if the node has beaten since the start of this node."""


class PeerReports(NamedTuple):
    """What the nodes' rows say, as this node interprets them now."""

    others: Sequence[Other]
    has_waited: bool
    """True if each living node has had the time to report to this PostgreSQL."""
    is_first: bool
    """True if this node has never waited for reports, on any PostgreSQL."""
    is_doubled: bool
    """True if another process beats as this node: its data directory is shared or copied."""


class PeerMonitor:
    """Remembers since when a node has reports of the others. ``now`` is in monotonic seconds."""

    def __init__(self, node_id: str, now: float, timeout: float = LIVING_SECONDS) -> None:
        self._node_id, self._started, self._timeout = node_id, now, timeout
        self._last: float | None = None
        self._contact = now
        self._present: frozenset[str] = frozenset()
        """The nodes that lived when the database last answered before the contact."""
        self._lineage: str | None = None
        self._lineage_since = now
        self._beaten_at: Any = None
        self._acknowledged = now
        self._has_lost = False
        self._foreign, self._foreign_at = 0, now
        """The number of foreign beats under this node's id, and when the last one was seen."""

    def beaten(self, at: Any, now: float) -> None:
        self._beaten_at, self._acknowledged = at, now

    def hear(
        self,
        sent_at: float,
        answered: float,
        lineage: str,
        rows: Sequence[Row],
        remembered: str | None = None,
        *,
        is_between_beats: bool = False,
    ) -> PeerReports:
        """Process the nodes' rows, read between the instants ``sent_at`` and ``answered``.

        To be safe, a wait begins with an answer, and ends before a query is sent. ``remembered`` is
        the PostgreSQL on which the node last waited, by its own files. Between two beats of the
        node, a beat under its id is another process's.
        """
        # Reports may have been impossible while this node could not read them.
        if self._last is None or sent_at - self._last > self._timeout / 3:
            self._contact = answered
            last = min((row.silent_seconds for row in rows), default=0.0)
            alive = (row for row in rows if row.silent_seconds - last < self._timeout)
            self._present = frozenset(row.node_id for row in alive)
        self._last = answered
        own = next((row for row in rows if row.node_id == self._node_id), None)
        if is_between_beats:
            self._expect_own(own, answered)
        is_back = (
            self._beaten_at is not None
            and sent_at
            >= self._acknowledged  # else the beat may have come after the rows were read
            and (own is None or own.beaten_at < self._beaten_at)
        )
        if lineage != self._lineage or is_back:
            # If an acknowledged beat is gone, the database lost its last transactions.
            self._lineage, self._lineage_since = lineage, answered
            self._has_lost, self._beaten_at = self._has_lost or is_back, None
        waited = max(0.0, sent_at - max(self._lineage_since, self._contact))
        if waited >= self._timeout:
            self._has_lost = False
        # The row is lost with the database, so it says more than the node's file.
        reported = own.lineage if own is not None and own.lineage is not None else remembered
        settled = reported == lineage and not self._has_lost
        others = [self._other(row, sent_at) for row in rows if row.node_id != self._node_id]
        has_waited = settled or waited >= self._timeout
        is_doubled = self._foreign >= _DOUBLED_AFTER and self._is_foreign_near(sent_at)
        return PeerReports(others, has_waited, not reported, is_doubled)

    def _expect_own(self, own: Row | None, now: float) -> None:
        """Count a beat under this node's id that is not the last one of this process."""
        if own is None or self._beaten_at is None or own.beaten_at <= self._beaten_at:
            return
        self._foreign = self._foreign + 1 if self._is_foreign_near(now) else 1
        self._foreign_at = now

    def _is_foreign_near(self, now: float) -> bool:
        """A process that could not beat, since the database was unreachable, is not gone."""
        return now - max(self._foreign_at, self._contact) < self._timeout

    def _other(self, row: Row, sent_at: float) -> Other:
        """A node that could not beat, since the database was unreachable, is not gone."""
        silent = row.silent_seconds
        if row.node_id in self._present:
            silent = min(silent, sent_at - self._contact)
        is_recent = row.silent_seconds < sent_at - self._started
        return Other(row.node_id, row.witness, silent < self._timeout, is_recent)


class Evidence(NamedTuple):
    """All that a node knows when it decides."""

    origin: int
    is_stopped: bool
    newest: Witnessed | None
    """The newest checkpoint of the present origin in the database."""
    own: Witnessed | None
    """The node's witness."""
    reports: PeerReports
    leads: bool
    keeps: bool = True
    """True if the witness is stored in the data directory, not in memory only."""
    has_signed: bool = True
    """True if the log has a key, which comes with its first checkpoint."""
    stray: Witnessed | None = None
    """A checkpoint that somebody has, although the log has no key."""
    mark: Witnessed | None = None
    """The last signed checkpoint, as stored with the key; only a node that may sign opens it."""
    is_unseen: bool = False
    """True if the newest checkpoint is the origin's first, and was not shown."""


class Case(NamedTuple):
    """A node's situation, and why a leading node doesn't sign in it."""

    situation: str
    waits_for: str | None = None
    is_degraded: bool = False
    """True if it waits for more than time."""


# The first case that holds applies to the node. In the last three the node leads.
STOPPED = Case("the log contradicts a witness")
FOLLOWS = Case("another node leads")
UNHEARD = Case("nodes may not have reported yet", NEW_POSTGRESQL)
UNVOUCHED = Case("nobody has seen what is sealed", NO_WITNESS, is_degraded=True)
SEALS = Case("the log continues all that was seen")


class Verdict(NamedTuple):
    """The decision about a node."""

    case: Case
    contradicted: tuple[Witnessed, LogConsistency] | None = None
    """The witness that the log contradicts: signing stops for good, on all nodes."""
    advances: bool = False
    """True if the newest checkpoint of the database becomes the node's witness."""
    settles: bool = False
    """True if the node has waited for reports on this PostgreSQL."""
    is_alone: bool = False
    """True if readers see at once what is signed."""
    shows: int = 0
    """Checkpoints of at most this size may be published."""


Compare = Callable[[Witnessed], LogConsistency]
"""Compares the log with a checkpoint of the present origin."""


def judge(evidence: Evidence, compare: Compare) -> Verdict:
    if evidence.is_stopped:
        return Verdict(STOPPED)
    compare = cache(compare)
    if (fault := _removed(evidence) or _contradicted(evidence, compare)) is not None:
        return Verdict(STOPPED, fault)
    newest = evidence.newest
    own = (
        evidence.own
        if evidence.own is not None and evidence.own.origin == evidence.origin
        else None
    )
    advances = newest is not None and _advances(evidence, own, newest, compare)
    # The first node of a new ledger need not wait for others.
    is_new = newest is None and own is None and evidence.origin == 1 and evidence.reports.is_first
    verdict = Verdict(FOLLOWS, advances=advances, settles=evidence.reports.has_waited or is_new)
    if not evidence.leads:
        return verdict
    if not verdict.settles:
        return verdict._replace(case=UNHEARD)
    if own is None and newest is not None and not advances:
        return verdict._replace(case=UNVOUCHED)
    # A checkpoint that is in no file would be lost with this process.
    can_show = evidence.keeps and not evidence.reports.is_doubled
    is_alone = can_show and not any(other.lives for other in evidence.reports.others)
    shows = _visible_size(evidence, own, newest, is_alone, compare)
    return verdict._replace(case=SEALS, is_alone=is_alone, shows=shows)


def _contradicted(evidence: Evidence, compare: Compare) -> tuple[Witnessed, LogConsistency] | None:
    """The smallest witness known to this node that the log contradicts."""
    living = [other.witness for other in evidence.reports.others if other.lives]
    witnesses = [evidence.own, evidence.mark, *(living if evidence.leads else ())]
    found = [witness for witness in witnesses if witness is not None]
    for witness in found:
        if witness.origin > evidence.origin:
            return witness, LogConsistency.LATER
    ours = sorted((w for w in found if w.origin == evidence.origin), key=lambda w: w.size)
    fits = [(witness, compare(witness)) for witness in ours]
    return next(
        (fit for fit in fits if fit[1] in (LogConsistency.SHORTER, LogConsistency.OTHER)), None
    )


def _advances(
    evidence: Evidence, own: Witnessed | None, newest: Witnessed, compare: Compare
) -> bool:
    if own is not None:
        return newest.size > own.size and compare(own) is LogConsistency.SAME
    # A node killed right after it signed an origin's first checkpoint has not stored it.
    return (evidence.is_unseen and evidence.reports.has_waited) or _is_vouched(evidence)


def _removed(evidence: Evidence) -> tuple[Witnessed, LogConsistency] | None:
    """The checkpoint that was signed, if the database has lost the key or all checkpoints."""
    if not evidence.has_signed:
        return None if evidence.stray is None else (evidence.stray, LogConsistency.KEYLESS)
    if evidence.newest is None:
        return evidence.mark or Witnessed(
            evidence.origin, 0, b"", "the key"
        ), LogConsistency.EMPTIED
    return None


def _is_vouched(evidence: Evidence) -> bool:
    """Return True if a node with a witness of this origin has beaten since this node's start."""
    return any(
        other.is_recent and other.witness is not None and other.witness.origin == evidence.origin
        for other in evidence.reports.others
    )


def _visible_size(
    evidence: Evidence,
    own: Witnessed | None,
    newest: Witnessed | None,
    is_alone: bool,
    compare: Compare,
) -> int:
    """The size up to which two nodes have stored checkpoints; its own size if a node is alone.

    A witness taken in this round does not count: it may fail to be stored. The next round shows it.
    """
    if own is None or newest is None:
        return 0
    if is_alone:
        return min(own.size, newest.size)
    held = [
        other.witness.size
        for other in evidence.reports.others
        if other.witness is not None
        and other.witness.origin == evidence.origin
        and (other.lives or (other.witness.size <= newest.size))
        and compare(other.witness) is LogConsistency.SAME
    ]
    if evidence.keeps:
        held.append(own.size)
    return min(own.size, sorted([0, 0, *held])[-2])
