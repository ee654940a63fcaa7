"""The Merkle tree of RFC 6962, section 2.1: pure arithmetic over hashes of 32 bytes.

A node is (height, index): the root of the complete subtree over the 2^height leaves that begin at
leaf index * 2^height. Any span of leaves that a root or a proof needs is a sequence of such nodes.
"""

from collections.abc import Sequence
from functools import reduce
from hashlib import sha256

Node = tuple[int, int]
Span = tuple[int, int]
"""The leaves from the first number up to the second, without the second."""

EMPTY = sha256(b"").digest()


def hash_leaf(leaf: bytes) -> bytes:
    return sha256(b"\0" + leaf).digest()


def hash_pair(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def join(hashes: Sequence[bytes]) -> bytes:
    """The root over adjacent nodes of falling height, as ``nodes_of`` returns them."""
    *others, last = hashes
    return reduce(lambda right, left: hash_pair(left, right), reversed(others), last)


def nodes_of(span: Span) -> list[Node]:
    """The complete subtrees of a span, from left to right, which is from large to small."""
    start, end = span
    nodes = []
    while start < end:
        height = (end - start).bit_length() - 1
        nodes.append((height, start >> height))
        start += 1 << height
    return nodes


def inclusion(index: int, size: int) -> list[Span]:
    """The spans whose roots prove that a leaf is in a tree of this size (RFC 6962, 2.1.1).

    The leaf's sibling comes first.
    """
    start, end = 0, size
    path: list[Span] = []
    while end - start > 1:
        middle = _middle(start, end)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency(first: int, second: int) -> list[Span]:
    """The spans whose roots prove that a tree is the beginning of a larger tree (2.1.2)."""
    if first in (0, second):
        return []
    start, end = 0, second
    path: list[Span] = []
    while first < end:
        middle = _middle(start, end)
        if first <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        # Otherwise the smaller tree is itself a subtree, and the client knows its root.
        path.append((start, end))
    return path[::-1]


def grown_from(first: int, second: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of two trees from the hashes of ``consistency``, the smaller tree's root first.

    ``hashes`` are the roots of the spans of ``consistency``, after the smaller tree's root if that
    tree is a complete subtree. If the second root is right, no tree with this root begins with
    another first root.
    """
    index, last = first - 1, second - 1
    while index % 2:
        index, last = index // 2, last // 2
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if index % 2 or index == last:
            old, new = hash_pair(sibling, old), hash_pair(sibling, new)
            while index and not index % 2:
                index, last = index // 2, last // 2
        else:
            new = hash_pair(new, sibling)
        index, last = index // 2, last // 2
    return old, new


def _middle(start: int, end: int) -> int:
    """The split of a tree of more than one leaf: at the largest power of two below its size."""
    return start + (1 << (end - start - 1).bit_length() - 1)
