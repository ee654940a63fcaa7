"""The aggregates in a process's memory, and those that an append has brought up to date.

Under the append lock each requested aggregate applies the events that other processes have recorded
since. It then stays current until the commit.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import msgspec

from ledger.engine.log.append import Append, Loaded, Wanted, Window
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables, IdentityOwner
from ledger.engine.log.snapshots import EVERY, row_of
from ledger.engine.log.tables import (
    EXECUTION_RECORD,
    LINE_ACTIVITY,
    RUN_KEY,
    LineActivityRow,
    SnapshotRow,
)
from ledger.engine.log.vault import RunKey, Vault
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.errors import NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Credential, Folded, Identity, Recorded
from ledger.records import AGGREGATES, NOUNS

_UNPACKED = 5_000
"""The most aggregates kept as objects: some 2 KB each, and as much for a run's key."""

_PACKED = 80_000
"""The most aggregates kept as packed bytes: some 500 bytes each."""

_LONGEST = 2**12
"""No chain of identities is so long (``length``)."""

NEXT = range(3, 11)
"""The numbers of a chain that are looked up once its second identity is known."""

_pack = msgspec.msgpack.Encoder().encode
_UNPACK: dict[str, Callable[[bytes], Folded]] = {
    prefix: msgspec.msgpack.Decoder(kind).decode for prefix, kind in AGGREGATES.items()
}


def sees(principal: Principal, found: Folded | None) -> bool:
    """True if a credential sees an aggregate, by its tenant; False if there is none."""
    return found is not None and principal.sees(found.organization_id, found.workspace_id)


_NOTHING = Loaded((), (), {}, {}, ())

A = TypeVar("A", bound=Folded)


class Erasable(Protocol):
    """A run, as far as its data key is concerned."""

    id: str
    erased_at: datetime | None


