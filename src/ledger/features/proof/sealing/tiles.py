"""The form in which the tree is stored: tiles of 256 hashes, by C2SP's tlog-tiles.

A tile is (level, number). Level 0 holds the hashes of leaves; a hash of the next level is the root
of a full tile. So every node of the tree is in a tile, or is computed from one tile. A tile that is
not full only grows at its end.
"""

from collections.abc import Iterable, Mapping

from ledger.features.proof.sealing.tree import EMPTY, Node, Span, hash_pair, join, nodes_of

Tile = tuple[int, int]

HASH = 32
WIDTH = 256
_BITS = 8
_FULL = WIDTH * HASH


def tile_of(node: Node) -> Tile:
    """The tile that holds a node, or the hashes to compute it from."""
    height, index = node
    return height // _BITS, index << height % _BITS >> _BITS


def tiles_of(spans: Iterable[Span]) -> set[Tile]:
    """The tiles needed to compute the roots of these spans."""
    return {tile_of(node) for span in spans for node in nodes_of(span)}


def edge_of(size: int) -> dict[Tile, int]:
    """The tiles at a tree's right edge that are begun and not full, with their count of hashes."""
    edge = {}
    level = 0
    while entries := size >> _BITS * level:
        if entries % WIDTH:
            edge[level, entries // WIDTH] = entries % WIDTH
        level += 1
    return edge


def root_of(span: Span, tiles: Mapping[Tile, bytes | bytearray]) -> bytes:
    """The root over a span of leaves, from the tiles that ``tiles_of`` returns.

    Raises IndexError if a tile has too few hashes.
    """
    if span[0] == span[1]:
        return EMPTY
    return join([_node(node, tiles) for node in nodes_of(span)])


def _node(node: Node, tiles: Mapping[Tile, bytes | bytearray]) -> bytes:
    height, index = node
    count = 1 << height % _BITS
    start = (index << height % _BITS) % WIDTH
    found = bytes(tiles[tile_of(node)][start * HASH : (start + count) * HASH])
    if len(found) < count * HASH:
        raise IndexError(f"a tile is shorter than node {node} asks for")
    return _complete(found)


def _complete(hashes: bytes) -> bytes:
    """The root of a complete subtree; the number of ``hashes`` is a power of two."""
    level = [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]
    while len(level) > 1:
        level = [hash_pair(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    return level[0]


class GrowingTree:
    """A tree that grows by leaves. Only its right edge is in memory."""

    def __init__(self, size: int, edge: Mapping[Tile, bytes]) -> None:
        """Raises ValueError if the edge does not belong to a tree of this size."""
        if {tile: len(hashes) for tile, hashes in edge.items()} != {
            tile: count * HASH for tile, count in edge_of(size).items()
        }:
            raise ValueError(f"the tiles at the edge are not those of a tree of {size}")
        self.size = size
        self._edge = {tile: bytearray(hashes) for tile, hashes in edge.items()}
        self._grown: set[Tile] = set()
        self._full: dict[Tile, bytes] = {}

    def add(self, leaf_hash: bytes) -> None:
        level, entry, entries = 0, leaf_hash, self.size
        self.size += 1
        while True:
            tile = level, entries // WIDTH
            hashes = self._edge.setdefault(tile, bytearray())
            hashes += entry
            self._grown.add(tile)
            if len(hashes) < _FULL:
                return
            self._full[tile] = full = bytes(self._edge.pop(tile))
            level, entries, entry = level + 1, entries // WIDTH, _complete(full)

    def copy(self) -> "GrowingTree":
        copied = GrowingTree(
            self.size, {tile: bytes(hashes) for tile, hashes in self._edge.items()}
        )
        copied._grown, copied._full = set(self._grown), dict(self._full)
        return copied

    def pop_changed(self) -> dict[Tile, bytes]:
        """The tiles that have grown since the last call, as they are now."""
        edge = {tile: bytes(self._edge[tile]) for tile in self._grown & self._edge.keys()}
        changed = self._full | edge
        self._full, self._grown = {}, set()
        return changed

    def root(self) -> bytes:
        return root_of((0, self.size), self._edge)
