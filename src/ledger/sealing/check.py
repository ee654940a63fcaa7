"""The sealed log compared with the stored events: every leaf, every checkpoint (contract 1, 6).

Each layer is compared with the one that it is made of: leaves with the events, tiles with the
leaves, checkpoints with the tree, the last checkpoint outside with it too. It goes through the log
once, in the order of positions, and holds a tile's worth of events at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.sealing import shelf
from ledger.sealing.leaf import UnreadableEvent, leaf_of
from ledger.sealing.note import BadNote, Checkpoint
from ledger.sealing.tiles import HASH, WIDTH, GrowingTree, Tile
from ledger.sealing.tree import hash_leaf
from ledger.sealing.witness import Witness

Report = Callable[[str], None]
Progress = Callable[[int, int], None]

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events WHERE notification_id <= %s ORDER BY notification_id
"""
_LEAVES = """
SELECT number, hashes, first_position, lead(first_position) OVER (ORDER BY number) - 1
FROM ledger.tile WHERE level = 0 ORDER BY number
"""
_ABOVE = "SELECT level, number, hashes FROM ledger.tile WHERE level > 0"
_CHECKPOINTS = "SELECT size, position, note FROM ledger.checkpoint ORDER BY size"
_UNSEALED = "SELECT count(*) FROM ledger.ledger_events WHERE notification_id > %s"

_AT_ONCE = 256
"""Rows of a cursor; an event may have a quarter of a megabyte."""


class Checked(NamedTuple):
    """What was looked at, and how many faults were found."""

    events: int
    checkpoints: int
    unsealed: int
    faults: int


class _Signed(NamedTuple):
    """A checkpoint that is to be compared, and what to call it."""

    size: int
    position: int | None
    """Of its last event; None of the one outside of the database."""
    note: str
    name: str


class _Leaf(NamedTuple):
    """What an event makes: no hash where it cannot be read."""

    position: int
    hash: bytes | None


def check(conninfo: str, folder: Path, report: Report, progress: Progress) -> Checked:
    """Compare all that is sealed, as it is at one instant; ``report`` is told each fault in a line.

    ``folder`` is where the last checkpoint is kept outside of the database; ``progress`` is told
    how many events were compared, and of how many. Raises BadNote where the log's key is damaged.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return _Check(connection, folder, report, progress).run()


class _Check:
    """One look at everything, and the tree that it grows meanwhile from the leaves as sealed."""

    def __init__(
        self, connection: shelf.Connection, folder: Path, report: Report, progress: Progress
    ) -> None:
        self._connection, self._report, self._progress = connection, report, progress
        self._sealed = shelf.latest(connection)
        self._verifier = shelf.verifier_of(connection)
        self._witness = Witness(folder, self._verifier.name)
        self._events = self._read(_EVENTS, self._sealed.position)
        self._event = next(self._events, None)
        self._tree = GrowingTree(0, {})
        self._above: dict[Tile, bytes] = {}
        self._checkpoints = self._faults = 0

    def run(self) -> Checked:
        """Go through the log once."""
        signed = self._signed()
        due = next(signed, None)
        for number, hashes, first, last in self._read(_LEAVES):
            if number * WIDTH != self._tree.size:
                self._fault(f"the tile of leaf {self._tree.size} is missing")
                break
            sealed = [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]
            made = self._made_until(self._sealed.position if last is None else last)
            self._compare_leaves(first, sealed, made)
            is_whole = len(made) == len(sealed)
            for at, leaf in enumerate(sealed):
                self._tree.add(leaf)
                while due is not None and due.size == self._tree.size:
                    self._compare_root(due, made[at].position if is_whole else None)
                    due = next(signed, None)
            self._above |= {tile: h for tile, h in self._tree.take_changed().items() if tile[0]}
            self._progress(self._tree.size, self._sealed.size)
        while due is not None:
            self._fault(f"{due.name} is of {due.size} events, and {self._tree.size} are sealed")
            due = next(signed, None)
        self._compare_above()
        ((unsealed,),) = self._read(_UNSEALED, self._sealed.position)
        return Checked(self._tree.size, self._checkpoints, unsealed, self._faults)

    def _read(self, statement: LiteralString, *values: int) -> Iterator[TupleRow]:
        """A statement's rows, a few at a time."""
        with self._connection.cursor(f"c{id(statement)}") as cursor:
            cursor.itersize = _AT_ONCE
            yield from cursor.execute(statement, values)

    def _signed(self) -> Iterator[_Signed]:
        """All checkpoints by size, that outside of the database among them."""
        kept = (
            _Signed(size, position, note, f"checkpoint {size}")
            for size, position, note in self._read(_CHECKPOINTS)
        )
        outside = []
        name = f"the checkpoint in {self._witness.path}"
        try:
            if (note := self._witness.read()) is not None:
                outside.append(_Signed(self._verifier.open(note).size, None, note, name))
        except (BadNote, OSError) as error:
            self._fault(f"{name}: {error}")
        return merge(kept, outside, key=attrgetter("size"))

    def _made_until(self, position: int) -> list[_Leaf]:
        """The leaves of the next events, up to a position."""
        made = []
        while self._event is not None and self._event[4] <= position:
            stream, version, topic, state, at = self._event
            try:
                made.append(_Leaf(at, hash_leaf(leaf_of(stream, version, topic, state, at))))
            except UnreadableEvent:
                made.append(_Leaf(at, None))
            self._event = next(self._events, None)
        return made

    def _compare_leaves(self, first: int, sealed: Sequence[bytes], made: Sequence[_Leaf]) -> None:
        if len(made) == len(sealed):
            for leaf, is_sealed in zip(made, sealed, strict=True):
                if leaf.hash != is_sealed:
                    self._fault(f"position {leaf.position}: not the event that was sealed")
            return
        # Something is missing, or was put in: name what has no counterpart.
        known = set(sealed)
        for leaf in made:
            if leaf.hash not in known:
                self._fault(f"position {leaf.position}: an event that was not sealed")
        there = {leaf.hash for leaf in made}
        missing = [at for at, leaf in enumerate(sealed, self._tree.size) if leaf not in there]
        if missing:
            leaves = ", ".join(map(str, missing))
            self._fault(f"from position {first} on: no event is there of the leaves {leaves}")

    def _compare_root(self, signed: _Signed, position: int | None) -> None:
        """A checkpoint with the tree, which has as many leaves now."""
        self._checkpoints += signed.position is not None
        try:
            said = self._verifier.open(signed.note)
        except BadNote as error:
            self._fault(f"{signed.name}: {error}")
            return
        if said != Checkpoint(self._tree.size, self._tree.root()):
            self._fault(f"{signed.name}: not of what is sealed")
        elif position is not None and signed.position not in (None, position):
            self._fault(f"{signed.name}: its last event is not at position {signed.position}")

    def _compare_above(self) -> None:
        """What is kept of the tree above its leaves with what they make."""
        kept = {(level, number): hashes for level, number, hashes in self._read(_ABOVE)}
        for level, number in sorted(kept.keys() | self._above.keys()):
            if kept.get((level, number)) != self._above.get((level, number)):
                self._fault(f"tile {number} of level {level}: not what the leaves make")

    def _fault(self, line: str) -> None:
        self._faults += 1
        self._report(line)
