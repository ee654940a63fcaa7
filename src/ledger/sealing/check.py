"""The sealed log compared with the stored events: every leaf, every checkpoint (contract 1, 6).

Each layer is compared with the one that it is made of: leaves with the events, tiles with the
leaves, checkpoints with the tree, the last checkpoint outside with it too. Each row's column
``recorded_at``, by which the past is asked for, is compared with its stored event, also of events
that are not sealed yet. The check goes through the log once, in the order of positions, and holds a
tile's worth of events at a time.
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

# The column recorded_at as the JSON that leaves have: to the microsecond, the same text whatever
# the session's zone and style of dates are, and for every value that the column can hold (infinity
# too, which no datetime can be made of).
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
    difference: str | None = None
    """What its row's column ``recorded_at`` says otherwise than the event."""


def check(conninfo: str, folder: Path, report: Report, progress: Progress) -> Checked:
    """Compare all that is sealed, as it is at one instant; ``report`` is told each fault in a line.

    ``folder`` is where the last checkpoint is kept outside of the database; ``progress`` is told
    how many events were compared, and of how many. Raises BadNote where the log's key is damaged.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        return _Check(connection, folder, report, progress).run()


class _Check:
    """One look at everything, and the tree that it grows meanwhile from the leaves as sealed."""

    def __init__(
        self, connection: shelf.Connection, folder: Path, report: Report, progress: Progress
    ) -> None:
        self._connection, self._report, self._progress = connection, report, progress
        self._checkpoints = self._faults = 0
        self._verifier = shelf.verifier_of(connection)
        # Before the database's instant: what is outside then is of events that are there by it.
        self._outside = list(self._read_outside(Witness(folder, self._verifier.name)))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        self._sealed = shelf.latest(connection)
        self._events = self._read_events()
        self._ahead: deque[_Leaf] = deque()
        """Events that were read, and that no tile was compared with yet."""
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
            self._fault(f"{found} are sealed, and the last checkpoint is of {self._sealed.size}")
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
                leaf, told = leaf_and_instant(stream, version, topic, state, at)
            except UnreadableEvent:
                yield _Leaf(at, None)
                continue
            is_alike = column.encode() == told
            yield _Leaf(at, hash_leaf(leaf), None if is_alike else _difference(column, told))

    def _read_unsealed(self) -> None:
        """The events that no tile was compared with."""
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
        """All checkpoints by size, that outside of the database among them."""
        kept = (
            _Signed(size, position, note, f"checkpoint {size}")
            for size, position, note in self._read(_CHECKPOINTS)
        )
        return merge(kept, self._outside, key=attrgetter("size"))

    def _end_of(
        self, number: int, count: int, next_number: int | None, end: int | None
    ) -> int | None:
        """Where the events of a tile's leaves end; None where what is behind it is missing."""
        if next_number is not None:
            return end if next_number == number + 1 else None
        return self._sealed.position if number * WIDTH + count == self._sealed.size else None

    def _compare_leaves(
        self, number: int, first: int, leaves: Sequence[bytes], end: int | None
    ) -> Sequence[int]:
        """A tile with the next events; their positions where they are as many as its leaves."""
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
        # Something is missing, or was put in: name what has no counterpart.
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
            self._fault(f"from position {first} on: no event is there of the leaves {named}")
        return ()

    def _coming(self, end: int | None) -> Iterator[_Leaf]:
        """The next events, up to a position if there is one."""
        while True:
            if not self._ahead:
                self._ahead.extend(islice(self._events, 1))
            if not self._ahead or (end is not None and self._ahead[0].position > end):
                return
            yield self._ahead.popleft()

    def _compare_column(self, leaf: _Leaf) -> int:
        """An event's row with the event; its position.

        Not where the event itself is another than was sealed: its position is named already, and
        what it says is worth nothing.
        """
        if leaf.difference is not None:
            self._fault(f"position {leaf.position}: {leaf.difference}")
        return leaf.position

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

    def _compare_beyond(self, signed: _Signed, found: int) -> None:
        """A checkpoint of more than is sealed: that outside is written before the database's."""
        if signed.position is not None or found != self._sealed.size:
            self._fault(f"{signed.name} is of {signed.size} events, and {found} are sealed")
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
        self._fault(f"{signed.name} is of {signed.size} events, and {self._tree.size} are there")

    def _compare_above(self) -> None:
        """What is kept of the tree above its leaves with what they make."""
        kept = {(level, number): hashes for level, number, hashes in self._read(_ABOVE)}
        for level, number in sorted(kept.keys() | self._above.keys()):
            if kept.get((level, number)) != self._above.get((level, number)):
                self._fault(f"tile {number} of level {level}: not what the leaves make")

    def _fault(self, line: str) -> None:
        self._faults += 1
        self._report(line)


def _difference(column: str, told: bytes) -> str:
    """What a row's column says, and what its event tells instead; both are JSON."""
    try:
        said = format_instant(_decode_instant(told))
    except (ValueError, msgspec.MsgspecError):
        return _UNREADABLE
    shown = "nothing" if column == "null" else column.strip('"')
    return f"its column recorded_at says {shown}, the stored event {said}"
