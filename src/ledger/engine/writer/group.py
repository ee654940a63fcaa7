"""The group: what the commands of one append decide and collect, under the append lock.

A ``Group`` lives as long as one append transaction. It loads the data of all commands in one read,
as far as it is known beforehand. The commands decide one by one, and all results are written
together. An event is applied to its aggregate as soon as a command has recorded it, so that the
next command sees the change.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol, TypeVar

import msgspec

from ledger.engine.log import tables
from ledger.engine.log.append import Append, Numbers, Wanted, Window
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.log.leases import EndedLease
from ledger.engine.log.vault import RunKey, Vault
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values import errors
from ledger.engine.values.errors import Invalid, Refused, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import (
    Actor,
    Credential,
    Event,
    FactIdentity,
    Folded,
    Identity,
    Recorded,
)
from ledger.engine.values.values import EARLIEST, format_id
from ledger.engine.writer.memory import Memory
from ledger.engine.writer.request import IdempotencyKey, Outcome, Receipt, Request
from ledger.records import SINCE

EventTenant = tuple[str | None, str | None, str | None]
"""(organization, workspace, line)"""

_AHEAD = 200
"""So many recorded events are written while the rest is still being decided: the rest of a large
group, or of a closing that cancels many runs."""

_MOST_CHANGES = 500
"""The most events after a position that are searched for those of a line or source."""

RETENTION = timedelta(hours=24)
"""How long the outcome under an idempotency key is stored."""

LASTING: tuple[type[Refused], ...] = (
    errors.Invalid,
    errors.RunsNotSupported,
    errors.InvalidState,
    errors.IdTaken,
    errors.FactConflict,
)
"""Refusals that are replayed, each with its own class: all of 409 and 422. Commands refused with
403 or 404 are decided anew."""

_BY_CODE = {kind.code: kind for kind in LASTING}

_FIRST_WINDOW = 16

_MICROSECOND = timedelta(microseconds=1)

_NONCE = 16
_NONCES = 64
"""The nonces that are drawn at once: each system call takes longer than 16 bytes more."""


class SideRows(Protocol):
    """A feature's rows other than the log's, which few groups need."""

    def write(self) -> None:
        """Write the changes; the statements are sent with the commit."""


R = TypeVar("R", bound=SideRows)


class Group:
    """The commands of one append, under the append lock."""

    def __init__(
        self,
        append: Append,
        memory: Memory,
        mapper: EnvelopeMapper,
        vault: Vault,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
    ) -> None:
        self.append, self.memory, self.vault, self.idle_after = append, memory, vault, idle_after
        self._mapper, self._clock = mapper, clock
        self.tables = DecisionTables()
        memory.begin(append, self.tables)
        self.now = EARLIEST
        """The instant of the command that is being decided."""
        self.touched: set[str] = set()
        """The streams of all recorded events."""
        self._recorded: list[Recorded] = []
        """The events that are not written yet."""
        self._keys: list[tables.RunKeyRow] = []
        self._is_ahead = False
        """True if some recorded events were written already and are no longer in ``_recorded``."""
        self._numbers: dict[tuple[str, int], Numbers] = {}
        """The numbers of ids that were looked up for the whole group, by prefix and year."""
        self._free: dict[tuple[str, int], Iterator[str]] = {}
        self._outcomes: dict[tuple[str, ...], tables.OutcomeRow] = {}
        """The stored outcomes under the group's idempotency keys, by the row's key."""
        self._new_outcomes: dict[tuple[str, ...], tables.OutcomeRow] = {}
        self._changes: dict[int, Collection[str] | None] = {}
        """The lines and sources of stored events, by the position before them."""
        self._omitted: dict[str, tables.OmittedRow] = {}
        """Refusals that were only counted, by credential."""
        self._ended_leases: dict[str, EndedLease | None] = {}
        """The stored leases that were read; None if the lease has not ended or is gone."""
        self._side_rows: dict[Callable[[Append], Any], Any] = {}
        """Features' rows other than the log's, by their class."""
        self._random = b""
        """Random bytes for the next nonces."""

    def prepare(self, requests: Sequence[Request], now: datetime) -> None:
        """Load the data of the whole group, so that its commands seldom need their own reads."""
        begun: dict[str, str] = {}
        unknown: list[Request] = []
        identities: set[Identity] = set()

        def tenant_of(stream: str) -> str | None:
            return self.memory.tenant_of(stream) or begun.get(stream)

        streams: set[str] = set()
        issued = Counter[str]()
        outcomes: set[tuple[str, ...]] = set()
        for request in requests:
            of_request = tuple(request.streams())
            streams.update(of_request)
            if (prefix := request.issues) is not None:
                issued[prefix] += 1
            if request.idempotency is not None:
                outcomes.add(_columns(request.idempotency))
            if request.needs_key and request.principal.type == "api_key":
                streams.add(request.principal.id)
            named = request.identities(tenant_of)
            if not named:
                unknown.append(request)
                continue
            identities.update(named)
            # A stream that this group begins belongs to the organization of its first request.
            for stream in of_request:
                begun.setdefault(stream, named[0].organization_id)
        read = self.memory.load(
            streams,
            identities,
            rows={tables.OUTCOME: outcomes},
            windows=[
                Window(prefix, _year_of(now), max(count, _FIRST_WINDOW))
                for prefix, count in issued.items()
            ],
        )
        self._numbers = {(found.prefix, found.year): found for found in read.numbers}
        self._outcomes = {row[:3]: row for row in read.rows.get(tables.OUTCOME, ())}
        # After the streams are loaded, the tenants of administrators' facts are known too. The runs
        # of repeated facts are loaded because a repeated fact is compared under its run's key. An
        # external id finds its run in the same way, by the event that gave the run the name.
        late = {identity for request in unknown for identity in request.identities(tenant_of)}
        for request in requests:
            late.update(request.followup_identities(tenant_of, self.memory.exists))
        self.memory.load(self.memory.runs_of_facts(), late)
        if late:
            self.memory.load(self.memory.runs_of_facts())

    def begin(self, at: datetime | None = None) -> None:
        """Start the next command and give it an instant of its own: ``at``, or the group's.

        It is just after the last recorded event if that is later: clocks may step back, and the
        clocks of nodes may differ.
        """
        now = self._instant if at is None else _in_its_year(at.astimezone(UTC))
        last = self.append.last_recorded_at
        if last is not None and now <= last:
            now = last.astimezone(UTC) + _MICROSECOND
        self.now = now

    @cached_property
    def _instant(self) -> datetime:
        """The clock, read once for the whole group."""
        return _in_its_year(self._clock().astimezone(UTC))

    def issue(self, prefix: str) -> str:
        """The next free id with this prefix in the UTC year of recording (contract, Facts)."""
        key = prefix, self.now.year
        if key not in self._free:
            self._free[key] = self._free_ids(*key)
        return next(self._free[key])

    def _free_ids(self, prefix: str, year: int) -> Iterator[str]:
        numbers = self._numbers.get((prefix, year)) or self._find_numbers(
            Window(prefix, year, _FIRST_WINDOW)
        )
        for window in windows_after(numbers.last, numbers.size):
            if window[0] != numbers.last + 1:
                numbers = self._find_numbers(Window(prefix, year, len(window), window[0] - 1))
            for number in window:
                identifier = format_id(prefix, year, number)
                # Checked now, not when the window was read: a command of this group may have taken
                # the id since.
                in_group = identifier in self.touched or identifier in self.tables.new_records
                if identifier not in numbers.used and not in_group:
                    yield identifier

    def _find_numbers(self, window: Window) -> Numbers:
        return self.append.read(Wanted(windows=[window])).numbers[0]

    @property
    def next_position(self) -> int:
        return self.append.next_position + len(self._recorded)

    def event_id(self, position: int) -> str:
        """The EVT id of a position in this append (contract, Feeds)."""
        return format_id("EVT", self.now.year, position)

    def record(
        self,
        aggregate: Folded,
        body: Event,
        occurred_at: datetime,
        request: Request,
        *,
        actor: Actor | None = None,
        fact: FactIdentity | None = None,
        caused_by: str | None = None,
        tenant: EventTenant | None = None,
        is_loaded: bool = True,
        traceparent: str | None = None,
    ) -> Recorded:
        """Put an event in its envelope, apply it and store it for writing.

        ``tenant`` is given for the first event of a stream; later events take it from the
        aggregate. ``caused_by`` is the causing event's EVT id. An aggregate that is not loaded
        (``is_loaded``) has only its version and the fields that the decision needs, as for the
        cancellations of a closing; ``tenant`` must be given for it too.

        Raises Unavailable for an event that a living node does not understand.
        """
        if type(body) in SINCE:
            self._require_understood(SINCE[type(body)])
        if len(self._recorded) >= _AHEAD:
            self._write(is_last=False)
            self._is_ahead = True
        if tenant is None:
            line_id = aggregate.service_line_id
            tenant = (aggregate.organization_id, aggregate.workspace_id, line_id)
        recorded = Recorded(
            aggregate.id,
            aggregate.version + 1,
            self.next_position,
            occurred_at,
            self._next_recorded_at(),
            actor or request.principal.actor,
            request.principal.id,
            *tenant,
            fact,
            request.request_id,
            caused_by,
            self._next_nonce(),
            body,
            traceparent,
        )
        self._recorded.append(recorded)
        self.touched.add(aggregate.id)
        if isinstance(aggregate, Credential):
            self.tables.keys.setdefault(aggregate.id, copy(aggregate))
        self.tables.note(recorded)
        if is_loaded:
            aggregate.apply(recorded)
            self.memory.keep(aggregate)
        else:
            self.memory.apply(recorded)
        return recorded

    def _next_nonce(self) -> bytes:
        if not self._random:
            self._random = os.urandom(_NONCE * _NONCES)
        nonce, self._random = self._random[:_NONCE], self._random[_NONCE:]
        return nonce

    def name_cause(self, event_id: str) -> None:
        """Name the cause of the event that was recorded last: the cause follows it."""
        last = msgspec.structs.replace(self._recorded[-1], causation_id=event_id)
        self._recorded[-1] = self.tables.last = last

    def rows(self, kind: Callable[[Append], R]) -> R:
        """The rows of this class, as this append reads and changes them."""
        if kind not in self._side_rows:
            self._side_rows[kind] = kind(self.append)
        found: R = self._side_rows[kind]
        return found

    @cached_property
    def _spoken(self) -> int | None:
        """The language that all living nodes understand, read once a group in its transaction."""
        return self.append.language()

    def _require_understood(self, language: int) -> None:
        """Raise Unavailable if a living node does not understand events of this language."""
        if self._spoken is not None and self._spoken < language:
            raise Unavailable(
                "A node of an older version runs, which does not know this event yet."
            )

    def _next_recorded_at(self) -> datetime:
        """The next event's instant of recording, which rises strictly with the position."""
        last = self.append.last_recorded_at
        at = self.now
        if last is not None and at <= last:
            at = last + _MICROSECOND
        self.append.last_recorded_at = at
        return at

    def create_run_key(self, organization_id: str, run_id: str) -> RunKey:
        """A new data key for a run whose first event is about to be recorded."""
        key, wrapped = self.vault.create(organization_id, run_id)
        self._keys.append(tables.RunKeyRow(run_id, organization_id, wrapped, None))
        self.memory.keep_key(run_id, key)
        self.touched.add(run_id)
        return key

    def open_runs(self, line_id: str) -> dict[str, tables.OpenRunRow]:
        """The line's open runs by id, with the changes of this append; so are the next ones."""
        ended, opened, moved = self.tables.ended, self.tables.opened, self.tables.moved
        runs = {
            row.run_id: row._replace(version=moved.get(row.run_id, ("", row.version))[1])
            for row in self.append.open_runs(line_id)
            if row.run_id not in ended
        }
        return runs | {run_id: row for run_id, row in opened.items() if row.line_id == line_id}

    def owned(self, table: Table, organization_id: str) -> int:
        """How many endpoints or watches the organization has: the rows of that table."""
        new, deleted = (
            sum(1 for r in rows if type(r) is table.row and r.organization_id == organization_id)
            for rows in (self.tables.owned.values(), self.tables.disowned.values())
        )
        return self.append.owned(table, organization_id) + new - deleted

    def changed_since(self, name: str, position: int) -> bool:
        """True if the log has changes of a line or source after a position, or may have.

        Alerts do not count.
        """
        if position not in self._changes:
            self._changes[position] = self.append.changed_after(position, _MOST_CHANGES)
        changed = self._changes[position]
        return (
            changed is None
            or name in changed
            or any(
                name == event.line_id or (event.fact is not None and name == event.fact.source)
                for event in self._recorded
                if not event.originator_id.startswith("ALR-")
            )
        )

    def ended_lease(self, run_id: str, together: Collection[str] = ()) -> EndedLease | None:
        """The lease of a run, if it has ended and nothing of the run arrived in this append.

        The leases of ``together`` are read with it. Only an append changes the end of a lease, so
        the result stays true until the commit.
        """
        if run_id not in self._ended_leases:
            run_ids = {run_id, *together}
            self._ended_leases |= dict.fromkeys(run_ids) | self.append.ended(run_ids)
        arrived = run_id in self.tables.heartbeats or run_id in self.tables.leases
        return None if arrived else self._ended_leases[run_id]

    def omit(self, principal: Principal) -> None:
        """Count a refusal of the credential that gets no event."""
        credential = principal.credential
        row = self._omitted.get(credential) or tables.OmittedRow(
            credential, principal.organization_id, principal.workspace_id, self.now, 0
        )
        self._omitted[credential] = row._replace(count=row.count + 1)

    # Outcomes of commands that are safe to send again (contract, Access, ``Idempotency-Key``). An
    # outcome is stored in the transaction of the command's event, so a client whose response was
    # lost gets it when it sends the request again. A concurrent duplicate waits for the append
    # lock, as every write does, and then finds the outcome too.

    def earlier_outcome(self, key: IdempotencyKey) -> Outcome | None:
        """The outcome of an earlier request, or None. Raises IdempotencyKeyReused."""
        row = self._outcomes.get(_columns(key))
        if row is None or row.recorded_at + RETENTION <= self.now:
            return None
        if row.fingerprint != key.fingerprint:
            raise errors.IdempotencyKeyReused
        return _restored(_decode(self.vault.open(_purpose(row), row.outcome)))

    def keep_outcome(self, key: IdempotencyKey, outcome: Outcome) -> None:
        """Store an outcome if it is a receipt or a refusal that is replayed."""
        if isinstance(outcome, Receipt):
            stored = _StoredOutcome(receipt=outcome)
        elif isinstance(outcome, LASTING):
            problems = outcome.errors if isinstance(outcome, Invalid) else ()
            stored = _StoredOutcome(code=outcome.code, detail=outcome.detail, errors=problems)
        else:
            return
        row = tables.OutcomeRow(*_columns(key), key.fingerprint, b"", self.now)
        row = row._replace(outcome=self.vault.seal(_purpose(row), _encode(stored)))
        self._outcomes[row[:3]] = self._new_outcomes[row[:3]] = row

    def write(self) -> Sequence[Recorded]:
        """Write all results of the commands; the statements are sent with the commit.

        Return the recorded events; none if they are so many that some were written before.
        """
        events = () if self._is_ahead else self._recorded
        if self._recorded or self._is_ahead:
            self._write(is_last=True)
        self.append.write_tables(
            {
                tables.OUTCOME: [*self._new_outcomes.values()],
                tables.SNAPSHOT: self.memory.snapshots(),
            },
            self.tables.heartbeats,
            self._omitted.values(),
        )
        for rows in self._side_rows.values():
            rows.write()
        return events

    def _write(self, *, is_last: bool) -> None:
        rows = [
            tables.LogRow(
                recorded.originator_id,
                recorded.originator_version,
                type(recorded.body).TOPIC,
                self._mapper.encode(recorded),
                recorded.position,
                recorded.recorded_at,
            )
            for recorded in self._recorded
        ]
        self.append.write(rows, self._keys, self.tables, is_last=is_last)
        self._recorded, self._keys, self._changes = [], [], {}
        self.memory.note_written()


