"""Folds in memory: packing, dropping and storing lose no change, and the memory is bounded."""

from collections.abc import Iterable, Iterator
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.views import folds
from ledger.engine.views.folds import FoldCache, Packing


class Fold:
    """A fold: a list of numbers. The class counts the folds in memory."""

    alive = 0

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = list(numbers)
        Fold.alive += 1

    def __del__(self) -> None:
        Fold.alive -= 1


class Packed(bytes):
    """A packed fold. The class counts the packed folds in memory."""

    alive = 0

    def __new__(cls, fold: Fold) -> Self:
        Packed.alive += 1
        return super().__new__(cls, fold.numbers)

    def __del__(self) -> None:
        Packed.alive -= 1


PACKING = Packing[Fold](Packed, Fold)
KEYS = st.integers(0, 30)
STEPS = st.lists(st.tuples(st.sets(KEYS, min_size=1, max_size=9), st.integers(0, 12)), max_size=40)


@pytest.mark.parametrize("packing", [PACKING, None], ids=["packed", "as they are"])
@settings(deadline=None)
@given(steps=STEPS, data=st.data())
def test_folds_equal_those_of_a_memory_that_keeps_all(
    packing: Packing[Fold] | None, steps: list[tuple[set[int], int]], data: st.DataObject
) -> None:
    stored: dict[int, list[int]] = {}
    whole: dict[int, list[int]] = {}
    cache: FoldCache[int, Fold] = FoldCache(lambda key: Fold([key]), packing)
    before = Fold.alive, Packed.alive

    def load(keys: list[int]) -> Iterator[tuple[int, Fold]]:
        return ((key, Fold(stored[key])) for key in keys if key in stored)

    def store(most: int | None) -> None:
        stored.update({fold.numbers[0]: fold.numbers[:] for fold in cache.pop_changed(most)})

    with pytest.MonkeyPatch.context() as patch:
        for name, few in {"_CACHED": 5, "_UNPACKED": 3, "_PACKED": 4, "_PACKED_IN_ALL": 6}.items():
            patch.setattr(folds, name, few)
        for number, (keys, most) in enumerate(steps):
            missing = cache.recall(keys)
            cache.add(missing, load(missing))
            for key in data.draw(st.sets(st.sampled_from(sorted(keys)))):
                cache[key].numbers.append(number)
                cache.change(key)
                whole.setdefault(key, [key]).append(number)
            assert all(cache[key].numbers == whole.get(key, [key]) for key in keys)
            store(most)
            folds_alive, packed_alive = Fold.alive - before[0], Packed.alive - before[1]
            assert folds_alive + packed_alive <= 9 + cache.waiting
            assert packed_alive <= max(6, cache.waiting)
        store(None)
    assert cache.waiting == 0
    assert stored == whole


def test_a_forgotten_fold_is_loaded_again() -> None:
    before = Fold.alive + Packed.alive
    cache: FoldCache[int, Fold] = FoldCache(lambda key: Fold([key]), PACKING)
    cache.begin([1])
    cache[1].numbers.append(5)
    cache.change(1)
    cache.forget()
    assert (cache.waiting, Fold.alive + Packed.alive) == (0, before)
    missing = cache.recall([1])
    cache.add(missing, [(key, Fold([key, 8])) for key in missing])
    assert cache[1].numbers == [1, 8]
