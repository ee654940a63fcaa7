"""The stored events as leaves, in the order of the log; finds altered events and tiles."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from struct import unpack
from typing import Any, NamedTuple

from psycopg.adapt import Loader
from psycopg.pq import Format

from ledger.engine.values.values import format_instant, instant_of
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.leaf import UnreadableEvent, leaf_and_instant, leaf_of
from ledger.features.proof.sealing.tiles import WIDTH, Tile
from ledger.features.proof.sealing.tree import hash_leaf
from ledger.features.proof.tables import Difference
from ledger.records import EVENTS as EVENT_CLASSES

EVENTS = "ledger_events"

UNREADABLE = "its column state: the stored event cannot be read"

_NARROWED = 100
"""The most altered events whose altered column is determined; after these, each may be meant."""

_AT_ONCE = 512
"""Events that are read at a time; an event may have a quarter of a megabyte."""

_EVENTS = f"""
SELECT originator_id, originator_version, topic, state, notification_id, recorded_at
FROM ledger.ledger_events WHERE notification_id > %s ORDER BY notification_id LIMIT {_AT_ONCE}
"""

# The version that an event must have by the earlier events of its stream.
_VERSION = """
SELECT coalesce(max(originator_version), 0) + 1 FROM ledger.ledger_events
WHERE originator_id = %s AND notification_id < %s
"""

_ABOVE = "SELECT level, number, hashes, first_position FROM ledger.tile WHERE level <> 0"

_FAR = "SELECT number FROM ledger.tile WHERE level = 0 AND number >= %s"

_BITS = 8

# The line that the view of events has for a position.
_LINE = "SELECT line_id FROM ledger.event WHERE position = %s"

_POSTGRES_EPOCH = 946_684_800_000_000
"""2000-01-01 UTC, in microseconds since 1970-01-01 UTC."""

_INFINITE = {2**63 - 1: "infinity", -(2**63): "-infinity"}

StoredEvent = tuple[str, int, str, bytes, int]
"""(stream, version, topic, state, position)"""


class StoredLeaf(NamedTuple):
    """A stored event's leaf."""

    position: int
    hash: bytes | None
    """None if the event cannot be read."""
    is_moved: bool
    """True if the row's column ``recorded_at`` is not the event's instant."""
    column: int | None
    """The column, and the event's instant: microseconds since 1970-01-01 UTC."""
    instant: int | None
    event: StoredEvent


class StoredLeaves:
    """The leaves of the stored events from a position on."""

    def __init__(self, connection: shelf.Connection) -> None:
        connection.adapters.register_loader("timestamptz", _Micros)
        self._connection = connection
        self._ahead: deque[StoredLeaf] = deque()
        self._after = -(2**63)
        self.is_lost = False
        """True if the position in the log is unknown, until the next ``seek``."""

    def forget(self) -> None:
        self._ahead.clear()
        self.is_lost = True

    def seek(self, position: int) -> None:
        """Continue with the first event at or after a position."""
        self._ahead.clear()
        self._after, self.is_lost = position - 1, False

    def peek(self, count: int) -> Sequence[StoredLeaf]:
        """Return the next leaves without taking them; fewer at the end of the log."""
        while len(self._ahead) < count and self._read():
            pass
        return list(islice(self._ahead, count))

    def drop(self, count: int) -> None:
        for _ in range(count):
            self._ahead.popleft()

    def put_back(self, leaves: Iterable[StoredLeaf]) -> None:
        self._ahead.extendleft(reversed(list(leaves)))

    def coming(self, end: int | None) -> Iterator[StoredLeaf]:
        """Take the next leaves, up to the position ``end`` if it is not None."""
        while self._ahead or self._read():
            if end is not None and self._ahead[0].position > end:
                return
            yield self._ahead.popleft()

    def _read(self) -> bool:
        rows = self._connection.execute(_EVENTS, (self._after,), binary=True).fetchall()
        self._ahead.extend(map(_leaf, rows))
        if rows:
            self._after = rows[-1][4]
        return bool(rows)


def _leaf(row: Sequence[Any]) -> StoredLeaf:
    stream, version, topic, state, position, column = row
    # Without its constraints, a table may have NULL in any column.
    event = (stream, version or 0, topic, state or b"", position)
    try:
        leaf, instant = leaf_and_instant(*event)
    except UnreadableEvent:
        return StoredLeaf(position, None, False, column, None, event)
    return StoredLeaf(position, hash_leaf(leaf), column != instant, column, instant, event)


