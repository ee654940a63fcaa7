"""The unit of work of one append: aggregates up to date, decisions made, events collected.

``Unit`` lives as long as one append transaction. It brings every aggregate of the group up to date
(one statement), lets each command decide in turn, and writes all of it (one statement). What a
command records is applied at once, so that the next command of the group sees it.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from ledger.application.cache import Cache
from ledger.application.command import Command
from ledger.application.idempotency import Outcomes
from ledger.application.principal import Principal
from ledger.domain.endpoint import Endpoint
from ledger.domain.errors import NotFound
from ledger.domain.execution import Execution
from ledger.domain.recorded import Actor, Event, FactIdentity, Recorded
from ledger.domain.run import Run
from ledger.domain.values import EARLIEST, format_id
from ledger.store.append import Append, FactRow
from ledger.store.decision_tables import LineActivity
from ledger.store.log import Log
from ledger.store.side_tables import Omitted
from ledger.store.snapshots import EVERY, Aggregate
from ledger.store.vault import RunKey, Vault

A = TypeVar("A", Execution, Run, Endpoint)

_YEAR_END = timedelta(milliseconds=50)

_AHEAD = 200
"""Events that are written while the rest of a large group is decided."""


class Unit:
    """One group's work under the append lock."""

    def __init__(
        self,
        append: Append,
        log: Log,
        cache: Cache,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
    ) -> None:
        self.append = append
        self.decisions = append.decisions
        self.idle_after = idle_after
        self._log, self._cache, self._clock = log, cache, clock
        self._fresh: set[str] = set()
        """Streams known to be up to date in this append."""
        self._facts: dict[tuple[str, str, str], FactRow] = {}
        self._asked: set[tuple[str, str, str]] = set()
        self._new_facts: list[FactRow] = []
        self._new_keys: list[tuple[str, str, bytes]] = []
        self._recorded: list[Recorded] = []
        self._is_ahead = False
        """Whether events were recorded that are not among these any more: they are written."""
        self._unloaded: dict[str, Recorded] = {}
        self._long: set[str] = set()
        """Streams that are due for a snapshot: a long tail was read, or a round version reached."""
        self._free_ids: dict[tuple[str, int], Iterator[int]] = {}
        self._omitted: dict[Principal, tuple[datetime, int]] = {}
        self.outcomes = Outcomes(append.aside, vault)
        self.vault = vault
        self.touched: set[str] = set()
        self.now = EARLIEST

    # Bringing the group's aggregates up to date.

    def prepare(self, commands: Sequence[Command]) -> None:
        """Load what the whole group needs, so that its commands seldom ask one by one."""
        begun: dict[str, str] = {}
        unknown: list[Command] = []
        identities: set[tuple[str, str, str]] = set()

        def tenant_of(stream: str) -> str | None:
            return self.tenant_of(stream) or begun.get(stream)

        streams: set[str] = set()
        for command in commands:
            streams.update(command.streams())
            identity = command.identity(tenant_of)
            if identity is None:
                unknown.append(command)
                continue
            identities.add(identity)
            # A stream that this very group begins belongs to whoever begins it.
            for stream in command.streams():
                begun.setdefault(stream, identity[0])
        self.load(streams, identities)
        # Now that streams are loaded, administrators' facts have a tenant too; and a repeated
        # fact about a run is compared under that run's key.
        late = {identity for c in unknown if (identity := c.identity(tenant_of)) is not None}
        self.load({row.run_id for row in self._facts.values() if row.run_id is not None}, late)
        self.outcomes.load(c.idempotency for c in commands if c.idempotency is not None)

    def tenant_of(self, stream: str) -> str | None:
        """The organization of a loaded aggregate."""
        aggregate = self._cache.find(stream)
        return aggregate.organization_id if aggregate is not None else None

    def load(self, ids: Iterable[str], identities: Collection[tuple[str, str, str]] = ()) -> None:
        """Make aggregates current: cached ones take in their tails, unknown ones are built.

        One that is far behind, or unknown, and has a snapshot goes on from there.
        The lines of runs come with them, and the facts recorded under these identities.
        """
        wanted = {i for i in ids if i not in self._fresh}
        asked = {identity for identity in identities if identity not in self._asked}
        if not wanted and not asked and self.append.next_position:
            return
        runs = {i for i in wanted if i.startswith("RUN")}
        wanted |= self._lines_of(runs)
        state = self.append.read(
            {i: known.version if (known := self._cache.find(i)) else 0 for i in wanted},
            facts=asked,
            lines=[i for i in wanted if i not in self.decisions.activity],
            runs=[i for i in runs if i not in self._cache.run_keys],
        )
        self._asked |= asked
        self._facts |= {row[:3]: row for row in state.facts}
        self.decisions.activity = state.activity | self.decisions.activity
        self.decisions.execution_records = state.records | self.decisions.execution_records
        for run_id, owner, wrapped in state.keys:
            key = None if wrapped is None else self.vault.unwrap(wrapped, owner, run_id)
            self._cache.run_keys[run_id] = key
        for aggregate in state.snapshots:
            self._cache.keep(aggregate)
        if len(state.tails) >= EVERY:
            replayed = Counter(row[0] for row in state.tails)
            self._long.update(stream for stream, events in replayed.items() if events >= EVERY)
        for row in state.tails:
            self._cache.bring(row[0]).evolve(self._log.codec.decode(*row))
        for identifier in self._unloaded.keys() & wanted:
            self._cache.bring(identifier).evolve(self._unloaded.pop(identifier))
        self._fresh |= wanted
        # The lines of runs that were not in memory are only known now.
        self.load(self._lines_of(runs))

    def _lines_of(self, runs: Iterable[str]) -> set[str]:
        found = map(self._cache.find, runs)
        return {run.service_line_id for run in found if isinstance(run, Run)} - self._fresh

    def begin(self) -> None:
        """Start on the next command: it gets an instant of its own."""
        if len(self._recorded) >= _AHEAD:
            self._write_recorded(is_last=False)
            self._is_ahead = True
        self.now = self._next_instant()

    # What commands ask.

    def find(self, identifier: str) -> Aggregate | None:
        """An aggregate, up to date, or None where the stream is empty."""
        if identifier not in self._fresh:
            self.load((identifier,))
        return self._cache.find(identifier)

    def execution(self, line_id: str, principal: Principal) -> Execution:
        """A line that the credential sees. Raises NotFound."""
        return self._seen(Execution, line_id, principal, "No such service line.")

    def run(self, run_id: str, principal: Principal) -> Run:
        """A run that the credential sees. Raises NotFound."""
        return self._seen(Run, run_id, principal, "No such run.")

    def endpoint(self, endpoint_id: str, principal: Principal) -> Endpoint:
        """A webhook endpoint that the credential sees. Raises NotFound, for a deleted one too."""
        unknown = "No such webhook endpoint."
        found = self._seen(Endpoint, endpoint_id, principal, unknown)
        if found.deleted:
            raise NotFound(unknown)
        return found

    def _seen(self, kind: type[A], identifier: str, principal: Principal, unknown: str) -> A:
        """An aggregate of a kind, where the credential sees it."""
        found = self.find(identifier)
        if not isinstance(found, kind) or not principal.sees(
            found.organization_id, found.workspace_id
        ):
            raise NotFound(unknown)
        return found

    def activity(self, line_id: str) -> LineActivity:
        """The line's last activity and number of open runs."""
        if line_id not in self._fresh:
            self.load((line_id,))
        return self.decisions.activity[line_id]

    def run_key(self, run: Run) -> RunKey | None:
        """The run's data key, or None once it was destroyed.

        Another process may have destroyed it while this one had it in memory: the run, which is up
        to date, tells.
        """
        if run.erased_at is not None:
            self._cache.run_keys[run.id] = None
        return self._cache.run_keys.get(run.id)

    def create_run_key(self, organization_id: str, run_id: str) -> RunKey:
        """A data key for a run that is about to be recorded."""
        key, wrapped = self.vault.create(organization_id, run_id)
        self._new_keys.append((run_id, organization_id, wrapped))
        self._cache.run_keys[run_id] = key
        self.touched.add(run_id)
        return key

    def fact(self, identity: tuple[str, str, str]) -> FactRow | None:
        """The first outcome of a fact recorded before, in this group or earlier."""
        if identity not in self._asked:
            self.load((), (identity,))
        return self._facts.get(identity)

    def issue(self, prefix: str) -> str:
        """The next id of this year's counter, skipping taken ones (contract 2)."""
        year = self.now.year
        key = (prefix, year)
        if key not in self._free_ids:
            self._free_ids[key] = self._free_numbers(prefix, year)
        return format_id(prefix, year, next(self._free_ids[key]))

    def _free_numbers(self, prefix: str, year: int) -> Iterator[int]:
        number, window = self.decisions.counter(prefix, year), 16
        while True:
            numbers = range(number + 1, number + 1 + window)
            ids = {format_id(prefix, year, n): n for n in numbers}
            taken = self.append.taken(list(ids))
            for identifier, candidate in ids.items():
                # Looked at now, not when the window was read: this group may have taken it since.
                in_group = identifier in self.touched or identifier in self.decisions.new_records
                if identifier not in taken and not in_group:
                    yield candidate
            number, window = number + window, min(window * 4, 2048)

    # What commands record.

    @property
    def next_position(self) -> int:
        """The position that the next recorded event will get."""
        return self.append.next_position + len(self._recorded)

    def event_id(self, position: int) -> str:
        """The EVT id of a position in this append (contract 5)."""
        return format_id("EVT", self.now.year, position)

    def record(
        self,
        aggregate: Aggregate,
        body: Event,
        occurred_at: datetime,
        command: Command,
        *,
        actor: Actor | None = None,
        fact: FactIdentity | None = None,
        caused_by: str | None = None,
        tenant: tuple[str | None, str | None, str | None] | None = None,
    ) -> Recorded:
        """Put an event in its envelope, apply it and keep it for writing.

        ``tenant`` is (organization, workspace, line) for the first event of a stream; later ones
        take it from the aggregate. ``caused_by`` is the causing event's EVT id.
        """
        line_id = getattr(aggregate, "service_line_id", None)
        if tenant is None:
            if isinstance(aggregate, Execution):
                line_id = aggregate.id
            tenant = (aggregate.organization_id, aggregate.workspace_id, line_id)
        recorded = Recorded(
            originator_id=aggregate.id,
            originator_version=aggregate.version + 1,
            position=self.next_position,
            occurred_at=occurred_at,
            recorded_at=self.next_recorded_at(),
            actor=actor or command.principal.actor,
            reported_by=command.principal.id,
            organization_id=tenant[0],
            workspace_id=tenant[1],
            service_line_id=tenant[2],
            fact=fact,
            request_id=command.request_id,
            causation_id=caused_by,
            nonce=os.urandom(16),
            body=body,
        )
        self._recorded.append(recorded)
        self.touched.add(aggregate.id)
        self._cache.keep(aggregate)
        self._fresh.add(aggregate.id)
        aggregate.evolve(recorded)
        self.decisions.note(recorded)
        if recorded.originator_version % EVERY == 0:
            self._long.add(aggregate.id)
        return recorded

    def record_unloaded(self, recorded: Recorded) -> None:
        """Keep an event of a stream whose aggregate is not in memory (a closing's cancellations).

        One that is loaded after all takes the event in at once. Any other is behind if it is
        cached at all; should a later command of this group ask for it, it is read from the table
        and then takes in this event, which the table does not have yet.
        """
        self._recorded.append(recorded)
        loaded = self._cache.find(recorded.originator_id)
        if loaded is not None and recorded.originator_id in self._fresh:
            loaded.evolve(recorded)
        else:
            self._unloaded[recorded.originator_id] = recorded
            self._cache.drop(recorded.originator_id)
        self.touched.add(recorded.originator_id)
        self.decisions.note(recorded)

    def remember(self, row: FactRow) -> None:
        """Keep a fact's outcome, to be found when it is sent again."""
        self._facts[row[:3]] = row
        self._new_facts.append(row)

    def omit(self, principal: Principal) -> None:
        """Count a refusal of the credential that is not recorded singly."""
        since, count = self._omitted.get(principal, (self.now, 0))
        self._omitted[principal] = since, count + 1

    def write(self) -> None:
        """Write everything recorded, and what is kept beside it, in the append transaction."""
        if self._recorded or self._is_ahead:
            self._write_recorded(is_last=True)
        self.outcomes.write()
        for principal, (since, count) in self._omitted.items():
            tenant = principal.organization_id, principal.workspace_id
            self.append.aside.omit(principal.credential, Omitted(*tenant, since, count))
        if self._long:
            self.append.keep([self._cache.bring(stream) for stream in self._long])

    def _write_recorded(self, *, is_last: bool) -> None:
        self._log.events.put(
            self._recorded,
            append=self.append,
            recorded=self._recorded,
            facts=self._new_facts,
            keys=self._new_keys,
            is_last=is_last,
        )
        self._recorded, self._new_facts, self._new_keys = [], [], []
        # The table has them from now on, for whoever asks in this append.
        self._unloaded.clear()

    def _next_instant(self) -> datetime:
        """Now, but after everything recorded before (clocks may step back, nodes may differ).

        A command's events are recorded within one UTC year, which ids are counted by: in a year's
        last moment the next year has already begun.
        """
        now = self._clock().astimezone(UTC)
        if (now + _YEAR_END).year != now.year:
            now = datetime(now.year + 1, 1, 1, tzinfo=UTC)
        last = self.append.last_recorded_at
        if last is not None and now <= last:
            now = last.astimezone(UTC) + timedelta(microseconds=1)
        return now

    def next_recorded_at(self) -> datetime:
        """The instant of recording of the next event: rises strictly with position."""
        last = self.append.last_recorded_at
        at = self.now
        if last is not None and at <= last:
            at = last + timedelta(microseconds=1)
        self.append.last_recorded_at = at
        return at
