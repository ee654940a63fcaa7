"""The Merkle tree of RFC 6962, section 2.1: pure arithmetic over hashes of 32 bytes.

A node is (height, index): the root of the complete subtree over the 2^height leaves that begin at
leaf index * 2^height. Any stretch of leaves that a root or a proof asks for is a row of such nodes.
"""

from collections.abc import Sequence
from functools import reduce
from hashlib import sha256

Node = tuple[int, int]
Stretch = tuple[int, int]
"""Leaves from the first up to, and without, the second."""

EMPTY = sha256(b"").digest()
"""The root of a tree without leaves."""


def hash_leaf(leaf: bytes) -> bytes:
    """The hash of a leaf, from its bytes."""
    return sha256(b"\0" + leaf).digest()


def hash_pair(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def join(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbours of falling height, as ``nodes_of`` names them."""
    *others, last = hashes
    return reduce(lambda right, left: hash_pair(left, right), reversed(others), last)


def nodes_of(stretch: Stretch) -> list[Node]:
    """The complete subtrees of a stretch, from left to right: the largest come first."""
    start, end = stretch
    nodes = []
    while start < end:
        height = (end - start).bit_length() - 1
        nodes.append((height, start >> height))
        start += 1 << height
    return nodes


def inclusion(index: int, size: int) -> list[Stretch]:
    """Whose roots prove that a leaf is in a tree of this size (2.1.1), the leaf's sibling first."""
    start, end = 0, size
    path: list[Stretch] = []
    while end - start > 1:
        middle = _middle(start, end)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency(first: int, second: int) -> list[Stretch]:
    """Whose roots prove that a tree of the first size is the beginning of the second's (2.1.2)."""
    if first in (0, second):
        return []
    start, end = 0, second
    path: list[Stretch] = []
    while first < end:
        middle = _middle(start, end)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        # Else the smaller tree is itself a subtree, whose root whoever asks knows.
        path.append((start, end))
    return path[::-1]


def _middle(start: int, end: int) -> int:
    """Where a tree of more than one leaf is split: at the largest power of two below its size."""
    return start + (1 << (end - start - 1).bit_length() - 1)
