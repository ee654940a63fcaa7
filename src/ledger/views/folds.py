"""Rows in memory: what a projection has folded lately, so that it need not be loaded again.

The latest are kept as objects; of what can be packed, many more as bytes: to unpack a fold costs
less than half of loading it, and takes no round trip. What was changed is kept until it is stored,
so a rebuild writes a row once, at the end, for as long as all rows fit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

_KEPT = 20_000
"""Folds that cannot be packed, beside those that wait to be stored."""

_UNPACKED = 5_000
_PACKED = 80_000
_PACKED_IN_ALL = 110_000
"""Folds that can be, and with those that wait to be stored: of a line an object has 3 to 5 KB, its
bytes have 700, the key included."""


@dataclass(frozen=True)
class Packing(Generic[R]):
    """How a fold becomes bytes, and a fold again."""

    pack: Callable[[R], bytes]
    unpack: Callable[[bytes], R]


class Folds(Generic[K, R]):
    """Folds by key, the least recently used packed and then dropped first."""

    def __init__(self, make: Callable[[K], R], packing: Packing[R] | None = None) -> None:
        self._make, self._packing = make, packing
        self._folds: OrderedDict[K, R] = OrderedDict()
        self._changed: dict[K, None] = {}
        self._packed: OrderedDict[K, bytes] = OrderedDict()
        """As they are stored."""
        self._packed_changed: dict[K, bytes] = {}
        """Those that wait to be stored."""

    def __getitem__(self, key: K) -> R:
        return self._folds[key]

    @property
    def waiting(self) -> int:
        """How many were changed and not stored yet."""
        return len(self._changed)

    def recall(self, keys: Iterable[K]) -> list[K]:
        """Trim memory, then have these in it that are remembered; the others, to be loaded."""
        self._trim()
        missing = []
        for key in keys:
            if key in self._folds:
                self._folds.move_to_end(key)
            elif not self._unpack(key):
                missing.append(key)
        return missing

    def add(self, missing: Iterable[K], loaded: Iterable[tuple[K, R]]) -> None:
        """Have these in memory, as they were loaded, else new."""
        self._folds.update(loaded)
        for key in missing:
            if key not in self._folds:
                self._folds[key] = self._make(key)

    def begin(self, keys: Iterable[K]) -> None:
        """Have these in memory, which are stored nowhere: they need not be looked for."""
        self.add(self.recall(keys), ())

    def change(self, key: K) -> None:
        """Note that a fold was changed."""
        self._changed[key] = None

    def take_changed(self, most: int | None = None) -> list[R]:
        """What was changed, the first of it first, to be stored now; then memory is trimmed."""
        keys = list(islice(self._changed, most))
        changed = [self._stored(key) for key in keys]
        for key in keys:
            del self._changed[key]
        self._trim()
        return changed

    def clear(self) -> None:
        """Forget all."""
        self._folds.clear()
        self._changed.clear()
        self._packed.clear()
        self._packed_changed.clear()

    def _trim(self) -> None:
        """Pack the least recently used, and drop what is stored beyond what is kept."""
        if self._packing is None:
            spare = len(self._folds) - len(self._changed) - _KEPT
            if spare > 0:
                stored = (key for key in self._folds if key not in self._changed)
                for key in list(islice(stored, spare)):
                    del self._folds[key]
            return
        while len(self._folds) > _UNPACKED:
            key, fold = self._folds.popitem(last=False)
            packed = self._packed_changed if key in self._changed else self._packed
            packed[key] = self._packing.pack(fold)
        most = min(_PACKED, _PACKED_IN_ALL - len(self._packed_changed))
        while len(self._packed) > max(0, most):
            self._packed.popitem(last=False)

    def _unpack(self, key: K) -> bool:
        """Make it an object again, if it is packed."""
        packed = self._packed.pop(key, None) or self._packed_changed.pop(key, None)
        if packed is None or self._packing is None:
            return False
        self._folds[key] = self._packing.unpack(packed)
        return True

    def _stored(self, key: K) -> R:
        """A changed one, which is from now on as it is stored; a packed one stays so."""
        if self._packing is None or key in self._folds:
            return self._folds[key]
        packed = self._packed[key] = self._packed_changed.pop(key)
        return self._packing.unpack(packed)
