"""Compares the sealed log with the stored events (contract, Command line and Proof).

Each layer is compared with the layer below it: leaves with the events, tiles with the leaves, the
checkpoints with the tree, including the last checkpoint outside of the database. The column
``recorded_at`` of each row, by which reads of the past select, is compared with the stored event,
also for unsealed events. The check reads the log once, in the order of positions.

Sealed events never change, and the tree only grows at its end. So the check reads the latest
checkpoint first, and then everything up to it in pages, each in its own statement. It holds no
snapshot, and ignores what is sealed meanwhile.

If a leaf does not match its event, either the event or the tile was altered. Two trees then grow,
one of the stored leaves and one of the events' leaves. The next signed checkpoint shows which was
signed.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.log.vault import Vault
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.tiles import HASH, WIDTH, GrowingTree, Tile
from ledger.features.proof.sealing.witness import stored_notes
from ledger.features.proof.tables import Difference, Progress, Report
from ledger.features.proof.verification.checkpoints import Checkpoints, Signed
from ledger.features.proof.verification.stored import (
    EVENTS,
    UNREADABLE,
    Mismatch,
    StoredLeaf,
    StoredLeaves,
    altered_events,
    altered_tiles,
    column_difference,
    compare_above,
)

_TILES = """
SELECT number, hashes, first_position FROM ledger.tile
WHERE level = 0 AND number >= %s ORDER BY number LIMIT 65
"""
# The latest checkpoint and the number of stored leaves, at the same instant. A tile far beyond the
# checkpoint is not of this tree.
_END = """
SELECT c.size, c.position, c.note, coalesce((
    SELECT t.number * 256 + octet_length(t.hashes) / 32 FROM ledger.tile AS t
    WHERE t.level = 0 AND t.number <= c.size / 256 + 17 ORDER BY t.number DESC LIMIT 1
), 0)
FROM (
    (SELECT size, position, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1)
    UNION ALL SELECT base_size, base_position, '' FROM ledger.signer LIMIT 1
) AS c
"""

_IS_UNSIGNED = """
SELECT NOT EXISTS (SELECT FROM ledger.signer) AND NOT EXISTS (SELECT FROM ledger.checkpoint)
    AND NOT EXISTS (SELECT FROM ledger.tile)
