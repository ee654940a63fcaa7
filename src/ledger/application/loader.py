"""The aggregates of one append, brought up to date, and the facts and keys read with them.

A process remembers most aggregates (``Cache``). Under the append lock each requested aggregate
takes in the events that other processes have recorded since, and then stays current until the
commit.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TypeVar

from ledger.application.cache import Cache
from ledger.domain.endpoint import Endpoint
from ledger.domain.errors import NotFound
from ledger.domain.execution import Execution
from ledger.domain.recorded import Recorded
from ledger.domain.run import Run
from ledger.intake.principal import Principal
from ledger.log.append import Append
from ledger.log.codec import EnvelopeMapper
from ledger.log.snapshots import EVERY, Aggregate
from ledger.log.tables import FactRow, LineActivityRow
from ledger.log.vault import RunKey, Vault

A = TypeVar("A", Execution, Run, Endpoint)

Identity = tuple[str, str, str]
"""(organization, source, fact id)"""


class Loader:
    """The aggregates, facts and keys of an append, read for a whole group in one or two reads."""

    def __init__(self, append: Append, mapper: EnvelopeMapper, cache: Cache, vault: Vault) -> None:
        self._append, self._mapper, self._cache, self._vault = append, mapper, cache, vault
        self._fresh: set[str] = set()
        """Streams known to be up to date in this append."""
        self._facts: dict[Identity, FactRow] = {}
        self._asked: set[Identity] = set()
        self._unloaded: dict[str, Recorded] = {}
        self._long: set[str] = set()
        """Streams that are due for a snapshot: a long tail was read, or the version is a multiple
        of ``EVERY``."""

    def load(self, ids: Iterable[str], identities: Collection[Identity] = ()) -> None:
        """Make aggregates current: cached aggregates take in their tails, unknown ones are built.

        An aggregate that is unknown or far behind starts from its snapshot, if it has one. The
        lines of runs are loaded too, and so are the facts recorded under these identities.
        """
        wanted = {i for i in ids if i not in self._fresh}
        asked = {identity for identity in identities if identity not in self._asked}
        if not wanted and not asked and self._append.next_position:
            return
        runs = {i for i in wanted if i.startswith("RUN")}
        wanted |= self._lines_of(runs)
        decisions = self._append.decisions
        state = self._append.read(
            {i: known.version if (known := self._cache.find(i)) else 0 for i in wanted},
            facts=asked,
            lines=[i for i in wanted if i.startswith("LIN") and i not in decisions.activity],
            runs=[i for i in runs if i not in self._cache.run_keys],
        )
        self._asked |= asked
        self._facts |= {row[:3]: row for row in state.facts}
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
        # Runs that were not in memory tell only now which lines they belong to.
        self.load(self._lines_of(runs))

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

    def _seen(self, kind: type[A], identifier: str, principal: Principal, unknown: str) -> A:
        """An aggregate of this class that the credential sees. Raises NotFound."""
        found = self.find(identifier)
        if not isinstance(found, kind) or not principal.sees(
            found.organization_id, found.workspace_id
        ):
            raise NotFound(unknown)
        return found

    def activity(self, line_id: str) -> LineActivityRow:
        """The line's last activity and number of open runs."""
        if line_id not in self._fresh:
            self.load((line_id,))
        return self._append.decisions.activity[line_id]

    def fact(self, identity: Identity) -> FactRow | None:
        """The first outcome of a fact that was recorded earlier, in this group or before it."""
        if identity not in self._asked:
            self.load((), (identity,))
        return self._facts.get(identity)

    def runs_of_facts(self) -> set[str]:
        """The runs of those loaded facts that were recorded earlier."""
        return {row.run_id for row in self._facts.values() if row.run_id is not None}

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

    def keep_fact(self, row: FactRow) -> None:
        """Remember a fact's outcome."""
        self._facts[row[:3]] = row

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