class Memory:
    """The aggregates of the streams that a process's appends have used, and the keys of runs.

    The latest aggregates are objects, and many more are packed bytes: most lines get a fact now and
    then, and reading a line's events again costs an append ten times as much as unpacking its
    aggregate. An append checks the version of every aggregate that it uses, so it never misses
    events that another process has recorded.
    """

    def __init__(self, mapper: EnvelopeMapper, vault: Vault) -> None:
        self._mapper, self._vault = mapper, vault
        self._aggregates: OrderedDict[str, Folded] = OrderedDict()
        self._packed: OrderedDict[str, bytes] = OrderedDict()
        self._run_keys: dict[str, RunKey | None] = {}
        """The keys of runs that are not packed; None once a key is destroyed."""

    def begin(self, append: Append, tables: DecisionTables) -> None:
        """Begin an append: no aggregate is known to be up to date."""
        if append.is_first:
            self.clear()
        self._append, self._tables = append, tables
        self._fresh: set[str] = set()
        self._queried: set[Identity] = set()
        self._lengths: dict[Identity, int] = {}
        """The lengths of chains of identities, by a chain's first identity."""
        self._unloaded: dict[str, Recorded] = {}
        self._long: set[str] = set()
        """Streams that are due for a snapshot: a long tail was read, or the version is a multiple
        of ``EVERY``."""

    def forget_key(self, run_id: str | None) -> None:
        """Forget a run's key; every key if None."""
        if run_id is None:
            self._run_keys.clear()
        else:
            self._run_keys.pop(run_id, None)

    def forget(self, ids: Iterable[str]) -> None:
        """Forget the aggregates that a failed append may have changed, and their keys."""
        for identifier in ids:
            self._drop(identifier)

    def clear(self) -> None:
        """Forget everything: the database may lack the last events."""
        self._aggregates.clear()
        self._packed.clear()
        self._run_keys.clear()

    def end(self) -> None:
        """End a committed append: pack older aggregates, drop the oldest packed ones beyond the
        limit."""
        del self._append, self._tables, self._unloaded
        while len(self._aggregates) > _UNPACKED:
            identifier, aggregate = self._aggregates.popitem(last=False)
            self._packed[identifier] = _pack(aggregate)
            self._run_keys.pop(identifier, None)
        while len(self._packed) > _PACKED:
            self._packed.popitem(last=False)

    def cached(self, identifier: str) -> Folded | None:
        found = self._aggregates.get(identifier)
        if found is None and (packed := self._packed.pop(identifier, None)) is not None:
            found = self._aggregates[identifier] = _UNPACK[identifier[:3]](packed)
        return found

    def _bring(self, identifier: str) -> Folded:
        """The cached aggregate, or a new one: the state of an empty stream."""
        found = self.cached(identifier)
        if found is None:
            found = self._aggregates[identifier] = AGGREGATES[identifier[:3]](identifier)
        return found

    def _put(self, aggregate: Folded) -> None:
        identifier = aggregate.id
        self._packed.pop(identifier, None)
        self._aggregates[identifier] = aggregate
        self._aggregates.move_to_end(identifier)

    def _drop(self, identifier: str) -> None:
        self._aggregates.pop(identifier, None)
        self._packed.pop(identifier, None)
        self._run_keys.pop(identifier, None)

    def load(
        self,
        ids: Iterable[str],
        identities: Collection[Identity] = (),
        keys: Collection[str] = (),
        *,
        rows: Mapping[Table, Collection[Sequence[Any]]] = MappingProxyType({}),
        windows: Sequence[Window] = (),
    ) -> Loaded:
        """Make aggregates current for a whole group, in one or two reads.

        Cached ones apply their tails. An unknown one, or one far behind, starts from its snapshot
        if it has one. The lines of runs are loaded too, as are the events that have these
        identities and the keys of these runs. Returns what was read, with the wanted rows and
        numbers.
        """
        wanted = set(ids) - self._fresh
        unread = [identity for identity in identities if identity not in self._queried]
        if not wanted and not unread and not keys and self._append.next_position:
            return _NOTHING
        runs = {i for i in wanted if i.startswith("RUN")}
        cached = {i for i in runs if self.cached(i) is not None}
        wanted |= self._lines_of(cached)
        read = self._read(
            wanted,
            unread,
            {
                LINE_ACTIVITY: [i for i in wanted if i.startswith("LIN")],
                EXECUTION_RECORD: runs - cached,
                RUN_KEY: [*keys, *self._without_key(cached)],
            },
            Wanted(rows=rows, windows=windows),
        )
        # Only now it is known which of the other runs exist, and which lines they belong to.
        found = {i for i in runs - cached if self.cached(i) is not None}
        self.load(self._lines_of(found), keys=self._without_key(found))
        return read

    def require(self, ids: Collection[str]) -> None:
        """Make aggregates current if this append has not done so."""
        if not self._fresh.issuperset(ids):
            self.load(ids)

    def _read(
        self,
        streams: set[str],
        identities: Sequence[Identity],
        ids: Mapping[Table, Iterable[str]],
        others: Wanted,
    ) -> Loaded:
        tables = self._tables
        read = self._append.read(
            others._replace(
                streams={i: cached.version if (cached := self.cached(i)) else 0 for i in streams},
                identities=identities,
                rows={**others.rows} | {table: [(i,) for i in some] for table, some in ids.items()},
            )
        )
        self._queried.update(identities)
        for identity, found in read.firsts.items():
            *before, event = [self._mapper.decode(*row) for row in found]
            tables.firsts[identity] = IdentityOwner.of(event, *before)
        for activity in read.rows.get(LINE_ACTIVITY, ()):
            tables.activity.setdefault(activity.line_id, activity)
        for record in read.rows.get(EXECUTION_RECORD, ()):
            tables.records.setdefault(record.execution_id, record)
        for run_id, owner, wrapped, _ in read.rows.get(RUN_KEY, ()):
            key = None if wrapped is None else self._vault.unwrap(wrapped, owner, run_id)
            self._run_keys[run_id] = key
        for aggregate in read.snapshots:
            self._put(aggregate)
        if len(read.tails) >= EVERY:
            replayed = Counter(row[0] for row in read.tails)
            self._long.update(stream for stream, events in replayed.items() if events >= EVERY)
        for row in read.tails:
            self._bring(row[0]).apply(self._mapper.decode(*row))
        for identifier in self._unloaded.keys() & streams:
            self._bring(identifier).apply(self._unloaded.pop(identifier))
        self._fresh |= streams
        return read

    def _without_key(self, runs: Iterable[str]) -> list[str]:
        return [run for run in runs if run not in self._run_keys]

    def _lines_of(self, runs: Iterable[str]) -> set[str]:
        found = filter(None, map(self.cached, runs))
        return {line for run in found if (line := run.service_line_id)} - self._fresh

    def find(self, identifier: str) -> Folded | None:
        """An aggregate, up to date; None if the stream is empty."""
        if identifier not in self._fresh:
            self.load((identifier,))
        return self._aggregates.get(identifier) or self.cached(identifier)

    def current(self, identifier: str) -> Folded | None:
        """An aggregate if this append has brought it up to date already, else None."""
        return self.cached(identifier) if identifier in self._fresh else None

    def tenant_of(self, stream: str) -> str | None:
        """The organization of an aggregate in memory; None if it is not there."""
        aggregate = self.cached(stream)
        return aggregate.organization_id if aggregate is not None else None

    def get(self, kind: type[A], identifier: str, principal: Principal) -> A:
        """An aggregate of this class, up to date.

        Raises NotFound if there is none, it was deleted, or the credential does not see it.
        """
        found = self.find(identifier)
        if not isinstance(found, kind) or found.deleted or not sees(principal, found):
            raise NotFound(f"No such {NOUNS[kind]}.")
        return found

    def key_of(self, principal: Principal) -> Credential | None:
        """The caller's API key as it is now; None if the caller has none."""
        found = self.find(principal.id) if principal.type == "api_key" else None
        return found if isinstance(found, Credential) else None

    def activity(self, line_id: str) -> LineActivityRow:
        if line_id not in self._fresh:
            self.load((line_id,))
        return self._tables.activity[line_id]

    def first(self, identity: Identity) -> IdentityOwner | None:
        """The event that has an identity, recorded in this group or before it."""
        if identity not in self._queried:
            self.load((), (identity,))
        return self._tables.firsts.get(identity)

    def length(self, link: Callable[[int], Identity]) -> int:
        """How many identities a chain has: ``link(1)``, ``link(2)`` … without a gap."""
        first = link(1)
        length = self._lengths[first] if first in self._lengths else self._search(link)
        while link(length + 1) in self._tables.firsts:
            length += 1
        self._lengths[first] = length
        return length

    def _search(self, link: Callable[[int], Identity]) -> int:
        """Search ever farther ahead of the last known identity, at several at once.

        Most chains have one identity, and the next ones are looked up with the whole group. A chain
        of thousands takes some ten reads.
        """
        last, missing, steps = 0, _LONGEST, [1, 2]
        while steps:
            self.load((), [link(step) for step in steps])
            found = [step for step in steps if self.exists(link(step))]
            last = found[-1] if found else last
            missing = next((step for step in steps if step not in found), missing)
            ahead = NEXT if last == 2 else (last + 2**power for power in range(12))
            steps = [step for step in ahead if last < step < missing]
        return last

    def streams(self, link: Callable[[int], Identity]) -> list[str]:
        """The streams of the events of a chain of identities, each once, without the events."""
        links = [link(number) for number in range(1, self.length(link) + 1)]
        firsts = self._tables.firsts
        unread = [each for each in links if each not in firsts]
        found = self._append.streams_of(unread) if unread else []
        stored = dict(zip(unread, found, strict=True))
        found_ids = {each: firsts[each].event.originator_id for each in links if each in firsts}
        return list(dict.fromkeys((stored | found_ids)[each] for each in links))

    def exists(self, identity: Identity) -> bool:
        """True if an identity that was looked up in this append has an event."""
        return identity in self._tables.firsts

    def runs_of_facts(self) -> set[str]:
        """The runs of the loaded events: of repeated facts, and those that external ids name."""
        streams = {first.event.originator_id for first in self._tables.firsts.values()}
        return {stream for stream in streams if stream.startswith("RUN")}

    def run_key(self, run: Erasable) -> RunKey | None:
        """The run's data key; None once the key was destroyed.

        If another process destroyed a key that is in memory here, the run, which is up to date,
        shows its erasure.
        """
        if run.erased_at is not None:
            self._run_keys[run.id] = None
        return self._run_keys.get(run.id)

    def keep(self, aggregate: Folded) -> None:
        """Mark an aggregate as current: it has applied its latest event."""
        self._put(aggregate)
        self._fresh.add(aggregate.id)
        if aggregate.version % EVERY == 0:
            self._long.add(aggregate.id)

    def keep_key(self, run_id: str, key: RunKey) -> None:
        """Cache the key of a run whose first event is about to be recorded."""
        self._run_keys[run_id] = key

    def apply(self, recorded: Recorded) -> None:
        """Apply an event that was recorded without loading its aggregate.

        If the aggregate is loaded in this append, it applies the event at once. Otherwise a cached
        aggregate is now behind, so it is dropped, and the event is stored here. If a later command
        of this group needs the aggregate, its stream is read from the table, which does not have
        the event yet.
        """
        stream = recorded.originator_id
        loaded = self.cached(stream)
        if loaded is not None and stream in self._fresh:
            loaded.apply(recorded)
        else:
            self._unloaded[stream] = recorded
            self._drop(stream)

    def note_written(self) -> None:
        """Note that the table now has all events recorded so far, for reads of this append."""
        self._unloaded.clear()

    def snapshots(self) -> list[SnapshotRow]:
        return [row_of(self._bring(stream)) for stream in self._long]
