"""The tree is RFC 6962's, by its definition, published vectors and an independent verifier."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.features.proof.sealing.tiles import (
    HASH,
    WIDTH,
    GrowingTree,
    Tile,
    edge_of,
    root_of,
    tiles_of,
)
from ledger.features.proof.sealing.tree import EMPTY, consistency, hash_leaf, hash_pair, inclusion
from tests.support.verifier import verifier

LEAVES = [b"leaf %d" % number for number in range(1, 70_000)]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]

CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The vectors of Certificate Transparency: the roots of the first 1 to 8 leaves."""


def grown(hashes: Sequence[bytes], at_once: int) -> dict[Tile, bytes]:
    """The tiles of a tree that is loaded anew for each part of its leaves."""
    tiles: dict[Tile, bytes] = {}
    for start in range(0, len(hashes), at_once):
        tree = GrowingTree(start, {tile: tiles[tile] for tile in edge_of(start)})
        for leaf in hashes[start : start + at_once]:
            tree.add(leaf)
        tiles |= tree.pop_changed()
        assert tree.pop_changed() == {}
        assert tree.root() == root_of((0, tree.size), tiles)
    return tiles


TILES = grown(HASHES, 7_001)


def by_definition(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1."""
    if len(hashes) < 2:
        return hashes[0] if hashes else EMPTY
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hash_pair(by_definition(hashes[:split]), by_definition(hashes[split:]))


def roots(spans: Sequence[tuple[int, int]]) -> list[bytes]:
    assert tiles_of(spans) <= TILES.keys()
    return [root_of(span, TILES) for span in spans]


def test_roots_are_those_of_certificate_transparency() -> None:
    tree = GrowingTree(0, {})
    assert tree.root() == EMPTY
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        tree.add(hash_leaf(leaf))
        assert tree.root().hex() == root


@pytest.mark.parametrize("size", [*range(1, 20), 255, 256, 257, 511, 512, 513, 1000])
def test_a_root_equals_the_definitions(size: int) -> None:
    assert root_of((0, size), TILES) == by_definition(HASHES[:size])


@pytest.mark.parametrize("at_once", [1, 3, 256, 1000])
def test_a_tree_that_is_loaded_anew_for_each_part_has_the_same_tiles(at_once: int) -> None:
    tiles = grown(HASHES[:1030], at_once)
    assert {tile: len(hashes) // HASH for tile, hashes in tiles.items()} == {
        (0, 0): WIDTH, (0, 1): WIDTH, (0, 2): WIDTH, (0, 3): WIDTH, (0, 4): 6, (1, 0): 4,
    }  # fmt: skip
    assert tiles == {tile: TILES[tile][: len(hashes)] for tile, hashes in tiles.items()}


def test_a_tree_refuses_an_edge_of_another_size() -> None:
    with pytest.raises(ValueError, match="not those of a tree of 3"):
        GrowingTree(3, {(0, 0): HASHES[0] * 2})
    with pytest.raises(ValueError, match="not those of a tree of 256"):
        GrowingTree(256, {})


def test_a_truncated_tile_gives_no_root() -> None:
    with pytest.raises(IndexError):
        root_of((0, 300), TILES | {(0, 0): TILES[0, 0][:-HASH], (1, 0): b""})


SIZES = st.integers(1, len(LEAVES))


@given(st.data())
def test_an_inclusion_proof_holds_for_its_leaf_and_index_alone(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    index = data.draw(st.integers(0, size - 1))
    hashes, root = roots(inclusion(index, size)), root_of((0, size), TILES)
    root_with = verifier.root_with_leaf
    assert root_with(LEAVES[index], index, size, hashes) == root
    assert len(hashes) <= (size - 1).bit_length()
    assert root_with(LEAVES[index] + b"x", index, size, hashes) != root
    assert root_with(LEAVES[index], index, size, [*hashes, EMPTY]) is None
    if hashes:
        assert root_with(LEAVES[index], index, size, hashes[:-1]) != root
        spoilt = data.draw(st.integers(0, len(hashes) - 1))
        changed = [*hashes[:spoilt], EMPTY, *hashes[spoilt + 1 :]]
        assert root_with(LEAVES[index], index, size, changed) != root
        assert root_with(LEAVES[index], index ^ 1, size, hashes) != root


def test_an_inclusion_proof_holds_for_no_index_beyond_the_tree() -> None:
    for index, size in itertools.combinations(range(9), 2):
        hashes, root = roots(inclusion(index, size)), root_of((0, size), TILES)
        claimed = (verifier.root_with_leaf(LEAVES[index], at, size, hashes) for at in range(-8, 24))
        assert list(claimed).count(root) == 1


@given(st.data())
def test_a_consistency_proof_holds_only_between_its_two_trees(data: st.DataObject) -> None:
    second = data.draw(SIZES)
    first = data.draw(st.integers(1, second))
    hashes = roots(consistency(first, second))
    old, new = root_of((0, first), TILES), root_of((0, second), TILES)
    root_after = verifier.root_after
    assert root_after(first, old, second, hashes) == new
    assert root_after(first, EMPTY, second, hashes) != new
    if first < second:
        assert root_after(first, old, second, hashes[:-1]) != new
        spoilt = data.draw(st.integers(0, len(hashes) - 1))
        changed = [*hashes[:spoilt], EMPTY, *hashes[spoilt + 1 :]]
        assert root_after(first, old, second, changed) != new
    assert consistency(0, second) == []
