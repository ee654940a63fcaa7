"""Rows in memory: what a projection has folded lately, so that it need not be loaded again."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

_KEPT = 20_000


class Folds(Generic[K, R]):
    """Folds by key, the least recently used dropped first; those changed are kept until stored."""

    def __init__(self, make: Callable[[K], R]) -> None:
        self._make = make
        self._folds: OrderedDict[K, R] = OrderedDict()
        self._changed: dict[K, None] = {}

    def __getitem__(self, key: K) -> R:
        return self._folds[key]

    @property
    def waiting(self) -> int:
        """How many were changed and not stored yet."""
        return len(self._changed)

    def bring(self, keys: Iterable[K], load: Callable[[list[K]], Iterable[tuple[K, R]]]) -> None:
        """Have these in memory: remembered, else loaded, else new."""
        missing = []
        for key in keys:
            if key in self._folds:
                self._folds.move_to_end(key)
            else:
                missing.append(key)
        if missing:
            self._folds.update(load(missing))
            for key in missing:
                if key not in self._folds:
                    self._folds[key] = self._make(key)

    def change(self, key: K) -> None:
        """Note that a fold was changed."""
        self._changed[key] = None

    def take_changed(self) -> list[R]:
        """What was changed since the last time, to be stored now; then memory is trimmed."""
        changed = [self._folds[key] for key in self._changed]
        self._changed.clear()
        self.trim()
        return changed

    def trim(self) -> None:
        """Drop the least recently used beyond what is kept; none may be waiting to be stored."""
        while len(self._folds) > _KEPT:
            self._folds.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._folds.clear()
        self._changed.clear()
