"""How the tree is kept: tiles of 256 hashes, as C2SP's tlog-tiles has them.

A tile is (level, number). Level 0 holds the hashes of leaves; a hash of the level above is the root
of a full tile. So every node of the tree is in a tile, or some hashings away from one, and a tile
that is not full only ever grows at its end.
"""

from collections.abc import Iterable, Mapping

from ledger.sealing.tree import EMPTY, Node, Stretch, hash_pair, join, nodes_of

Tile = tuple[int, int]

HASH = 32
WIDTH = 256
_BITS = 8
_FULL = WIDTH * HASH


def tile_of(node: Node) -> Tile:
    """The tile that a node is in, or is made of hashes of."""
    height, index = node
    return height // _BITS, index << height % _BITS >> _BITS


def tiles_of(stretches: Iterable[Stretch]) -> set[Tile]:
    """The tiles that the roots of these stretches of leaves are made of."""
    return {tile_of(node) for stretch in stretches for node in nodes_of(stretch)}


def edge_of(size: int) -> dict[Tile, int]:
    """The tiles at the right edge of a tree that are begun and not full, and their hashes."""
    edge = {}
    level = 0
    while entries := size >> _BITS * level:
        if entries % WIDTH:
            edge[level, entries // WIDTH] = entries % WIDTH
        level += 1
    return edge


def root_of(stretch: Stretch, tiles: Mapping[Tile, bytes | bytearray]) -> bytes:
    """The root over a stretch of leaves, from the tiles that ``tiles_of`` names.

    Raises IndexError where a tile holds less than that.
    """
    if stretch[0] == stretch[1]:
        return EMPTY
    return join([_node(node, tiles) for node in nodes_of(stretch)])


def _node(node: Node, tiles: Mapping[Tile, bytes | bytearray]) -> bytes:
    height, index = node
    count = 1 << height % _BITS
    start = (index << height % _BITS) % WIDTH
    found = bytes(tiles[tile_of(node)][start * HASH : (start + count) * HASH])
    if len(found) < count * HASH:
        raise IndexError(f"a tile is shorter than node {node} asks for")
    return _complete(found)


def _complete(hashes: bytes) -> bytes:
    """The root of a complete subtree over hashes, whose number is a power of two."""
    level = [hashes[at : at + HASH] for at in range(0, len(hashes), HASH)]
    while len(level) > 1:
        level = [hash_pair(*pair) for pair in zip(level[::2], level[1::2], strict=True)]
    return level[0]


class GrowingTree:
    """A tree that leaves are added to. It holds no more than its right edge."""

    def __init__(self, size: int, edge: Mapping[Tile, bytes]) -> None:
        """Raises ValueError where the edge is not that of a tree of this size."""
        if {tile: len(hashes) for tile, hashes in edge.items()} != {
            tile: count * HASH for tile, count in edge_of(size).items()
        }:
            raise ValueError(f"the tiles at the edge are not those of a tree of {size}")
        self.size = size
        self._edge = {tile: bytearray(hashes) for tile, hashes in edge.items()}
        self._grown: set[Tile] = set()
        self._full: dict[Tile, bytes] = {}

    def add(self, leaf_hash: bytes) -> None:
        """Add a leaf, by its hash."""
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

    def take_changed(self) -> dict[Tile, bytes]:
        """The tiles that have grown since this was last asked, as they are now."""
        edge = {tile: bytes(self._edge[tile]) for tile in self._grown & self._edge.keys()}
        changed = self._full | edge
        self._full, self._grown = {}, set()
        return changed

    def root(self) -> bytes:
        """The root of the whole tree."""
        return root_of((0, self.size), self._edge)
