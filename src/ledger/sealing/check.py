"""The sealed log compared with the stored events (contract, Command line and Proof).

Each layer is compared with the layer below it: leaves with the events, tiles with the leaves, the
checkpoints with the tree, including the last checkpoint outside of the database. Each row's column
``recorded_at``, by which reads of the past select, is compared with the stored event, also for
events that are not sealed yet. The check goes through the log once, in the order of positions, and
holds one tile's worth of events at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.domain.values import format_instant
from ledger.sealing import shelf
from ledger.sealing.leaf import UnreadableEvent, leaf_and_instant
from ledger.sealing.note import BadNote, Checkpoint
from ledger.sealing.tiles import HASH, WIDTH, GrowingTree, Tile
from ledger.sealing.tree import hash_leaf
from ledger.sealing.witness import Witness

Report = Callable[[str], None]
Progress = Callable[[int, int], None]

# The column recorded_at as the JSON text that leaves have, to the microsecond. The text does not
# depend on the session's time zone and date style, and exists for every value that the column can
# hold (also infinity, which no datetime can represent).
_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id,
    coalesce(left(to_json(recorded_at AT TIME ZONE 'UTC')::text, -1) || 'Z"', 'null')
FROM ledger.ledger_events ORDER BY notification_id
"""
_LEAVES = """
SELECT number, hashes, first_position, lead(number) OVER tile, lead(first_position) OVER tile - 1
FROM ledger.tile WHERE level = 0 WINDOW tile AS (ORDER BY number) ORDER BY number
"""
_ABOVE = "SELECT level, number, hashes FROM ledger.tile WHERE level > 0"
_CHECKPOINTS = "SELECT size, position, note FROM ledger.checkpoint ORDER BY size"
_UNSEALED = "SELECT count(*) FROM ledger.ledger_events WHERE notification_id > %s"

_UNREADABLE = "the stored event cannot be read"

_decode_instant = msgspec.json.Decoder(datetime).decode

_AT_ONCE = 256
"""Rows that a cursor fetches at a time; an event may have a quarter of a megabyte."""


class Checked(NamedTuple):
    """How much was checked, and how many faults were found."""

    events: int
    checkpoints: int
    unsealed: int
    faults: int


class _Signed(NamedTuple):
    """A checkpoint to be compared, and its name in a fault."""

    size: int
    position: int | None
    """The position of its last event; None for the checkpoint outside of the database."""
    note: str
    name: str


class _Leaf(NamedTuple):
    """A stored event's leaf; without a hash if the event cannot be read."""

    position: int
    hash: bytes | None
    difference: str | None = None
    """How the row's column ``recorded_at`` differs from the event."""


