"""Compares the log with checkpoints, and grows the stored tree by the events after it."""

from collections.abc import Sequence

from ledger.engine.log.append import StoredRow
from ledger.engine.log.event_log import is_full, read_log
from ledger.engine.postgres.pipeline import Pipeline
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.leaf import leaf_of
from ledger.features.proof.sealing.note import Checkpoint
from ledger.features.proof.sealing.peers import LogConsistency, Witnessed
from ledger.features.proof.sealing.shelf import Sealed
from ledger.features.proof.sealing.tiles import HASH, WIDTH, GrowingTree, edge_of, root_of, tiles_of
from ledger.features.proof.sealing.tree import Span, consistency, grown_from, hash_leaf
from ledger.features.proof.sealing.watch import CannotSign

AT_ONCE = 4_000
"""Events per checkpoint at most, unless a witness has more."""

_TILE = "SELECT hashes, first_position FROM ledger.tile WHERE (level, number) = (0, %s)"


class Contradiction(Exception):
    """The log is not the log that was sealed."""


def compare_with_tree(
    connection: shelf.Connection, newest: Checkpoint | None, witness: Witnessed
) -> LogConsistency:
    """Compare an earlier checkpoint with the tree of the newest one, by the stored tiles.

    The newest checkpoint commits to these tiles, so an altered tile is no contradiction. Raises
    CannotSign if tiles are missing or altered.
    """
    if newest is None or witness.size > newest.size:
        return LogConsistency.UNKNOWN
    if witness.size == newest.size:
        return LogConsistency.SAME if witness.root == newest.root else LogConsistency.OTHER
    spans: list[Span] = consistency(witness.size, newest.size)
    if witness.size & (witness.size - 1) == 0:
        spans = [(0, witness.size), *spans]
    try:
        stored = shelf.tiles(connection, tiles_of(spans))
        hashes = [root_of(span, stored) for span in spans]
    except LookupError as error:
        raise CannotSign("tiles of the sealed tree are missing") from error
    old, new = grown_from(witness.size, newest.size, hashes)
    if new != newest.root:
        raise CannotSign("the stored tiles are not those of the last checkpoint")
    return LogConsistency.SAME if old == witness.root else LogConsistency.OTHER


class Growth:
    """The tree in one round: first as it is stored, then as it grows."""

    def __init__(
        self,
        connection: shelf.Connection,
        pipeline: Pipeline,
        sealed: Sealed,
        newest: Checkpoint | None,
        agreed: set[tuple[int, bytes]],
    ) -> None:
        """``agreed`` has checkpoints already found to be of this log; new ones are added.

        Raises Contradiction if the last sealed event is gone, or is another one.
        """
        self._connection, self._pipeline = connection, pipeline
        self._sealed, self._agreed = sealed, agreed
        self._newest = newest
        self._tree: GrowingTree | None = None
        self._fits: dict[tuple[int, bytes], LogConsistency] = {}
        self.first_positions: dict[int, int] = {}
        """The position of the first event of each tile of leaves that has begun."""
        # Read the last sealed event again, since it must still be there.
        rows = read_log(pipeline, sealed.position - 1 if sealed.size else 0, AT_ONCE)
        self.is_full = is_full(rows, AT_ONCE)
        """True if the log may have more events than were read."""
        self.last: StoredRow | None = None
        if sealed.size:
            if not rows or rows[0][4] != sealed.position:
                self._blame(f"the last event that was sealed is not at position {sealed.position}")
            self.last = rows[0]
        self._ahead: Sequence[StoredRow] = rows[1:] if sealed.size else rows

    @property
    def has_events(self) -> bool:
        return bool(self._ahead)

    @property
    def tree_is_sealed(self) -> bool:
        """Return True if the present tree has a checkpoint, or there is nothing to sign."""
        if self._tree is not None and self._tree.size > self._sealed.size:
            return False
        return self._newest is not None or not self._sealed.size

    @property
    def tree(self) -> GrowingTree:
        """Raises CannotSign or Contradiction if the stored data do not fit together."""
        if self._tree is None:
            self._tree = self._load()
        return self._tree

    def require_tree(self) -> None:
        """Raises CannotSign or Contradiction if the stored data do not fit together."""
        self._tree = self._tree or self._load()

    def compare(self, witness: Witnessed) -> LogConsistency:
        """Compare the log with a checkpoint; grow the tree if the checkpoint is ahead of it."""
        key = witness.size, witness.root
        if key not in self._fits:
            self._fits[key] = self._compare(witness)
        if self._fits[key] is LogConsistency.SAME:
            self._agreed.add(key)
        return self._fits[key]

    def _compare(self, witness: Witnessed) -> LogConsistency:
        if witness.size <= self._sealed.size:
            # A signed checkpoint continues all that agreed before. A witness ahead of the newest
            # one is compared in each round: the log may have been restored.
            if (witness.size, witness.root) in self._agreed:
                return LogConsistency.SAME
            tree = self._newest or Checkpoint(self.tree.size, self.tree.root())
            return compare_with_tree(self._connection, tree, witness)
        while self.tree.size < witness.size:
            if not self._ahead and not self._read():
                return LogConsistency.SHORTER
            self._add(self._ahead[: witness.size - self.tree.size])
        return LogConsistency.SAME if self.tree.root() == witness.root else LogConsistency.OTHER

    def grow(self) -> None:
        """Add the events that were read and are not in the tree yet."""
        self._add(self._ahead)

    def _add(self, rows: Sequence[StoredRow]) -> None:
        tree = self.tree
        for row in rows:
            self.first_positions.setdefault(tree.size // WIDTH, row[4])
            tree.add(hash_leaf(leaf_of(*row)))
            self.last = row
        self._ahead = self._ahead[len(rows) :]

    def _read(self) -> bool:
        if self.is_full and self.last is not None:
            self._ahead = read_log(self._pipeline, self.last[4], AT_ONCE)
            self.is_full = is_full(self._ahead, AT_ONCE)
        return bool(self._ahead)

    def _load(self) -> GrowingTree:
        sealed = self._sealed
        try:
            stored = shelf.tiles(self._connection, edge_of(sealed.size))
            tree = GrowingTree(sealed.size, stored)
        except ValueError as error:
            raise CannotSign(str(error)) from error
        if self._newest is not None and self._newest != Checkpoint(tree.size, tree.root()):
            raise CannotSign("the last checkpoint in the database is not of what is sealed")
        if self.last is not None:
            leaf, span = hash_leaf(leaf_of(*self.last)), (tree.size - 1, tree.size)
            try:
                is_last = root_of(span, shelf.tiles(self._connection, tiles_of([span]))) == leaf
            except LookupError:
                is_last = False
            if not is_last:
                self._blame(f"the event at position {self.last[4]} is not the last that was sealed")
        return tree

    def _blame(self, says: str) -> None:
        """Raise Contradiction if the log's last events are not those sealed, else CannotSign."""
        number, count = divmod(self._sealed.size - 1, WIDTH)
        row = self._connection.execute(_TILE, (number,), binary=True).fetchone()
        if row is None:
            raise CannotSign(says)
        rows = read_log(self._pipeline, row[1] - 1, count + 1)
        leaves = b"".join(hash_leaf(leaf_of(*event)) for event in rows)
        is_log = leaves == row[0][: (count + 1) * HASH]
        raise CannotSign(says) if is_log else Contradiction(says)