class _Micros(Loader):
    """Loads any instant of PostgreSQL as microseconds since 1970-01-01 UTC, infinity as it is."""

    format = Format.BINARY

    def load(self, data: Any) -> int:
        micros: int = unpack("!q", data)[0]
        return micros if micros in _INFINITE else micros + _POSTGRES_EPOCH


def column_difference(leaf: StoredLeaf) -> str:
    if leaf.instant is None:
        return UNREADABLE
    column, log = _instant_text(leaf.column), _instant_text(leaf.instant)
    return f"its column recorded_at says {column}, the log {log}"


def _instant_text(micros: int | None) -> str:
    if micros is None:
        return "nothing"
    with suppress(OverflowError):
        return format_instant(instant_of(micros))
    return _INFINITE.get(micros, "an instant beyond the calendar")


class Mismatch(NamedTuple):
    """A leaf of a tile that does not match its event."""

    tile: int
    event: StoredLeaf
    sealed: bytes


def altered_tiles(mismatches: Iterable[Mismatch]) -> Iterator[Difference]:
    for number in sorted({mismatch.tile for mismatch in mismatches}):
        says = "its column hashes is not what was signed: the events are"
        yield Difference("tile", f"level=0 number={number}", "hashes", says)


def altered_events(
    connection: shelf.Connection, mismatches: Iterable[Mismatch]
) -> Iterator[Difference]:
    for index, (_, event, sealed) in enumerate(mismatches):
        columns: Sequence[str] = ("originator_id", "originator_version", "topic", "state")
        if index < _NARROWED:
            columns = _altered_columns(connection, event, sealed)
        names = ", ".join(columns)
        says = f"not the event that was sealed: its column {names} was altered"
        yield Difference(EVENTS, f"notification_id={event.position}", names, says)


def _altered_columns(
    connection: shelf.Connection, leaf: StoredLeaf, sealed: bytes
) -> Sequence[str]:
    """The columns that may be altered (one of them is), since the leaf is not the sealed one."""
    stream, version, topic, state, position = leaf.event
    topics = (event.TOPIC for event in EVENT_CLASSES)
    if any(_is(sealed, (stream, version, other, state, position)) for other in topics):
        return ("topic",)
    ((due,),) = connection.execute(_VERSION, (stream, position))
    versions = {due, version - 1, version + 1}
    if any(_is(sealed, (stream, other, topic, state, position)) for other in versions):
        return ("originator_version",)
    lines = [line for (line,) in connection.execute(_LINE, (position,)) if line is not None]
    if any(_is(sealed, (line, version, topic, state, position)) for line in lines):
        return ("originator_id",)
    return ("originator_id", "state")


def _is(sealed: bytes, event: StoredEvent) -> bool:
    with suppress(UnreadableEvent):
        return hash_leaf(leaf_of(*event)) == sealed
    return False


def compare_above(
    connection: shelf.Connection, made: Mapping[Tile, bytes], size: int
) -> Iterator[Difference]:
    """Compare the stored tiles with those that ``size`` leaves make; yield each difference.

    Tiles may have grown meanwhile, and new ones may have come.
    """
    stored = {(row[0], row[1]): row[2:] for row in connection.execute(_ABOVE, binary=True)}
    now = max(shelf.latest(connection).size, size)
    for tile in sorted(stored.keys() | made.keys()):
        key = f"level={tile[0]} number={tile[1]}"
        if tile not in stored:
            yield Difference("tile", key, None, "the row is missing")
            continue
        hashes, first_position = stored[tile]
        if tile not in made:
            if not _may_be(tile, now):
                yield Difference("tile", key, None, "no leaves make such a row")
            continue
        if (hashes or b"")[: len(made[tile])] != made[tile]:
            yield Difference("tile", key, "hashes", "its column hashes is not what the leaves make")
        if first_position is not None:
            says = f"its column first_position says {first_position}, and only leaves have one"
            yield Difference("tile", key, "first_position", says)
    for (number,) in connection.execute(_FAR, (-(-now // WIDTH),)):
        yield Difference("tile", f"level=0 number={number}", None, "no leaves make such a row")


def _may_be(tile: Tile, size: int) -> bool:
    level, number = tile
    return level > 0 and 0 <= number < -(-(size >> _BITS * level) // WIDTH)
