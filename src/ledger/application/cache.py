"""What a process remembers of the streams that its appends have touched.

The latest aggregates are kept as objects, many more as bytes: most lines get a fact now and then,
and to read a line's events again costs an append ten times as much as to unpack its aggregate. A
version is checked at each use, so what another process has recorded meanwhile is never missed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from ledger.log.snapshots import KINDS, Aggregate
from ledger.log.vault import RunKey

_UNPACKED = 5_000
"""Aggregates kept as objects: some 2 KB each, and as much for a run's key."""

_PACKED = 80_000
"""Those kept as bytes: some 500 each."""

_pack = msgspec.msgpack.Encoder().encode
_UNPACK: dict[str, Callable[[bytes], Aggregate]] = {
    prefix: msgspec.msgpack.Decoder(kind).decode for prefix, kind in KINDS.items()
}


class Cache:
    """Aggregates and run keys; what was read or recorded longest ago is packed, then dropped."""

    def __init__(self) -> None:
        self._aggregates: OrderedDict[str, Aggregate] = OrderedDict()
        self._packed: OrderedDict[str, bytes] = OrderedDict()
        self.run_keys: dict[str, RunKey | None] = {}
        """Of runs that are not packed; None once destroyed."""

    def find(self, identifier: str) -> Aggregate | None:
        """An aggregate as it was last known, or None."""
        found = self._aggregates.get(identifier)
        if found is None and (packed := self._packed.pop(identifier, None)) is not None:
            found = self._aggregates[identifier] = _UNPACK[identifier[:3]](packed)
        return found

    def bring(self, identifier: str) -> Aggregate:
        """The same, or a new one, which is as its stream is while that is empty."""
        found = self.find(identifier)
        if found is None:
            found = self._aggregates[identifier] = KINDS[identifier[:3]](identifier)
        return found

    def keep(self, aggregate: Aggregate) -> None:
        """Remember an aggregate, as the latest."""
        self._packed.pop(aggregate.id, None)
        self._aggregates[aggregate.id] = aggregate
        self._aggregates.move_to_end(aggregate.id)

    def drop(self, identifier: str) -> None:
        """Forget an aggregate, and its key where it is a run."""
        self._aggregates.pop(identifier, None)
        self._packed.pop(identifier, None)
        self.run_keys.pop(identifier, None)

    def forget_key(self, run_id: str | None) -> None:
        """Forget a run's key; None: every key."""
        if run_id is None:
            self.run_keys.clear()
        else:
            self.run_keys.pop(run_id, None)

    def forget(self, ids: Iterable[str]) -> None:
        """Drop what an append that failed may have changed in memory."""
        for identifier in ids:
            self.drop(identifier)

    def trim(self) -> None:
        """Between appends: pack all but the latest, and drop what is too much."""
        while len(self._aggregates) > _UNPACKED:
            identifier, aggregate = self._aggregates.popitem(last=False)
            self._packed[identifier] = _pack(aggregate)
            self.run_keys.pop(identifier, None)
        while len(self._packed) > _PACKED:
            self._packed.popitem(last=False)
