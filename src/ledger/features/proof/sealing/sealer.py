"""The sealer: adds new events to the tree, and signs its checkpoints (contract, Proof).

Events enter the tree in the order of their positions, which is the order of their commits: no event
ever appears later before a position that was read. One process at a time seals. One transaction
writes tiles and checkpoint, so a process that dies half-way leaves neither. Before the sealer
signs, it compares the tree with the last sealed event, with the last checkpoint in the database,
and with the witnesses of all living nodes. It signs no tree that does not continue all of them: two
signed checkpoints would contradict each other, and anybody with the earlier one could prove it.
``peers.py`` decides; this module reads and writes.

The sealer keeps a checkpoint outside before it writes the checkpoint to the database, where other
nodes see it. Readers see the checkpoint only once a second node has kept it too. Otherwise a reader
could have a checkpoint of which the ledger knows nothing: the database may lose its last
transactions, by a failover to a standby that was behind or by a restored backup. A witness ahead of
the database is no contradiction if the log continues up to it.
"""

import logging
from collections.abc import Callable
from datetime import datetime

from ledger.engine.log.vault import CannotOpen, Vault
from ledger.engine.postgres.pipeline import Pipeline, Statement
from ledger.engine.postgres.session import DURABLE
from ledger.engine.writer.periodic import LeaderSession, Periodic
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.growth import Contradiction, Growth
from ledger.features.proof.sealing.leaf import UnreadableEvent
from ledger.features.proof.sealing.note import BadNote, Checkpoint, Signer
from ledger.features.proof.sealing.peers import (
    SEALS,
    Case,
    LogConsistency,
    Verdict,
    Witnessed,
    judge,
)
from ledger.features.proof.sealing.shelf import Mark, Sealed
from ledger.features.proof.sealing.watch import CannotSign, Inspection, WitnessWatch

_EVERY_SECONDS = 0.4
"""Keeps the sealer at most a second behind, including its own work and a busy machine."""

_IDLE_SECONDS = 3.0
"""The pause while nothing is left to seal or show, and no append is notified."""

_HEAR_SECONDS = 0.1
"""The interval of checks for the notification of an append."""

_REMEMBERED = 1_000
"""The most checkpoints remembered as checkpoints of this log."""

_logger = logging.getLogger(__name__)


class _Overtaken(Exception):
    """The database has changed since it was read: the next round reads it again."""


