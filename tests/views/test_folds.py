"""Folds in memory: whatever is packed, dropped and stored, nothing is lost and little is kept."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.views import folds
from ledger.views.folds import Folds, Packing

Fold = list[int]

PACKING = Packing[Fold](bytes, list)
KEYS = st.integers(0, 30)
STEPS = st.lists(st.tuples(st.sets(KEYS, min_size=1, max_size=9), st.integers(0, 12)), max_size=40)


def in_memory(kept: Folds[int, Fold]) -> int:
    return len(kept._folds) + len(kept._packed) + len(kept._packed_changed)


@pytest.mark.parametrize("packing", [PACKING, None], ids=["packed", "as they are"])
@settings(deadline=None)
@given(steps=STEPS, data=st.data())
def test_folds_are_what_they_would_be_if_all_were_kept(
    packing: Packing[Fold] | None, steps: list[tuple[set[int], int]], data: st.DataObject
) -> None:
    stored: dict[int, Fold] = {}
    whole: dict[int, Fold] = {}
    kept: Folds[int, Fold] = Folds(lambda key: [key], packing)

    def load(keys: list[int]) -> Iterable[tuple[int, Fold]]:
        return [(key, stored[key].copy()) for key in keys if key in stored]

    def store(most: int | None) -> None:
        stored.update({fold[0]: fold.copy() for fold in kept.take_changed(most)})

    with pytest.MonkeyPatch.context() as patch:
        for name, few in {"_KEPT": 5, "_UNPACKED": 3, "_PACKED": 4, "_PACKED_IN_ALL": 6}.items():
            patch.setattr(folds, name, few)
        for number, (keys, most) in enumerate(steps):
            missing = kept.recall(keys)
            kept.add(missing, load(missing))
            for key in data.draw(st.sets(st.sampled_from(sorted(keys)))):
                kept[key].append(number)
                kept.change(key)
                whole.setdefault(key, [key]).append(number)
            assert all(kept[key] == whole.get(key, [key]) for key in keys)
            store(most)
            assert in_memory(kept) <= 9 + kept.waiting
            assert len(kept._packed) <= max(0, 6 - len(kept._packed_changed))
        store(None)
    assert kept.waiting == 0
    assert stored == whole


def test_what_is_forgotten_is_loaded_again() -> None:
    kept: Folds[int, Fold] = Folds(lambda key: [key], PACKING)
    kept.begin([1])
    kept[1].append(5)
    kept.change(1)
    kept.clear()
    assert (kept.waiting, in_memory(kept)) == (0, 0)
    missing = kept.recall([1])
    kept.add(missing, [(key, [key, 8]) for key in missing])
    assert kept[1] == [1, 8]
