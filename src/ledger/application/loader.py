"""The aggregates of one append, brought up to date, and the events and keys read with them.

A process remembers most aggregates (``Cache``). Under the append lock each requested aggregate
takes in the events that other processes have recorded since, and then stays current until the
commit.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import msgspec

from ledger.domain.api_key import ApiKey
from ledger.domain.endpoint import Endpoint
from ledger.domain.errors import NotFound
from ledger.domain.execution import Execution
from ledger.domain.identity import Identity
from ledger.domain.recorded import Recorded
from ledger.domain.run import Run
from ledger.intake.principal import Principal
from ledger.log.append import Append
from ledger.log.codec import EnvelopeMapper
from ledger.log.decisions import First
from ledger.log.snapshots import EVERY, KINDS, Aggregate
from ledger.log.tables import LineActivityRow
from ledger.log.vault import RunKey, Vault

_UNPACKED = 5_000
"""The most aggregates kept as objects: some 2 KB each, and as much for a run's key."""

_PACKED = 80_000
"""The most aggregates kept as packed bytes: some 500 bytes each."""

_pack = msgspec.msgpack.Encoder().encode
_UNPACK: dict[str, Callable[[bytes], Aggregate]] = {
    prefix: msgspec.msgpack.Decoder(kind).decode for prefix, kind in KINDS.items()
}


def sees(principal: Principal, found: Aggregate | None) -> bool:
    """Whether a credential sees an aggregate, by the aggregate's tenant; no, if there is none."""
    return found is not None and principal.sees(found.organization_id, found.workspace_id)


class Cache:
    """The aggregates that a process remembers of the streams that its appends have used.

    The latest aggregates are kept as objects, and many more as packed bytes: most lines get a fact
    now and then, and reading a line's events again costs an append ten times as much as unpacking
    its aggregate. An append checks the version of every aggregate that it uses, so events that
    another process has recorded meanwhile are never missed.
    """

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

    def clear(self) -> None:
        """Forget everything: the database may be one that lacks the last events."""
        self._aggregates.clear()
        self._packed.clear()
        self.run_keys.clear()

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


A = TypeVar("A", Execution, Run, Endpoint, ApiKey)


