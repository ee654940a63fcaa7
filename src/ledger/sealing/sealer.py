"""The sealer: adds new events to the tree, and signs checkpoints of it (contract, Proof).

Events enter the tree in the order of their positions, which is the order of their commits: no event
ever appears later before a position that was read. One process at a time seals. Tiles and
checkpoint are written in one transaction, so a process that dies half-way leaves no part of them.
Before the sealer signs, it compares the tree with the last sealed event, the last checkpoint in the
database, and the last checkpoint outside. A tree that does not continue all three is not signed:
anybody with an earlier checkpoint could prove that two signed checkpoints contradict each other.

A checkpoint is kept outside before it is in the database, where readers may see it. Suppose that a
reader had seen a checkpoint that was only in the database, and that the database then lost its last
transactions (by a failover to a standby that was behind, or by a restored backup). Then the ledger
would not know of a checkpoint that the reader has. A checkpoint outside that is ahead of the
database is no contradiction, as long as the log continues up to it.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

from ledger.application.periodic import Periodic
from ledger.log.append import StoredRow
from ledger.log.recorder import is_full, read_log
from ledger.log.vault import CannotOpen, Vault
from ledger.postgres import locks
from ledger.postgres.pipeline import Pipeline, Statement
from ledger.postgres.session import DURABLE
from ledger.sealing import shelf
from ledger.sealing.leaf import UnreadableEvent, leaf_of
from ledger.sealing.note import BadNote, Checkpoint, Verifier
from ledger.sealing.shelf import Sealed
from ledger.sealing.tiles import WIDTH, GrowingTree, edge_of, root_of, tiles_of
from ledger.sealing.tree import EMPTY, Stretch, hash_leaf
from ledger.sealing.witness import Witness

_EVERY_SECONDS = 0.4
"""The sealer is then at most a second behind, including its own work and a busy machine."""

_AT_ONCE = 4_000
"""Events per checkpoint at most."""

_logger = logging.getLogger(__name__)


class DoesNotFit(Exception):
    """The tree to be signed contradicts an earlier checkpoint, or the stored tiles."""


class Sealer(Periodic):
    """Seals new events; ``run_once`` returns how many."""

    def __init__(
        self, conninfo: str, vault: Vault, clock: Callable[[], datetime], folder: Path
    ) -> None:
        super().__init__(conninfo, "sealer", locks.SEALER, _EVERY_SECONDS)
        self._vault, self._clock, self._folder = vault, clock, folder
        self._pipeline: Pipeline | None = None
        self._is_kept = True
        """Whether the last checkpoint could be kept outside of the database."""

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Seal the new events."""
        sealed = shelf.latest(connection)
        # The last sealed event is read again, since it must still be there.
        rows = read_log(self._pipeline_on(connection), sealed.position - 1, _AT_ONCE)
        try:
            last = _last_of(sealed, rows)
            if len(rows) > len(last):
                self._seal(connection, sealed, last, rows[len(last) :])
        except (DoesNotFit, UnreadableEvent, BadNote, CannotOpen) as error:
            if shelf.stop(connection, self._clock(), str(error)):
                _logger.error("sealer: nothing is signed any more: %s", error)
            return 0, False
        return len(rows) - len(last), is_full(rows, _AT_ONCE)

    def _seal(
        self,
        connection: psycopg.Connection[TupleRow],
        sealed: Sealed,
        last: Sequence[StoredRow],
        rows: Sequence[StoredRow],
    ) -> None:
        signer = shelf.signer_of(connection, self._vault)
        verifier, witness = Verifier(signer.vkey), Witness(self._folder, signer.name)
        tree = _tree_of(connection, sealed)
        _compare(connection, sealed, last, tree, verifier)
        kept = _kept(verifier, witness)
        root = _root_of(connection, (0, kept.size), tree)
        first_positions: dict[int, int] = {}
        for row in rows:
            first_positions.setdefault(tree.size // WIDTH, row[4])
            tree.add(hash_leaf(leaf_of(*row)))
            if tree.size == kept.size:
                root = tree.root()
        if kept.size > tree.size:
            raise DoesNotFit(
                f"{kept.size} events were sealed ({witness.path}), and {tree.size} are left"
            )
        if root != kept.root:
            raise DoesNotFit(f"the first {kept.size} events are not those sealed ({witness.path})")
        note = signer.sign(Checkpoint(tree.size, tree.root()))
        self._keep_outside(witness, note)
        with connection.transaction():
            shelf.keep(
                connection,
                tree.take_changed(),
                first_positions,
                Sealed(tree.size, rows[-1][4], note),
            )
            shelf.go_on(connection)

    def _keep_outside(self, witness: Witness, note: str) -> None:
        try:
            witness.keep(note)
            self._is_kept = True
        except OSError as error:
            if self._is_kept:
                _logger.error("sealer: no checkpoint can be kept outside: %s", error)
            self._is_kept = False

    def _pipeline_on(self, connection: psycopg.Connection[TupleRow]) -> Pipeline:
        if self._pipeline is None or self._pipeline.connection is not connection:
            self._pipeline = Pipeline(connection)
            # A checkpoint that a reader saw must not be lost: another might take its place.
            self._pipeline.run(Statement(DURABLE))
        return self._pipeline


def _last_of(sealed: Sealed, rows: Sequence[StoredRow]) -> Sequence[StoredRow]:
    """The last sealed event, with which the rows begin; empty if no event is sealed.

    Raises DoesNotFit if the last sealed event is gone.
    """
    if sealed.note is None:
        return ()
    if not rows or rows[0][4] != sealed.position:
        raise DoesNotFit(f"the last event that was sealed is not at position {sealed.position}")
    return rows[:1]


def _compare(
    connection: psycopg.Connection[TupleRow],
    sealed: Sealed,
    last: Sequence[StoredRow],
    tree: GrowingTree,
    verifier: Verifier,
) -> None:
    """Raise DoesNotFit if the last event, the tiles and the checkpoint contradict each other."""
    if sealed.note is not None and _opened(verifier, sealed.note, "in the database") != Checkpoint(
        tree.size, tree.root()
    ):
        raise DoesNotFit("the last checkpoint in the database is not of what is sealed")
    for row in last:
        if _root_of(connection, (tree.size - 1, tree.size), tree) != hash_leaf(leaf_of(*row)):
            raise DoesNotFit(f"the event at position {row[4]} is not the last that was sealed")


def _kept(verifier: Verifier, witness: Witness) -> Checkpoint:
    """The last checkpoint outside; that of an empty tree if there is none. Raises DoesNotFit."""
    try:
        note = witness.read()
    except OSError as error:
        raise DoesNotFit(f"{witness.path} cannot be read: {error.strerror}") from error
    return Checkpoint(0, EMPTY) if note is None else _opened(verifier, note, f"in {witness.path}")


def _opened(verifier: Verifier, note: str, where: str) -> Checkpoint:
    """The content of a checkpoint. Raises DoesNotFit if this log did not sign it."""
    try:
        return verifier.open(note)
    except BadNote as error:
        raise DoesNotFit(f"the last checkpoint {where}: {error}") from error


def _tree_of(connection: psycopg.Connection[TupleRow], sealed: Sealed) -> GrowingTree:
    """The tree as stored. Raises DoesNotFit."""
    try:
        return GrowingTree(sealed.size, shelf.tiles(connection, edge_of(sealed.size)))
    except ValueError as error:
        raise DoesNotFit(str(error)) from error


def _root_of(
    connection: psycopg.Connection[TupleRow], stretch: Stretch, tree: GrowingTree
) -> bytes | None:
    """The root over a stretch of the stored leaves; None if tiles are missing."""
    if stretch == (0, tree.size):
        return tree.root()
    try:
        return root_of(stretch, shelf.tiles(connection, tiles_of([stretch])))
    except LookupError:
        return None
