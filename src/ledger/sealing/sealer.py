"""The sealer: adds new events to the tree, and signs how far it has come (contract 6).

Events enter in the order of their positions, which is that of their commits: behind a position that
was read, none is ever filled in. One process at a time seals; tiles and checkpoint are written in
one transaction, so that one that dies half-way leaves nothing behind. Before it signs it compares
what it has found with the last checkpoint in the database, and with the last one outside. A tree
that does not go on from both is not signed: whoever has an earlier checkpoint could prove that two
of ours contradict each other.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

from ledger.application.periodic import Periodic
from ledger.sealing import shelf
from ledger.sealing.leaf import UnreadableEvent, leaf_of
from ledger.sealing.note import BadNote, Checkpoint, Signer, Verifier
from ledger.sealing.shelf import Sealed
from ledger.sealing.tiles import WIDTH, GrowingTree, edge_of, root_of, tiles_of
from ledger.sealing.tree import hash_leaf
from ledger.sealing.witness import Witness
from ledger.store import locks
from ledger.store.append import StoredRow
from ledger.store.pipeline import Pipeline, Statement
from ledger.store.recorder import is_full, read_log
from ledger.store.session import DURABLE
from ledger.store.vault import Vault

_EVERY_SECONDS = 0.4
"""At most a second behind, the work itself and a busy machine included."""

_AT_ONCE = 4_000
"""Events to a checkpoint, where there are many."""

_logger = logging.getLogger(__name__)


class DoesNotFit(Exception):
    """What there is to be signed contradicts what was signed before."""


class Sealer(Periodic):
    """``run_once`` gives the number of events that were sealed."""

    def __init__(
        self, conninfo: str, vault: Vault, clock: Callable[[], datetime], folder: Path
    ) -> None:
        super().__init__(conninfo, "sealer", locks.SEALER, _EVERY_SECONDS)
        self._vault, self._clock, self._folder = vault, clock, folder
        self._signer: Signer | None = None
        self._pipeline: Pipeline | None = None
        self._is_kept = True
        """Whether the last checkpoint is outside of the database too."""

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Seal what is new."""
        sealed = shelf.latest(connection)
        rows = read_log(self._pipeline_on(connection), sealed.position, _AT_ONCE)
        if not rows:
            return 0, False
        try:
            self._seal(connection, sealed, rows)
        except (DoesNotFit, UnreadableEvent) as error:
            if shelf.stop(connection, self._clock(), str(error)):
                _logger.error("sealer: nothing is signed any more: %s", error)
            return 0, False
        return len(rows), is_full(rows, _AT_ONCE)

    def _seal(
        self,
        connection: psycopg.Connection[TupleRow],
        sealed: Sealed,
        rows: Sequence[StoredRow],
    ) -> None:
        signer = self._signer = self._signer or shelf.signer_of(connection, self._vault)
        witness = Witness(self._folder, signer.name)
        tree = _tree_of(connection, sealed)
        self._compare(connection, sealed, tree, signer, witness)
        first_positions: dict[int, int] = {}
        for stream, version, topic, state, position in rows:
            first_positions.setdefault(tree.size // WIDTH, position)
            tree.add(hash_leaf(leaf_of(stream, version, topic, state, position)))
        note = signer.sign(Checkpoint(tree.size, tree.root()))
        with connection.transaction():
            shelf.keep(
                connection,
                tree.take_changed(),
                first_positions,
                Sealed(tree.size, rows[-1][4], note),
                self._clock(),
            )
            shelf.go_on(connection)
        # After the commit: a checkpoint that only the file knew of would never fit again.
        try:
            witness.keep(note)
            self._is_kept = True
        except OSError as error:
            if self._is_kept:
                _logger.error("sealer: no checkpoint can be kept outside: %s", error)
            self._is_kept = False

    def _compare(
        self,
        connection: psycopg.Connection[TupleRow],
        sealed: Sealed,
        tree: GrowingTree,
        signer: Signer,
        witness: Witness,
    ) -> None:
        """Raises DoesNotFit where the tree is not one that goes on from what was signed."""
        verifier = Verifier(signer.vkey)
        if sealed.note is not None and _opened(
            verifier, sealed.note, "in the database"
        ) != Checkpoint(tree.size, tree.root()):
            raise DoesNotFit("the last checkpoint in the database is not of what is sealed")
        try:
            note = witness.read()
        except OSError as error:
            raise DoesNotFit(f"{witness.path} cannot be read: {error.strerror}") from error
        if note is None:
            return
        kept = _opened(verifier, note, f"in {witness.path}")
        if kept.size > tree.size:
            raise DoesNotFit(
                f"{kept.size} events were sealed ({witness.path}), and {tree.size} are left"
            )
        if _root_at(connection, kept.size, tree) != kept.root:
            raise DoesNotFit(f"the first {kept.size} events are not those sealed ({witness.path})")

    def _pipeline_on(self, connection: psycopg.Connection[TupleRow]) -> Pipeline:
        if self._pipeline is None or self._pipeline.connection is not connection:
            self._pipeline = Pipeline(connection)
            # A checkpoint that was shown must not be lost: another one might follow in its place.
            self._pipeline.run(Statement(DURABLE))
        return self._pipeline


def _opened(verifier: Verifier, note: str, where: str) -> Checkpoint:
    """What a checkpoint says. Raises DoesNotFit where it is none of ours."""
    try:
        return verifier.open(note)
    except BadNote as error:
        raise DoesNotFit(f"the last checkpoint {where}: {error}") from error


def _tree_of(connection: psycopg.Connection[TupleRow], sealed: Sealed) -> GrowingTree:
    """The tree as it is kept. Raises DoesNotFit."""
    try:
        return GrowingTree(sealed.size, shelf.tiles(connection, edge_of(sealed.size)))
    except ValueError as error:
        raise DoesNotFit(str(error)) from error


def _root_at(
    connection: psycopg.Connection[TupleRow], size: int, tree: GrowingTree
) -> bytes | None:
    """The root that the tree had at a size; None where tiles are missing."""
    if size == tree.size:
        return tree.root()
    try:
        return root_of((0, size), shelf.tiles(connection, tiles_of([(0, size)])))
    except LookupError:
        return None
