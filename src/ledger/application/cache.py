"""The aggregates that a process remembers of the streams that its appends have used.

The latest aggregates are kept as objects, and many more as packed bytes: most lines get a fact now
and then, and reading a line's events again costs an append ten times as much as unpacking its
aggregate. An append checks the version of every aggregate that it uses, so events that another
process has recorded meanwhile are never missed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import msgspec

from ledger.log.snapshots import KINDS, Aggregate
from ledger.log.vault import RunKey

_UNPACKED = 5_000
"""The most aggregates kept as objects: some 2 KB each, and as much for a run's key."""

_PACKED = 80_000
"""The most aggregates kept as packed bytes: some 500 bytes each."""

_pack = msgspec.msgpack.Encoder().encode
_UNPACK: dict[str, Callable[[bytes], Aggregate]] = {
    prefix: msgspec.msgpack.Decoder(kind).decode for prefix, kind in KINDS.items()
}


class Cache:
    """Aggregates and run keys; those used longest ago are packed first, and later dropped."""

    def __init__(self) -> None:
        self._aggregates: OrderedDict[str, Aggregate] = OrderedDict()
        self._packed: OrderedDict[str, bytes] = OrderedDict()
        self.run_keys: dict[str, RunKey | None] = {}
        """The keys of runs that are not packed; None once a key is destroyed."""

    def find(self, identifier: str) -> Aggregate | None:
        """An aggregate as it was last known, or None."""
        found = self._aggregates.get(identifier)
        if found is None and (packed := self._packed.pop(identifier, None)) is not None:
            found = self._aggregates[identifier] = _UNPACK[identifier[:3]](packed)
        return found

    def bring(self, identifier: str) -> Aggregate:
        """An aggregate as it was last known, or a new one: the state of an empty stream."""
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
        """Forget an aggregate, and its key if it is a run."""
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
        """Forget the aggregates that a failed append may have changed in memory."""
        for identifier in ids:
            self.drop(identifier)

    def trim(self) -> None:
        """Pack all but the latest aggregates, and drop the oldest packed ones beyond the limit.

        Called between appends only.
        """
        while len(self._aggregates) > _UNPACKED:
            identifier, aggregate = self._aggregates.popitem(last=False)
            self._packed[identifier] = _pack(aggregate)
            self.run_keys.pop(identifier, None)
        while len(self._packed) > _PACKED:
            self._packed.popitem(last=False)