"""


class Checked(NamedTuple):
    """How much was checked, and how many differences were found."""

    events: int
    """The sealed events that were compared with their leaves."""
    checkpoints: int
    unsealed: int
    faults: int
    first: int
    """The positions of the first and the last event that was compared; 0 if none was."""
    last: int


class Scope(NamedTuple):
    """The part of the sealed log that is compared."""

    selects: Callable[[int], bool]
    """Returns True if a tile of leaves, by its number, is compared with the events."""
    is_whole: bool
    """True to compare also the tiles of the upper levels, the numbers of checkpoints, the
    checkpoint outside of the database, and the unsealed events."""


EVERYTHING = Scope(lambda _: True, True)


class _Stored(NamedTuple):
    """A stored tile of leaves."""

    number: int
    hashes: bytes
    first: int
    """The position of the first event, according to the row."""


def check(
    conninfo: str,
    folder: Path,
    report: Report,
    progress: Progress,
    scope: Scope = EVERYTHING,
    breathe: Callable[[], None] = lambda: None,
    *,
    vault: Vault | None = None,
) -> Checked:
    """Compare the sealed log with the events; ``report`` gets each difference.

    ``folder`` holds the last checkpoint outside of the database. ``vault`` opens the one stored
    with the key; None if the master key is unknown. ``progress`` gets the number of compared
    leaves, and of all. ``breathe`` is called between pages, and may wait. Raises BadNote if the
    log's key is damaged.
    """
    with psycopg.connect(
        conninfo, autocommit=True, row_factory=tuple_row, application_name="ledger verify"
    ) as connection:
        if connection.execute(_IS_UNSIGNED).fetchone() == (True,):
            return _unsigned(connection, folder, report)
        return _Check(connection, folder, report, scope, vault).run(progress, breathe)


def _unsigned(connection: shelf.Connection, folder: Path, report: Report) -> Checked:
    """Check a log that was never signed: nobody has a checkpoint to compare."""
    faults = 0
    for note in stored_notes(folder):
        origin = note.partition("\n")[0]
        says = f"the key is gone, and a checkpoint of {origin} is in {folder}"
        report(Difference("signer", "is_only=true", None, says))
        faults += 1
    ((unsealed,),) = connection.execute("SELECT count(*) FROM ledger.ledger_events").fetchall()
    return Checked(0, 0, unsealed, faults, 0, 0)


class _Check:
    """One check, and the tree that it grows from the sealed leaves."""

    def __init__(
        self,
        connection: shelf.Connection,
        folder: Path,
        report: Report,
        scope: Scope,
        vault: Vault | None,
    ) -> None:
        self._connection, self._reported, self._scope = connection, report, scope
        self._position: int
        self._events_compared = self._faults = self._unsealed = 0
        self._first = self._last = 0
        # Read the file and the mark before the end of the sealed log, so that they are not behind.
        self._signed = Checkpoints(connection, self._report)
        if scope.is_whole:
            self._signed.read_outside(folder)
            if vault is not None:
                self._signed.read_mark(vault)
        size: int
        ((size, self._position, note, stored),) = self._read(_END)
        # A damaged row is reported later; the end is nevertheless the size that it signs.
        self._size = self._signed.size_of(note or "") or size
        if scope.is_whole:
            self._signed.compare_mark(self._size if note else 0)
        self._leaves = max(self._size, stored)
        self._events = StoredLeaves(connection)
        self._tree = GrowingTree(0, {})
        self._other: GrowingTree | None = None
        """The tree of the events' leaves, from the first mismatch to the next checkpoint."""
        self._mismatches: list[Mismatch] = []
        self._above: dict[Tile, bytes] = {}

    def run(self, progress: Progress, breathe: Callable[[], None]) -> Checked:
        signed = self._signed.up_to(self._leaves, self._position, self._scope.is_whole)
        due = next(signed, None)
        before: _Stored | None = None
        for tile, follower in self._tiles():
            is_selected = self._scope.selects(tile.number)
            count = min(WIDTH, self._leaves - self._tree.size)
            sealed = [tile.hashes[at : at + HASH] for at in range(0, count * HASH, HASH)]
            made: Sequence[StoredLeaf] = ()
            if is_selected:
                self._find_start(tile, sealed, before)
                made = self._compare_leaves(tile, sealed, self._end_of(tile, count, follower))
            else:
                self._events.forget()
            for at, leaf in enumerate(sealed):
                self._tree.add(leaf)
                if self._other is not None:
                    self._other.add(made[at].hash or leaf if made else leaf)
                while due is not None and due.size == self._tree.size:
                    if is_selected or self._mismatches:
                        self._compare_root(due, made[at].position if made else None)
                    due = next(signed, None)
            before = tile
            self._pop_changed()
            progress(self._tree.size, self._leaves)
            breathe()
        self._resolve(self._mismatches, is_tile=False)
        if self._scope.is_whole:
            self._compare_end(due, signed)
        return Checked(
            self._events_compared, self._signed.opened, self._unsealed, self._faults,
            self._first, self._last,
        )  # fmt: skip

    def _compare_end(self, due: Signed | None, signed: Iterator[Signed]) -> None:
        if (found := self._tree.size) > self._size:
            key = f"size={found}"
            says = f"{found} events are sealed, and the last checkpoint covers {self._size}"
            self._report(Difference("checkpoint", key, None, says))
        self._pop_changed()
        if found == self._leaves:
            for difference in compare_above(self._connection, self._above, found):
                self._report(difference)
        while due is not None:
            self._compare_beyond(due, found)
            due = next(signed, None)
        for leaf in self._events.coming(None):
            self._unsealed += leaf.position > self._position
            if leaf.hash is None and leaf.position > self._position:
                self._fault(leaf.position, "state", UNREADABLE)
            self._compare_column(leaf)

    # Reading.

    def _tiles(self) -> Iterator[tuple[_Stored, _Stored | None]]:
        """The tiles of leaves, each with the next one.

        A missing tile is reported, and rebuilt from its events if possible; the last may be left
        out.
        """
        page: list[_Stored] = []
        while self._tree.size < self._leaves:
            number = self._tree.size // WIDTH
            if len(page) < 2:
                page = [_Stored(n, h or b"", f or 0) for n, h, f in self._read(_TILES, number)]
            tile = page[0] if page else None
            if tile is None or tile.number != number:
                made = self._made(number, tile)
                if made is None:
                    return
                yield made, tile
                continue
            del page[0]
            size = min(WIDTH, self._leaves - self._tree.size) * HASH
            follower = page[0] if page else None
            # The last tile may have grown meanwhile.
            is_whole = len(tile.hashes) >= size if size < WIDTH * HASH else len(tile.hashes) == size
            if not is_whole:
                made = self._made(number, follower, "hashes")
                if made is None:
                    return
                tile = made._replace(first=tile.first)
            yield tile, follower

    def _made(
        self, number: int, follower: _Stored | None, column: str | None = None
    ) -> _Stored | None:
        """Report a tile that is missing or incomplete, and rebuild it from its events."""
        says = "the row is missing" if column is None else "its column hashes has not all leaves"
        self._report(Difference("tile", f"level=0 number={number}", column, says))
        count = min(WIDTH, self._leaves - self._tree.size)
        end = self._end_of(_Stored(number, b"", 0), count, follower)
        is_possible = end is not None and not self._events.is_lost
        events = list(islice(self._events.coming(end), WIDTH + 1)) if is_possible else []
        hashes = [event.hash for event in events if event.hash is not None]
        if not len(events) == len(hashes) == count:
            says = f"leaves from {self._tree.size} on cannot be compared without it"
            self._report(Difference("tile", f"level=0 number={number}", column, says))
            return None
        self._events.put_back(events)
        return _Stored(number, b"".join(hashes), events[0].position)

    def _read(self, statement: str, *values: int) -> list[TupleRow]:
        return self._connection.execute(statement.encode(), values, binary=True).fetchall()

    # The leaves.

    def _find_start(self, tile: _Stored, sealed: Sequence[bytes], before: _Stored | None) -> None:
        """Go to a tile's first event, if the previous tile was not compared."""
        if not self._events.is_lost:
            return
        self._events.seek(tile.first)
        (first, *_) = [*self._events.peek(1), None]
        if before is None or (first is not None and first.hash == sealed[0]):
            return
        # The position may have been altered: search for the event after the previous tile.
        self._events.seek(before.first)
        for leaf in islice(self._events.coming(None), 2 * WIDTH):
            if leaf.hash == sealed[0]:
                self._events.put_back([leaf])
                return
        self._events.seek(tile.first)

    def _end_of(self, tile: _Stored, count: int, follower: _Stored | None) -> int | None:
        """The last position that a tile's events may have; None if the next tile is missing."""
        if tile.number * WIDTH + count == self._size:
            return self._position
        if follower is not None and follower.number == tile.number + 1:
            return follower.first - 1
        return None

    def _compare_leaves(
        self, tile: _Stored, sealed: Sequence[bytes], end: int | None
    ) -> Sequence[StoredLeaf]:
        """Compare a tile with the next events; return these if none is missing."""
        self._events_compared += len(sealed)
        made = self._events.peek(len(sealed))
        is_alike = [leaf.hash for leaf in made] == sealed
        if is_alike:
            self._events.drop(len(sealed))
            for leaf in made:
                self._compare_column(leaf)
        else:
            coming = self._events.coming(end)
            made = list(islice(coming, len(sealed) + (end is not None)))
            if len(made) != len(sealed):
                self._name_missing(tile, sealed, [*made, *coming])
                return ()
            self._compare_each(tile.number, made, sealed)
        self._first = self._first or made[0].position
        self._last = made[-1].position
        if made[0].position != tile.first:
            says = f"its column first_position says {tile.first}, the log {made[0].position}"
            key = f"level=0 number={tile.number}"
            self._report(Difference("tile", key, "first_position", says))
        return made

    def _compare_each(
        self, number: int, made: Sequence[StoredLeaf], sealed: Sequence[bytes]
    ) -> None:
        """Collect the leaves that do not match their events, to report them later."""
        if self._other is None:
            self._other = self._tree.copy()
        for leaf, is_sealed in zip(made, sealed, strict=True):
            if leaf.hash != is_sealed:
                self._mismatches.append(Mismatch(number, leaf, is_sealed))
            else:
                self._compare_column(leaf)

    def _name_missing(
        self, tile: _Stored, sealed: Sequence[bytes], made: Sequence[StoredLeaf]
    ) -> None:
        """Some events are missing or inserted: report leaves and events without a counterpart."""
        expected, there = set(sealed), dict[bytes, int]()
        for leaf in made:
            if leaf.hash in expected:
                there[leaf.hash] = leaf.position
                self._compare_column(leaf)
            else:
                self._fault(leaf.position, None, "an event that was not sealed")
        before = tile.first - 1
        for index, hash_ in enumerate(sealed, self._tree.size):
            if hash_ not in there:
                key = f"leaf={index} after notification_id={before}"
                self._report(Difference(EVENTS, key, None, "the row is missing"))
            before = there.get(hash_, before)

    def _compare_column(self, leaf: StoredLeaf) -> None:
        """Compare the column ``recorded_at`` of an event's row with the event.

        Call this only for a sealed event. For another, the position is already reported, and the
        content cannot be trusted.
        """
        if leaf.is_moved:
            self._fault(leaf.position, "recorded_at", column_difference(leaf))

    def _resolve(self, mismatches: Sequence[Mismatch], is_tile: bool) -> None:
        altered = (
            altered_tiles(mismatches) if is_tile else altered_events(self._connection, mismatches)
        )
        for difference in altered:
            self._report(difference)
        if is_tile:
            for mismatch in mismatches:
                self._compare_column(mismatch.event)

    # The checkpoints.

    def _compare_root(self, signed: Signed, position: int | None) -> None:
        """Compare a checkpoint with the tree, which now has exactly its number of leaves."""
        checkpoint = self._signed.open(signed)
        if checkpoint is None:
            return
        mismatches, self._mismatches = self._mismatches, []
        other, self._other = self._other, None
        is_signed = checkpoint.root == self._tree.root()
        is_tile = not is_signed and other is not None and checkpoint.root == other.root()
        self._resolve(mismatches, is_tile)
        if is_tile and other is not None:
            self._tree = other
        elif not is_signed:
            says = f"its column {signed.column} signs another tree than the sealed leaves make"
            self._report(Difference(signed.table, signed.key, signed.column, says))
        if position is not None and signed.position not in (None, position):
            says = f"its column position says {signed.position}, the log {position}"
            column = "position" if signed.column == "note" else signed.column
            self._report(Difference(signed.table, signed.key, column, says))

    def _compare_beyond(self, signed: Signed, found: int) -> None:
        """Compare a checkpoint of more events than are sealed.

        The checkpoint outside is written before the one in the database, so it may be ahead.
        """
        if signed.position is not None and self._signed.open(signed) is None:
            return
        if found < self._leaves:
            return  # a tile is missing, and was reported
        if signed.position is None:
            for leaf in self._events.coming(None):
                self._unsealed += leaf.position > self._position
                if leaf.hash is None:
                    self._fault(leaf.position, "state", UNREADABLE)
                    break
                self._compare_column(leaf)
                self._tree.add(leaf.hash)
                if self._tree.size == signed.size:
                    self._compare_root(signed, None)
                    return
        says = f"covers {signed.size} events, and the log has {self._tree.size}"
        self._report(Difference(signed.table, signed.key, None, says))

    def _pop_changed(self) -> None:
        """Keep the tiles above the leaves, as the leaves make them."""
        changed = self._tree.pop_changed().items()
        self._above |= {tile: hashes for tile, hashes in changed if tile[0]}

    def _fault(self, position: int, column: str | None, says: str) -> None:
        self._report(Difference(EVENTS, f"notification_id={position}", column, says))

    def _report(self, difference: Difference) -> None:
        self._faults += 1
        self._reported(difference)