def windows_after(number: int, first: int = _FIRST_WINDOW) -> Iterator[range]:
    """Yield the numbers to try after a counter's, in windows that are looked up at once.

    The first windows adjoin. Later ones lie ever farther apart: reporters may have used any count
    of numbers in a row, and a scan of them all would delay every other append.
    """
    yield range(number + 1, number + 1 + first)
    number, window = number + first, 4 * _FIRST_WINDOW
    while window < 1024:
        yield range(number + 1, number + 1 + window)
        number, window = number + window, window * 4
    step = window
    while True:
        yield range(number + 1, number + 1 + 256)
        number, step = number + step, step * 4


def _in_its_year(now: datetime) -> datetime:
    """The instant, or the beginning of the next year if it counts as in that (``_year_of``)."""
    return now if _year_of(now) == now.year else datetime(now.year + 1, 1, 1, tzinfo=UTC)


def _year_of(now: datetime) -> int:
    """The UTC year of recording of a command at this instant.

    A command's events are recorded within one UTC year, by which ids are counted. So the last 50 ms
    of a year count as the beginning of the next one.
    """
    return (now.astimezone(UTC) + timedelta(milliseconds=50)).year


class _StoredOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    receipt: Receipt | None = None
    code: str = ""
    detail: str = ""
    errors: tuple[tuple[str, str], ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_StoredOutcome).decode


def _columns(key: IdempotencyKey) -> tuple[str, str, str]:
    return key.credential, key.path, key.key


def _purpose(row: tables.OutcomeRow) -> str:
    return f"outcome|{row.credential}|{row.path}|{row.key}"


def _restored(stored: _StoredOutcome) -> Outcome:
    if stored.receipt is not None:
        return msgspec.structs.replace(stored.receipt, replayed=True)
    kind = _BY_CODE[stored.code]
    # The constructors are bypassed: each class has its own arguments, and the texts are stored.
    refusal = kind.__new__(kind)
    Refused.__init__(refusal, stored.detail)
    if isinstance(refusal, Invalid):
        refusal.errors = stored.errors
    refusal.replayed = True
    return refusal