class Loader:
    """The aggregates, events and keys of an append, read for a whole group in one or two reads."""

    def __init__(self, append: Append, mapper: EnvelopeMapper, cache: Cache, vault: Vault) -> None:
        self._append, self._mapper, self._cache, self._vault = append, mapper, cache, vault
        self._fresh: set[str] = set()
        """Streams known to be up to date in this append."""
        self._asked: set[Identity] = set()
        self._unloaded: dict[str, Recorded] = {}
        self._long: set[str] = set()
        """Streams that are due for a snapshot: a long tail was read, or the version is a multiple
        of ``EVERY``."""

    def load(
        self,
        ids: Iterable[str],
        identities: Collection[Identity] = (),
        keys: Collection[str] = (),
    ) -> None:
        """Make aggregates current: cached aggregates take in their tails, unknown ones are built.

        An aggregate that is unknown or far behind starts from its snapshot, if it has one. The
        lines of runs are loaded too, and so are the events that have these identities, and the keys
        of these runs.
        """
        wanted = {i for i in ids if i not in self._fresh}
        asked = [identity for identity in identities if identity not in self._asked]
        if not wanted and not asked and not keys and self._append.next_position:
            return
        runs = {i for i in wanted if i.startswith("RUN")}
        known_runs = {i for i in runs if self._cache.find(i) is not None}
        wanted |= self._lines_of(known_runs)
        decisions = self._append.decisions
        state = self._append.read(
            {i: known.version if (known := self._cache.find(i)) else 0 for i in wanted},
            identities=asked,
            lines=[i for i in wanted if i.startswith("LIN") and i not in decisions.activity],
            records=runs - known_runs,
            keys=[*keys, *self._without_key(known_runs)],
        )
        self._asked.update(asked)
        for identity, rows in state.firsts.items():
            *before, event = [self._mapper.decode(*row) for row in rows]
            decisions.firsts[identity] = First.of(event, *before)
        for activity in state.activity:
            decisions.activity.setdefault(activity.line_id, activity)
        for record in state.records:
            decisions.records.setdefault(record.execution_id, record)
        for run_id, owner, wrapped, _ in state.keys:
            key = None if wrapped is None else self._vault.unwrap(wrapped, owner, run_id)
            self._cache.run_keys[run_id] = key
        for aggregate in state.snapshots:
            self._cache.keep(aggregate)
        if len(state.tails) >= EVERY:
            replayed = Counter(row[0] for row in state.tails)
            self._long.update(stream for stream, events in replayed.items() if events >= EVERY)
        for row in state.tails:
            self._cache.bring(row[0]).evolve(self._mapper.decode(*row))
        for identifier in self._unloaded.keys() & wanted:
            self._cache.bring(identifier).evolve(self._unloaded.pop(identifier))
        self._fresh |= wanted
        # Only now it shows which of the other runs exist, and which lines they belong to.
        found_runs = {i for i in runs - known_runs if self._cache.find(i) is not None}
        self.load(self._lines_of(found_runs), keys=self._without_key(found_runs))

    def _without_key(self, runs: Iterable[str]) -> list[str]:
        """The runs among these whose keys are not in memory."""
        return [run for run in runs if run not in self._cache.run_keys]

    def _lines_of(self, runs: Iterable[str]) -> set[str]:
        found = map(self._cache.find, runs)
        return {run.service_line_id for run in found if isinstance(run, Run)} - self._fresh

    # Look-ups for commands.

    def find(self, identifier: str) -> Aggregate | None:
        """An aggregate, up to date; None if the stream is empty."""
        if identifier not in self._fresh:
            self.load((identifier,))
        return self._cache.find(identifier)

    def tenant_of(self, stream: str) -> str | None:
        """The organization of an aggregate in memory; None if it is unknown there."""
        aggregate = self._cache.find(stream)
        return aggregate.organization_id if aggregate is not None else None

    def execution(self, line_id: str, principal: Principal) -> Execution:
        """A line. Raises NotFound if the line does not exist or the credential does not see it."""
        return self._seen(Execution, line_id, principal, "No such service line.")

    def run(self, run_id: str, principal: Principal) -> Run:
        """A run. Raises NotFound if the run does not exist or the credential does not see it."""
        return self._seen(Run, run_id, principal, "No such run.")

    def endpoint(self, endpoint_id: str, principal: Principal) -> Endpoint:
        """A webhook endpoint. Raises NotFound as ``run`` does, and for a deleted endpoint too."""
        unknown = "No such webhook endpoint."
        found = self._seen(Endpoint, endpoint_id, principal, unknown)
        if found.deleted:
            raise NotFound(unknown)
        return found

    def api_key(self, key_id: str, principal: Principal) -> ApiKey:
        """An API key. Raises NotFound as ``run`` does."""
        return self._seen(ApiKey, key_id, principal, "No such key.")

    def asking_key(self, principal: Principal) -> ApiKey | None:
        """The key of a credential, as it is now; None: the credential is no key."""
        found = self.find(principal.id) if principal.type == "api_key" else None
        return found if isinstance(found, ApiKey) else None

    def _seen(self, kind: type[A], identifier: str, principal: Principal, unknown: str) -> A:
        """An aggregate of this class that the credential sees. Raises NotFound."""
        found = self.find(identifier)
        if not isinstance(found, kind) or not sees(principal, found):
            raise NotFound(unknown)
        return found

    def activity(self, line_id: str) -> LineActivityRow:
        """The line's last activity and number of open runs."""
        if line_id not in self._fresh:
            self.load((line_id,))
        return self._append.decisions.activity[line_id]

    def first(self, identity: Identity) -> First | None:
        """The event that has an identity, recorded in this group or before it."""
        if identity not in self._asked:
            self.load((), (identity,))
        return self._append.decisions.firsts.get(identity)

    def runs_of_facts(self) -> set[str]:
        """The runs of the loaded events: of repeated facts, and those that external ids name."""
        streams = {first.event.originator_id for first in self._append.decisions.firsts.values()}
        return {stream for stream in streams if stream.startswith("RUN")}

    def run_key(self, run: Run) -> RunKey | None:
        """The run's data key; None once the key was destroyed.

        If another process destroyed the key while this process had it in memory, the run shows the
        erasure, since the run is up to date.
        """
        if run.erased_at is not None:
            self._cache.run_keys[run.id] = None
        return self._cache.run_keys.get(run.id)

    # Results of this append.

    def keep(self, aggregate: Aggregate) -> None:
        """Mark an aggregate as current: it has taken in its latest event."""
        self._cache.keep(aggregate)
        self._fresh.add(aggregate.id)
        if aggregate.version % EVERY == 0:
            self._long.add(aggregate.id)

    def keep_key(self, run_id: str, key: RunKey) -> None:
        """Remember the key of a run whose first event is about to be recorded."""
        self._cache.run_keys[run_id] = key

    def take_in(self, recorded: Recorded) -> None:
        """Take in an event that was recorded without loading its aggregate.

        If the aggregate is loaded in this append, it takes in the event at once. Otherwise a cached
        aggregate is now behind, so it is dropped, and the event is remembered. If a later command
        of this group needs the aggregate, the loader reads its stream from the table and then
        applies the remembered event, which the table does not have yet.
        """
        stream = recorded.originator_id
        loaded = self._cache.find(stream)
        if loaded is not None and stream in self._fresh:
            loaded.evolve(recorded)
        else:
            self._unloaded[stream] = recorded
            self._cache.drop(stream)

    def note_written(self) -> None:
        """Note that the table now has all events recorded so far, for reads of this append."""
        self._unloaded.clear()

    def write_snapshots(self) -> None:
        """Have the snapshots of long streams written."""
        if self._long:
            self._append.keep([self._cache.bring(stream) for stream in self._long])
