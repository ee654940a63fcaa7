"""The tiles above the leaves, compared with those that the leaves make."""

from collections.abc import Iterator, Mapping

from ledger.log.verifications import Difference
from ledger.sealing import shelf
from ledger.sealing.tiles import WIDTH, Tile

_ABOVE = "SELECT level, number, hashes, first_position FROM ledger.tile WHERE level <> 0"

_FAR = "SELECT number FROM ledger.tile WHERE level = 0 AND number >= %s"

_BITS = 8


def compare_above(
    connection: shelf.Connection, made: Mapping[Tile, bytes], size: int
) -> Iterator[Difference]:
    """Compare the stored tiles with those that ``size`` leaves make; yield each difference.

    Tiles may have grown meanwhile, and new ones may have come.
    """
    kept = {(row[0], row[1]): row[2:] for row in connection.execute(_ABOVE, binary=True)}
    now = max(shelf.latest(connection).size, size)
    for tile in sorted(kept.keys() | made.keys()):
        key = f"level={tile[0]} number={tile[1]}"
        if tile not in kept:
            yield Difference("tile", key, None, "the row is missing")
            continue
        hashes, first_position = kept[tile]
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
    """Whether a tree of this size has the tile."""
    level, number = tile
    return level > 0 and 0 <= number < -(-(size >> _BITS * level) // WIDTH)
