"""The events that one append records: the events are put in envelopes, applied, and written.

An event is applied to its aggregate as soon as a command has recorded it, so that the next command
of the group sees the change.
"""

import os
from collections.abc import Callable
from copy import copy
from datetime import UTC, datetime, timedelta

from ledger.application.loader import Loader
from ledger.domain.api_key import ApiKey
from ledger.domain.errors import Unavailable
from ledger.domain.events import SINCE
from ledger.domain.execution import Execution
from ledger.domain.recorded import Actor, Event, FactIdentity, Recorded
from ledger.domain.values import EARLIEST, format_id
from ledger.intake.request import Request
from ledger.log.append import Append
from ledger.log.codec import EnvelopeMapper
from ledger.log.snapshots import Aggregate
from ledger.log.tables import RunKeyRow
from ledger.log.vault import RunKey, Vault

EventTenant = tuple[str | None, str | None, str | None]
"""(organization, workspace, line)"""

_YEAR_END = timedelta(milliseconds=50)

_AHEAD = 200
"""So many recorded events are written while the rest is still being decided: the rest of a large
group, or of a closing that cancels many runs."""


class NewEvents:
    """The events that commands have recorded; they are written with the commit at the latest."""

    def __init__(
        self,
        append: Append,
        mapper: EnvelopeMapper,
        loader: Loader,
        vault: Vault,
        clock: Callable[[], datetime],
    ) -> None:
        self._append, self._mapper, self._loader = append, mapper, loader
        self._vault, self._clock = vault, clock
        self._recorded: list[Recorded] = []
        self._keys: list[RunKeyRow] = []
        self._is_ahead = False
        """Whether some recorded events were written already and are no longer in ``_recorded``."""
        self.touched: set[str] = set()
        """The streams of all recorded events."""
        self.now = EARLIEST
        """The instant of the command that is being decided."""

    def begin(self, at: datetime | None = None) -> None:
        """Start on the next command and give it an instant of its own; ``at``: not the present."""
        self.now = self._next_instant(at)

    @property
    def next_position(self) -> int:
        """The position that the next recorded event will get."""
        return self._append.next_position + len(self._recorded)

    def event_id(self, position: int) -> str:
        """The EVT id of a position in this append (contract, Feeds)."""
        return format_id("EVT", self.now.year, position)

    def record(
        self,
        aggregate: Aggregate,
        body: Event,
        occurred_at: datetime,
        request: Request,
        *,
        actor: Actor | None = None,
        fact: FactIdentity | None = None,
        caused_by: str | None = None,
        tenant: EventTenant | None = None,
        is_loaded: bool = True,
    ) -> Recorded:
        """Put an event in its envelope, apply it and keep it for writing.

        ``tenant`` is given for the first event of a stream; later events take the tenant from the
        aggregate. ``caused_by`` is the causing event's EVT id. An aggregate that is not loaded
        (``is_loaded``) has only its version and the fields that the decision needs, as for the
        cancellations of a closing; ``tenant`` must be given for it too.

        Raises Unavailable for an event that a living node does not understand.
        """
        if SINCE and type(body) in SINCE:
            self._assert_understood(SINCE[type(body)])
        if len(self._recorded) >= _AHEAD:
            self._write(is_last=False)
            self._is_ahead = True
        if tenant is None:
            is_line = isinstance(aggregate, Execution)
            line_id = aggregate.id if is_line else getattr(aggregate, "service_line_id", None)
            tenant = (aggregate.organization_id, aggregate.workspace_id, line_id)
        recorded = Recorded(
            originator_id=aggregate.id,
            originator_version=aggregate.version + 1,
            position=self.next_position,
            occurred_at=occurred_at,
            recorded_at=self._next_recorded_at(),
            actor=actor or request.principal.actor,
            reported_by=request.principal.id,
            organization_id=tenant[0],
            workspace_id=tenant[1],
            service_line_id=tenant[2],
            fact=fact,
            request_id=request.request_id,
            causation_id=caused_by,
            nonce=os.urandom(16),
            body=body,
        )
        self._recorded.append(recorded)
        self.touched.add(aggregate.id)
        if isinstance(aggregate, ApiKey):
            self._append.decisions.keys.setdefault(aggregate.id, copy(aggregate))
        self._append.decisions.note(recorded)
        if is_loaded:
            aggregate.evolve(recorded)
            self._loader.keep(aggregate)
        else:
            self._loader.take_in(recorded)
        return recorded

    def _assert_understood(self, language: int) -> None:
        spoken = self._append.language()
        if spoken is not None and spoken < language:
            raise Unavailable(
                "A node of an older version runs, which does not know this event yet."
            )

    def create_run_key(self, organization_id: str, run_id: str) -> RunKey:
        """A new data key for a run whose first event is about to be recorded."""
        key, wrapped = self._vault.create(organization_id, run_id)
        self._keys.append(RunKeyRow(run_id, organization_id, wrapped, None))
        self._loader.keep_key(run_id, key)
        self.touched.add(run_id)
        return key

    def write(self) -> None:
        """Write the remaining events and, as the append's last write, the decision rows."""
        if self._recorded or self._is_ahead:
            self._write(is_last=True)

    def _write(self, *, is_last: bool) -> None:
        self._append.write(
            [self._mapper.to_stored_event(recorded) for recorded in self._recorded],
            self._recorded,
            keys=self._keys,
            is_last=is_last,
        )
        self._recorded, self._keys = [], []
        self._loader.note_written()

    def _next_instant(self, at: datetime | None) -> datetime:
        """The given or present instant, or just after the last recorded event if that is later.

        Clocks may step back, and the clocks of nodes may differ. The events of a command are
        recorded within one UTC year, by which ids are counted: the last 50 ms of a year therefore
        count as the beginning of the next year.
        """
        now = (at or self._clock()).astimezone(UTC)
        if (now + _YEAR_END).year != now.year:
            now = datetime(now.year + 1, 1, 1, tzinfo=UTC)
        last = self._append.last_recorded_at
        if last is not None and now <= last:
            now = last.astimezone(UTC) + timedelta(microseconds=1)
        return now

    def _next_recorded_at(self) -> datetime:
        """The instant of recording of the next event, which rises strictly with the position."""
        last = self._append.last_recorded_at
        at = self.now
        if last is not None and at <= last:
            at = last + timedelta(microseconds=1)
        self._append.last_recorded_at = at
        return at