def check(conninfo: str, folder: Path, report: Report, progress: Progress) -> Checked:
    """Compare the whole sealed log, in one snapshot; ``report`` gets each fault as a line.

    ``folder`` holds the last checkpoint outside of the database. ``progress`` gets the number of
    events compared, and the number of all. Raises BadNote if the log's key is damaged.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        return _Check(connection, folder, report, progress).run()


class _Check:
    """One check, and the tree that it grows from the sealed leaves."""

    def __init__(
        self, connection: shelf.Connection, folder: Path, report: Report, progress: Progress
    ) -> None:
        self._connection, self._report, self._progress = connection, report, progress
        self._checkpoints = self._faults = 0
        self._verifier = shelf.verifier_of(connection)
        # The file is read before the snapshot: its events are then in the snapshot.
        self._outside = list(self._read_outside(Witness(folder, self._verifier.name)))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        self._sealed = shelf.latest(connection)
        self._events = self._read_events()
        self._ahead: deque[_Leaf] = deque()
        """Events that were read, and not yet compared with a tile."""
        self._tree = GrowingTree(0, {})
        self._above: dict[Tile, bytes] = {}

    def run(self) -> Checked:
        """Go through the log once."""
        signed = self._signed()
        due = next(signed, None)
        for number, hashes, first, *beyond in self._read(_LEAVES):
            if number * WIDTH != self._tree.size:
                break
            leaves = [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]
            positions = self._compare_leaves(
                number, first, leaves, self._end_of(number, len(leaves), *beyond)
            )
            for at, leaf in enumerate(leaves):
                self._tree.add(leaf)
                while due is not None and due.size == self._tree.size:
                    self._compare_root(due, positions[at] if positions else None)
                    due = next(signed, None)
            self._above |= {tile: h for tile, h in self._tree.take_changed().items() if tile[0]}
            self._progress(self._tree.size, self._sealed.size)
        found = self._tree.size
        if found < self._sealed.size:
            self._fault(f"the tile of leaf {found} is missing")
        elif found > self._sealed.size:
            covered = self._sealed.size
            self._fault(f"{found} events are sealed, and the last checkpoint covers {covered}")
        self._compare_above()
        for signed_beyond in chain(filter(None, [due]), signed):
            self._compare_beyond(signed_beyond, found)
        self._read_unsealed()
        ((unsealed,),) = self._read(_UNSEALED, self._sealed.position)
        return Checked(found, self._checkpoints, unsealed, self._faults)

    def _read(self, statement: LiteralString, *values: int) -> Iterator[TupleRow]:
        """A statement's rows, a few at a time."""
        with self._connection.cursor(f"c{id(statement)}") as cursor:
            cursor.itersize = _AT_ONCE
            yield from cursor.execute(statement, values)

    def _read_events(self) -> Iterator[_Leaf]:
        for stream, version, topic, state, at, column in self._read(_EVENTS):
            try:
                leaf, instant = leaf_and_instant(stream, version, topic, state, at)
            except UnreadableEvent:
                yield _Leaf(at, None)
                continue
            is_alike = column.encode() == instant
            yield _Leaf(at, hash_leaf(leaf), None if is_alike else _difference(column, instant))

    def _read_unsealed(self) -> None:
        """Check the events that no tile was compared with."""
        for leaf in self._coming(None):
            if leaf.hash is None and leaf.position > self._sealed.position:
                self._fault(f"position {leaf.position}: {_UNREADABLE}")
            self._compare_column(leaf)

    def _read_outside(self, witness: Witness) -> Iterator[_Signed]:
        name = f"the checkpoint in {witness.path}"
        try:
            if (note := witness.read()) is not None:
                yield _Signed(self._verifier.open(note).size, None, note, name)
        except (BadNote, OSError) as error:
            self._fault(f"{name}: {error}")

    def _signed(self) -> Iterator[_Signed]:
        """All checkpoints by size, including the one outside of the database."""
        kept = (
            _Signed(size, position, note, f"checkpoint {size}")
            for size, position, note in self._read(_CHECKPOINTS)
        )
        return merge(kept, self._outside, key=attrgetter("size"))

    def _end_of(
        self, number: int, count: int, next_number: int | None, end: int | None
    ) -> int | None:
        """The last position that a tile's events may have; None if the next tile is missing."""
        if next_number is not None:
            return end if next_number == number + 1 else None
        return self._sealed.position if number * WIDTH + count == self._sealed.size else None

    def _compare_leaves(
        self, number: int, first: int, leaves: Sequence[bytes], end: int | None
    ) -> Sequence[int]:
        """Compare a tile with the next events; return their positions if none is missing."""
        self._ahead.extend(islice(self._events, max(0, len(leaves) - len(self._ahead))))
        if [leaf.hash for leaf in islice(self._ahead, len(leaves))] == leaves:
            positions = [self._compare_column(self._ahead.popleft()) for _ in leaves]
            if positions and positions[0] != first:
                self._fault(f"tile {number} of level 0: its first event is not at position {first}")
            return positions
        coming = self._coming(end)
        made = list(islice(coming, len(leaves) + (end is not None)))
        if end is None or len(made) == len(leaves):
            for leaf, is_sealed in zip(made, leaves, strict=False):
                if leaf.hash != is_sealed:
                    self._fault(f"position {leaf.position}: not the event that was sealed")
                else:
                    self._compare_column(leaf)
            return [leaf.position for leaf in made] if len(made) == len(leaves) else ()
        # Events are missing or were inserted: name the leaves and events without a counterpart.
        known, there = set(leaves), set()
        for leaf in chain(made, coming):
            if leaf.hash in known:
                there.add(leaf.hash)
                self._compare_column(leaf)
            else:
                self._fault(f"position {leaf.position}: an event that was not sealed")
        missing = [at for at, leaf in enumerate(leaves, self._tree.size) if leaf not in there]
        if missing:
            named = ", ".join(map(str, missing))
            self._fault(f"from position {first} on: the events of the leaves {named} are missing")
        return ()

    def _coming(self, end: int | None) -> Iterator[_Leaf]:
        """The next events, up to the position ``end`` if given."""
        while True:
            if not self._ahead:
                self._ahead.extend(islice(self._events, 1))
            if not self._ahead or (end is not None and self._ahead[0].position > end):
                return
            yield self._ahead.popleft()

    def _compare_column(self, leaf: _Leaf) -> int:
        """Compare an event's row with the event; return its position.

        An event that is not the sealed one is not compared: its position is reported already, and
        its content cannot be trusted.
        """
        if leaf.difference is not None:
            self._fault(f"position {leaf.position}: {leaf.difference}")
        return leaf.position

    def _compare_root(self, signed: _Signed, position: int | None) -> None:
        """Compare a checkpoint with the tree, which has exactly its number of leaves now."""
        self._checkpoints += signed.position is not None
        try:
            checkpoint = self._verifier.open(signed.note)
        except BadNote as error:
            self._fault(f"{signed.name}: {error}")
            return
        if checkpoint != Checkpoint(self._tree.size, self._tree.root()):
            self._fault(f"{signed.name}: does not match the sealed tree")
        elif position is not None and signed.position not in (None, position):
            self._fault(f"{signed.name}: its last event is not at position {signed.position}")

    def _compare_beyond(self, signed: _Signed, found: int) -> None:
        """Compare a checkpoint of more events than are sealed.

        The checkpoint outside is written before the one in the database, so it may be ahead.
        """
        if signed.position is not None or found != self._sealed.size:
            self._fault(f"{signed.name} covers {signed.size} events, and {found} are sealed")
            return
        for leaf in self._coming(None):
            if leaf.hash is None:
                self._fault(f"position {leaf.position}: {_UNREADABLE}")
                break
            self._compare_column(leaf)
            self._tree.add(leaf.hash)
            if self._tree.size == signed.size:
                self._compare_root(signed, None)
                return
        self._fault(f"{signed.name} covers {signed.size} events, and the log has {self._tree.size}")

    def _compare_above(self) -> None:
        """Compare the stored tiles above the leaves with the tree that the leaves make."""
        kept = {(level, number): hashes for level, number, hashes in self._read(_ABOVE)}
        for level, number in sorted(kept.keys() | self._above.keys()):
            if kept.get((level, number)) != self._above.get((level, number)):
                self._fault(f"tile {number} of level {level}: does not match the leaves")

    def _fault(self, line: str) -> None:
        self._faults += 1
        self._report(line)


def _difference(column: str, instant: bytes) -> str:
    """The difference between a row's column and its event's instant; both are JSON."""
    try:
        stored = format_instant(_decode_instant(instant))
    except (ValueError, msgspec.MsgspecError):
        return _UNREADABLE
    shown = "nothing" if column == "null" else column.strip('"')
    return f"its column recorded_at says {shown}, the stored event {stored}"
