"""A write-back cache of folds: the rows that a projection has changed or read lately.

The most recently used ones are objects. If a projection can pack them, many more are bytes:
unpacking costs less than half of loading, and no round trip. A changed one stays until it is
stored. So a rebuild writes each row only once, at the end, as long as all rows fit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

_CACHED = 20_000
"""The most without packing, in addition to changed ones that are not stored yet."""

_UNPACKED = 5_000
_PACKED = 80_000
_PACKED_IN_ALL = 110_000
"""The most with packing: objects, bytes, and bytes with changes that are not stored yet. The object
of a line takes 3 to 5 KB, its bytes 700, including the key."""


@dataclass(frozen=True)
class Packing(Generic[R]):
    """How a fold is converted to bytes and back."""

    pack: Callable[[R], bytes]
    unpack: Callable[[bytes], R]


class FoldCache(Generic[K, R]):
    """A cache by key. The least recently used states are packed, and then dropped, first."""

    def __init__(self, make: Callable[[K], R], packing: Packing[R] | None = None) -> None:
        self._make, self._packing = make, packing
        self._states: OrderedDict[K, R] = OrderedDict()
        self._changed: dict[K, None] = {}
        self._packed: OrderedDict[K, bytes] = OrderedDict()
        """Packed states equal to the database's."""
        self._packed_changed: dict[K, bytes] = {}
        """Packed states that were changed and are not stored yet."""

    def __getitem__(self, key: K) -> R:
        return self._states[key]

    @property
    def waiting(self) -> int:
        return len(self._changed)

    def recall(self, keys: Iterable[K]) -> list[K]:
        """Trim the cache, then unpack these keys' states. Return the keys that must be loaded."""
        self._trim()
        missing = []
        for key in keys:
            if key in self._states:
                self._states.move_to_end(key)
            elif not self._unpack(key):
                missing.append(key)
        return missing

    def add(self, missing: Iterable[K], loaded: Iterable[tuple[K, R]]) -> None:
        """Put the loaded states into the cache, and a new one for each key that was not loaded."""
        self._states.update(loaded)
        for key in missing:
            if key not in self._states:
                self._states[key] = self._make(key)

    def begin(self, keys: Iterable[K]) -> None:
        """Put new states into the cache for keys that the database does not have: skip the load."""
        self.add(self.recall(keys), ())

    def change(self, key: K) -> None:
        self._changed[key] = None

    def pop_changed(self, most: int | None = None) -> list[R]:
        """Return changed states, oldest change first, for the caller to store; trim the cache."""
        keys = list(islice(self._changed, most))
        changed = [self._stored(key) for key in keys]
        for key in keys:
            del self._changed[key]
        self._trim()
        return changed

    def unpacked(self, packed: bytes) -> R:
        assert self._packing is not None, "these folds are stored as columns"
        return self._packing.unpack(packed)

    def forget(self) -> None:
        self._states.clear()
        self._changed.clear()
        self._packed.clear()
        self._packed_changed.clear()

    def _trim(self) -> None:
        """Pack the least recently used states, and drop stored ones beyond the limits."""
        if self._packing is None:
            spare = len(self._states) - len(self._changed) - _CACHED
            if spare > 0:
                stored = (key for key in self._states if key not in self._changed)
                for key in list(islice(stored, spare)):
                    del self._states[key]
            return
        while len(self._states) > _UNPACKED:
            key, state = self._states.popitem(last=False)
            packed = self._packed_changed if key in self._changed else self._packed
            packed[key] = self._packing.pack(state)
        most = min(_PACKED, _PACKED_IN_ALL - len(self._packed_changed))
        while len(self._packed) > max(0, most):
            self._packed.popitem(last=False)

    def _unpack(self, key: K) -> bool:
        packed = self._packed.pop(key, None) or self._packed_changed.pop(key, None)
        if packed is None or self._packing is None:
            return False
        self._states[key] = self._packing.unpack(packed)
        return True

    def _stored(self, key: K) -> R:
        """Return a changed state and mark it as stored. If packed, it stays packed."""
        if self._packing is None or key in self._states:
            return self._states[key]
        packed = self._packed[key] = self._packed_changed.pop(key)
        return self._packing.unpack(packed)


class Remembering:
    """A projection, or a part of one, with states in memory (``Projection``)."""

    def __init__(self, *parts: "FoldCache[Any, Any] | Remembering") -> None:
        self._parts = parts

    @property
    def waiting(self) -> int:
        return sum(part.waiting for part in self._parts)

    def forget(self) -> None:
        for part in self._parts:
            part.forget()
