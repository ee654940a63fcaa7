"""The unit of work of one append: the commands of a group decide and record with it.

``Unit`` lives as long as one append transaction. The unit loads the data of the whole group in few
reads, lets each command decide in turn, and writes all results together.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property

from ledger.application.idempotency import KeptOutcomes
from ledger.application.loader import Cache, Loader
from ledger.application.new_events import NewEvents
from ledger.domain.identity import Identity
from ledger.domain.values import format_id
from ledger.intake.principal import Principal
from ledger.intake.request import Request
from ledger.log.append import Append
from ledger.log.event_log import Log
from ledger.log.leases import EndedLease
from ledger.log.tables import OmittedRow
from ledger.log.vault import Vault


class Ids:
    """Ids that the ledger issues: counted per prefix and UTC year of recording (contract, Facts).

    ``touched`` are the streams in which the append records events.
    """

    def __init__(self, append: Append, touched: Collection[str]) -> None:
        self._append, self._touched = append, touched
        self._free: dict[tuple[str, int], Iterator[str]] = {}

    def issue(self, prefix: str, year: int) -> str:
        """The next id of a year's counter, skipping ids that are taken."""
        key = (prefix, year)
        if key not in self._free:
            self._free[key] = self._free_ids(prefix, year)
        return next(self._free[key])

    def _free_ids(self, prefix: str, year: int) -> Iterator[str]:
        for window in windows_after(self._append.counter(prefix, year)):
            ids = [format_id(prefix, year, number) for number in window]
            taken = self._append.taken(ids)
            for identifier in ids:
                # Checked now, not when the window was read: a command of this group may have taken
                # the id since.
                in_group = (
                    identifier in self._touched or identifier in self._append.decisions.new_records
                )
                if identifier not in taken and not in_group:
                    yield identifier


def windows_after(number: int) -> Iterator[range]:
    """The numbers that are tried after a counter's, in windows that are looked up at once.

    The first windows adjoin. The later ones lie ever farther apart: reporters may have taken any
    count of numbers in a row, and a walk through all of them would hold up every other append.
    """
    window = 16
    while window < 1024:
        yield range(number + 1, number + 1 + window)
        number, window = number + window, window * 4
    step = window
    while True:
        yield range(number + 1, number + 1 + 256)
        number, step = number + step, step * 4


class Unit:
    """The unit of work of one group of commands, under the append lock."""

    def __init__(
        self,
        append: Append,
        log: Log,
        cache: Cache,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
    ) -> None:
        self.append, self.vault, self.idle_after = append, vault, idle_after
        self.loader = Loader(append, log.codec, cache, vault)
        self.events = NewEvents(append, log.codec, self.loader, vault, clock)
        self.outcomes = KeptOutcomes(append, vault)
        self._omitted: dict[str, OmittedRow] = {}
        """Refusals that were only counted, by credential."""
        self._ended_leases: dict[str, EndedLease | None] = {}
        """The stored leases that were read; None: the lease has not ended, or is no more."""

    @property
    def now(self) -> datetime:
        """The instant of the command that is being decided."""
        return self.events.now

    def prepare(self, requests: Sequence[Request]) -> None:
        """Load the data of the whole group, so that its commands seldom need reads of their own."""
        begun: dict[str, str] = {}
        unknown: list[Request] = []
        identities: set[Identity] = set()

        def tenant_of(stream: str) -> str | None:
            return self.loader.tenant_of(stream) or begun.get(stream)

        streams: set[str] = set()
        for request in requests:
            streams.update(request.streams())
            if request.needs_key and request.principal.type == "api_key":
                streams.add(request.principal.id)
            known = request.identities(tenant_of)
            if not known:
                unknown.append(request)
                continue
            identities.update(known)
            # A stream that this group begins belongs to the organization of its first request.
            for stream in request.streams():
                begun.setdefault(stream, known[0].organization_id)
        self.loader.load(streams, identities)
        # After the streams are loaded, the tenants of administrators' facts are known too. The runs
        # of repeated facts are loaded because a repeated fact is compared under its run's key. An
        # external id finds its run in the same way, by the event that gave the run the name.
        late = {identity for request in unknown for identity in request.identities(tenant_of)}
        self.loader.load(self.loader.runs_of_facts(), late)
        if late:
            self.loader.load(self.loader.runs_of_facts())
        self.outcomes.load(r.idempotency for r in requests if r.idempotency is not None)

    def issue(self, prefix: str) -> str:
        """The next free id with this prefix, from the counter of this year."""
        return self._ids.issue(prefix, self.now.year)

    @cached_property
    def _ids(self) -> Ids:
        return Ids(self.append, self.events.touched)

    def omit(self, principal: Principal) -> None:
        """Count a refusal of the credential that gets no event of its own."""
        credential = principal.credential
        row = self._omitted.get(credential) or OmittedRow(
            credential, principal.organization_id, principal.workspace_id, self.now, 0
        )
        self._omitted[credential] = row._replace(count=row.count + 1)

    def ended_lease(self, run_id: str, together: Collection[str] = ()) -> EndedLease | None:
        """The lease of a run, if it has ended and nothing of the run arrived in this append.

        The leases of ``together`` are read with it. Only an append changes the end of a lease, so
        what was read stays true until the commit.
        """
        if run_id not in self._ended_leases:
            asked = {run_id, *together}
            self._ended_leases |= dict.fromkeys(asked) | self.append.leases.ended(asked)
        decisions = self.append.decisions
        arrived = run_id in decisions.heard or run_id in decisions.leases
        return None if arrived else self._ended_leases[run_id]

    def write(self) -> None:
        """Write the events, the heartbeats, the outcomes, the omitted counts and the snapshots."""
        self.events.write()
        if self.append.decisions.heard:
            self.append.leases.hear(self.append.decisions.heard)
        self.outcomes.write()
        if self._omitted:
            self.append.aside.omit([*self._omitted.values()])
        self.loader.write_snapshots()
