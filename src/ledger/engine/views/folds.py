"""A write-back cache of folds: the rows that a projection has folded lately.

The most recently used folds are kept as objects. If a projection can pack its folds, many more are
kept as bytes: unpacking a fold costs less than half of loading it, and no round trip. A changed
fold is kept until it is stored. So a rebuild writes each row only once, at the end, as long as all
rows fit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

_CACHED = 20_000
"""Folds without packing, at most; in addition to changed folds that are not stored yet."""

_UNPACKED = 5_000
_PACKED = 80_000
_PACKED_IN_ALL = 110_000
"""Folds with packing, at most: as objects, as bytes, and as bytes with the changed folds that are
not stored yet. The object of a line takes 3 to 5 KB, its bytes 700, the key included."""


@dataclass(frozen=True)
class Packing(Generic[R]):
    """How a fold is converted to bytes and back."""

    pack: Callable[[R], bytes]
    unpack: Callable[[bytes], R]


class States(Generic[K, R]):
    """Folds by key. The least recently used folds are packed, and then dropped, first."""

    def __init__(self, make: Callable[[K], R], packing: Packing[R] | None = None) -> None:
        self._make, self._packing = make, packing
        self._states: OrderedDict[K, R] = OrderedDict()
        self._changed: dict[K, None] = {}
        self._packed: OrderedDict[K, bytes] = OrderedDict()
        """Packed folds that are stored in the database as they are here."""
        self._packed_changed: dict[K, bytes] = {}
        """Packed folds that were changed and are not stored yet."""

    def __getitem__(self, key: K) -> R:
        return self._states[key]

    @property
    def waiting(self) -> int:
        return len(self._changed)

    def recall(self, keys: Iterable[K]) -> list[K]:
        """Trim the cache, then unpack these keys' folds. Return the keys that must be loaded."""
        self._trim()
        missing = []
        for key in keys:
            if key in self._states:
                self._states.move_to_end(key)
            elif not self._unpack(key):
                missing.append(key)
        return missing

    def add(self, missing: Iterable[K], loaded: Iterable[tuple[K, R]]) -> None:
        """Put the loaded folds into the cache, and a new fold for each key that was not loaded."""
        self._states.update(loaded)
        for key in missing:
            if key not in self._states:
                self._states[key] = self._make(key)

    def begin(self, keys: Iterable[K]) -> None:
        """Put new folds into the cache for keys that the database does not have: skip the load."""
        self.add(self.recall(keys), ())

    def change(self, key: K) -> None:
        self._changed[key] = None

    def pop_changed(self, most: int | None = None) -> list[R]:
        """Return changed folds, oldest change first, for the caller to store; trim the cache."""
        keys = list(islice(self._changed, most))
        changed = [self._stored(key) for key in keys]
        for key in keys:
            del self._changed[key]
        self._trim()
        return changed

    def unpacked(self, packed: bytes) -> R:
        """The fold of its bytes, as a table has them."""
        assert self._packing is not None, "these folds are stored as columns"
        return self._packing.unpack(packed)

    def forget(self) -> None:
        self._states.clear()
        self._changed.clear()
        self._packed.clear()
        self._packed_changed.clear()

    def _trim(self) -> None:
        """Pack the least recently used folds, and drop stored folds beyond the limits."""
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
        """Return a changed fold, from now on a stored one. If packed, it stays packed."""
        if self._packing is None or key in self._states:
            return self._states[key]
        packed = self._packed[key] = self._packed_changed.pop(key)
        return self._packing.unpack(packed)


class Remembering:
    """A projection, or a part of a projection, that has folds in memory (``Projection``)."""

    def __init__(self, *parts: "States[Any, Any] | Remembering") -> None:
        self._parts = parts

    @property
    def waiting(self) -> int:
        return sum(part.waiting for part in self._parts)

    def forget(self) -> None:
        for part in self._parts:
            part.forget()