class Sealer(Periodic):
    """Seals new events; ``run_once`` returns how many."""

    def __init__(
        self,
        session: LeaderSession,
        vault: Vault,
        clock: Callable[[], datetime],
        watch: WitnessWatch,
    ) -> None:
        super().__init__(session, "sealer", _EVERY_SECONDS)
        self._vault, self._clock, self._watch = vault, clock, watch
        self._pipeline: Pipeline | None = None
        self._agreed: set[tuple[int, bytes]] = set()
        """Checkpoints that belong to the log, as found on this connection."""
        self._why: str | None = None

    def is_called(self) -> bool:
        """Return True if an append was notified since a round that left nothing to do."""
        is_idle = self._every == _IDLE_SECONDS
        return is_idle and self._pipeline is not None and self._pipeline.wait(0) > 0

    def _pause(self) -> float:
        return min(super()._pause(), _HEAR_SECONDS)

    def work(self, connection: shelf.Connection) -> tuple[int, bool]:
        self._every = _EVERY_SECONDS
        pipeline = self._pipeline_on(connection)
        pipeline.wait(0)  # this round seals what was notified
        try:
            signer, mark, inspection = self._inspect(connection)
        except (BadNote, CannotOpen, CannotSign) as error:
            postponed = self._postpone(connection, str(error))
            # The file of the witness may be damaged on this node alone.
            self.session.leave()
            return postponed
        if inspection.evidence.is_stopped:
            return 0, False
        try:
            return self._seal(connection, pipeline, signer, mark, inspection)
        except Contradiction as error:
            self._contradict(connection, inspection, str(error))
        except (BadNote, CannotOpen, CannotSign, UnreadableEvent) as error:
            return self._postpone(connection, str(error))
        except _Overtaken:
            pass
        return 0, False

    def _inspect(self, connection: shelf.Connection) -> tuple[Signer, Mark | None, Inspection]:
        try:
            inspection = self._watch.inspect(connection, leads=True)
        except CannotSign:
            shelf.signer_of(connection, self._vault)  # a damaged key explains more
            raise
        if inspection.state.secret is None:
            return self._watch.newborn, None, inspection
        signer, mark = shelf.opened(self._vault, inspection.state.vkey, inspection.state.secret)
        return signer, mark, inspection.with_mark(mark)

    def _seal(
        self,
        connection: shelf.Connection,
        pipeline: Pipeline,
        signer: Signer,
        mark: Mark | None,
        inspection: Inspection,
    ) -> tuple[int, bool]:
        sealed = inspection.state.sealed
        if len(self._agreed) > _REMEMBERED:
            self._agreed.clear()
        growth = Growth(connection, pipeline, sealed, inspection.newest, self._agreed)
        verdict = judge(inspection.evidence, growth.compare)
        if verdict.contradicted is not None:
            raise Contradiction(_reason(*verdict.contradicted, growth))
        if verdict.advances:
            self._watch.follow(inspection)
        self._tell_waiting(connection, inspection, verdict.case)
        if verdict.case is not SEALS:
            return 0, False
        if verdict.shows > inspection.state.shown_size:
            shelf.show(connection, inspection.state.vkey, verdict.shows)
        if not growth.has_events and growth.tree_is_sealed:
            if inspection.state.error is not None:
                self._note_mended(connection, growth)
            if inspection.state.shown_size >= sealed.size and inspection.state.error is None:
                self._every = _IDLE_SECONDS
            return 0, False
        growth.grow()
        self._sign(connection, inspection, verdict, growth, signer, mark)
        return growth.tree.size - sealed.size, growth.is_full

    def _sign(
        self,
        connection: shelf.Connection,
        inspection: Inspection,
        verdict: Verdict,
        growth: Growth,
        signer: Signer,
        mark: Mark | None,
    ) -> None:
        if growth.last is None:
            return
        state, checkpoint = inspection.state, Checkpoint(growth.tree.size, growth.tree.root())
        note = signer.sign(checkpoint)
        # The previous mark is authentic; the number in the database may have been altered.
        mark = Mark(1 if mark is None else mark.number + 1, growth.last[4], note)
        with connection.transaction():
            if not state.has_signed and not shelf.begin(connection, self._vault, signer, mark):
                raise _Overtaken
            if not shelf.is_unchanged(connection, state.vkey, state.sealed, growth.last):
                raise _Overtaken
            if state.has_signed:
                self._watch.store(inspection.verifier, note)
                shelf.mark(connection, shelf.sealed_secret(self._vault, signer, mark))
            shelf.keep(
                connection,
                growth.tree.pop_changed(),
                growth.first_positions,
                Sealed(checkpoint.size, growth.last[4], note),
            )
            shelf.go_on(connection)
            if state.has_signed and verdict.is_alone and self._watch.keeps:
                shelf.show(connection, state.vkey, checkpoint.size)
        if not state.has_signed:
            self._keep_first(connection, inspection, verdict, note)
        self._agreed.add(checkpoint)

    def _keep_first(
        self, connection: shelf.Connection, inspection: Inspection, verdict: Verdict, note: str
    ) -> None:
        """Make the first checkpoint of a key the witness, once it is in the database.

        If the transaction were lost, the witness of its lost key would forbid every other key.
        """
        self._watch.store(inspection.verifier, note)
        if verdict.is_alone and self._watch.keeps:
            shelf.show(connection, inspection.state.vkey, inspection.verifier.open(note).size)

    def _tell_waiting(
        self, connection: shelf.Connection, inspection: Inspection, case: Case
    ) -> None:
        """Log why nothing is signed; store it in the database too if time alone won't help."""
        reason = case.waits_for if case.is_degraded else None
        if reason != inspection.state.waits_for:
            shelf.wait(connection, inspection.state.vkey, reason)
        if case.waits_for not in (None, self._why):
            _logger.warning("sealer: nothing is signed yet: %s", case.waits_for)
        self._why = case.waits_for

    def _postpone(self, connection: shelf.Connection, why: str) -> tuple[int, bool]:
        """Store the reason that an operator must fix before anything is signed."""
        is_new = shelf.stop(connection, self._clock(), why)
        if not is_new and why != self._why:
            is_new = not shelf.has_key(connection)  # a log without a key has no row for the reason
            self._why = why
        if is_new:
            _logger.error("sealer: nothing is signed any more: %s", why)
        return 0, False

    def _note_mended(self, connection: shelf.Connection, growth: Growth) -> None:
        """Clear the error, although there is nothing to sign: its cause is gone.

        Raises CannotSign, BadNote or CannotOpen if another cause is left.
        """
        growth.require_tree()
        shelf.signer_of(connection, self._vault)
        shelf.go_on(connection)

    def _contradict(self, connection: shelf.Connection, inspection: Inspection, why: str) -> None:
        """Stop for good. If the log's key is gone, create another one, for adoption only."""
        at, state = self._clock(), inspection.state
        if state.has_signed:
            is_new = shelf.contradict(connection, state.vkey, at, why)
        else:
            signer = self._watch.newborn
            is_new = shelf.begin(connection, self._vault, signer, at=at, error=why)
        if is_new:
            _logger.error("sealer: nothing is signed any more: %s", why)

    def _pipeline_on(self, connection: shelf.Connection) -> Pipeline:
        if self._pipeline is None or self._pipeline.connection is not connection:
            self._pipeline = Pipeline(connection)
            self._agreed.clear()  # it may be another server
            # A checkpoint that a reader saw must not be lost: another might take its place.
            channels = b"ledger_events", b"ledger_views"  # an append with views notifies of these
            listens = [Statement(b"LISTEN " + channel) for channel in channels]
            self._pipeline.run(Statement(DURABLE), *listens)
        return self._pipeline


def _reason(witness: Witnessed, fit: LogConsistency, growth: Growth) -> str:
    if fit is LogConsistency.SHORTER:
        return (
            f"{witness.size} events were sealed ({witness.where}), and {growth.tree.size} are left"
        )
    if fit is LogConsistency.KEYLESS:
        return f"{fit.value}, and {witness.size} events were sealed ({witness.where})"
    if fit is LogConsistency.EMPTIED:
        return f"{fit.value}{f': {witness.size} events were sealed' if witness.size else ''}"
    if fit is LogConsistency.LATER:
        return f"origin {witness.origin} was begun ({witness.where}), and the log has lost that"
    return f"the first {witness.size} events are not those sealed ({witness.where})"
