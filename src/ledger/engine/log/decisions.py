"""Decision tables: state for rules that span streams, derived from the same events.

Rows are read under the append lock, changed in memory by each event that is about to be written,
and stored in the same transaction. Only ``note`` defines how an event changes them, so the tables
that are ``AS_FOLDED`` can be derived from the log at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ledger.engine.log.tables import (
    API_KEY,
    ENDPOINT,
    EXECUTION_RECORD,
    FORMER_SECRET,
    ID_COUNTER,
    LEASE,
    LINE_ACTIVITY,
    OPEN_RUN,
    WATCH,
    ApiKeyRow,
    EndpointRow,
    ExecutionRecordRow,
    FormerSecretRow,
    IdCounterRow,
    IdentityRow,
    LeaseRow,
    LineActivityRow,
    OpenRunRow,
    OrganizationWatchRow,
)
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.event_table import DecisionEffect
from ledger.engine.values.recorded import Event, Identity, Recorded
from ledger.engine.values.values import sort_key
from ledger.records import AGGREGATES, EVENT_TABLE

OwnedRow = EndpointRow | OrganizationWatchRow


class IdentityOwner(NamedTuple):
    """The event that has an identity, and the EVT ids of its receipt."""

    event: Recorded
    event_ids: tuple[str, ...]
    """The event's own id; then, if there is one, the id of the previous event, which woke the line
    or lifted its hold for it."""

    @classmethod
    def of(cls, event: Recorded, before: Recorded | None = None) -> "IdentityOwner":
        """``before`` is the event at the previous position, if there is one."""
        own = event.event_id
        is_led = before is not None and before.body.LEADS
        if before is None or not is_led or before.causation_id != own:
            return cls(event, (own,))
        return cls(event, (own, before.event_id))


class DecisionTables:
    """The rows that an append has read, and the changes that its events make.

    Applying the whole log needs no stored rows: it produces every row.
    """

    def __init__(self) -> None:
        self.firsts: dict[Identity, IdentityOwner] = {}
        """The identities found in the log, and those of this append."""
        self.new_identities: list[IdentityRow] = []
        """The identities of events that are not written yet."""
        self.activity: dict[str, LineActivityRow] = {}
        self.touched: set[str] = set()
        """Lines whose activity row changed."""
        self.opened: dict[str, OpenRunRow] = {}
        self.ended: dict[str, str] = {}
        """Run id → line id of open runs that ended and may be stored."""
        self.moved: dict[str, tuple[str, int]] = {}
        """Run id → line id and version of stored open runs that changed only in version. Runs that
        have ended are among them."""
        self.leases: dict[str, LeaseRow] = {}
        """The leases that facts of this append began, by run."""
        self.heartbeats: dict[str, datetime] = {}
        """The runs whose stored leases restart because of heartbeats, with the instants of arrival.
        """
        self.records: dict[str, ExecutionRecordRow] = {}
        """Execution records by id: those that were looked up, and those of this append."""
        self.new_records: set[str] = set()
        self.counters: dict[tuple[str, int], int] = {}
        """The last id that was issued, by prefix and year."""
        self.keys: dict[str, Any] = {}
        """The keys that changed. A stored key is put here before its first event."""
        self.former: dict[bytes, FormerSecretRow] = {}
        """The replaced secrets with a new or changed row."""
        self.owned: dict[str, OwnedRow] = {}
        """The endpoints and watches of this append, by id."""
        self.disowned: dict[str, OwnedRow] = {}
        """Stored endpoints and watches that were deleted."""
        self.erased: dict[str, datetime] = {}
        self.last: Recorded | None = None
        """The event that was noted last."""

    def changed(self) -> dict[Table, Sequence[Sequence[Any]]]:
        """The rows to insert or replace, by table; a table may have no rows."""
        return {
            LINE_ACTIVITY: [self.activity[line] for line in sorted(self.touched)],
            OPEN_RUN: [*self.opened.values()],
            EXECUTION_RECORD: [self.records[record] for record in self.new_records],
            ID_COUNTER: [IdCounterRow(*key, last) for key, last in self.counters.items()],
            API_KEY: [_key_row(key) for key in self.keys.values()],
            FORMER_SECRET: [*self.former.values()],
            ENDPOINT: [row for row in self.owned.values() if isinstance(row, EndpointRow)],
            WATCH: [row for row in self.owned.values() if isinstance(row, OrganizationWatchRow)],
            LEASE: [*self.leases.values()],
        }

    def pop_identities(self) -> list[IdentityRow]:
        """The new identities since the last call: they are written with their events."""
        identities, self.new_identities = self.new_identities, []
        return identities

    def hear(self, run_id: str, at: datetime) -> None:
        """Restart an open run's lease because of a heartbeat. No event records it."""
        begun = self.leases.get(run_id)
        if begun is None:
            self.heartbeats[run_id] = at
        else:
            self.leases[run_id] = _lease(run_id, begun.seconds, at, begun.organization_id)

    def note(self, recorded: Recorded) -> None:
        """Apply an event that is about to be written."""
        own = recorded.identity
        if own is not None:
            self.identify(own, recorded)
        _NOTE[type(recorded.body)](self, recorded.body, recorded)
        self.last = recorded

    def identify(self, new: Identity, recorded: Recorded) -> None:
        """Give an identity to an event that is about to be written."""
        self.firsts[new] = IdentityOwner.of(recorded, self.last)
        self.new_identities.append(IdentityRow(new.digest, recorded.position))

    def _active(self, body: Event, recorded: Recorded, opened: int = 0) -> None:
        line_id = recorded.service_line_id or ""
        _, at, open_runs = self.activity[line_id]
        if opened or recorded.occurred_at > at:
            at = max(at, recorded.occurred_at)
            self.activity[line_id] = LineActivityRow(line_id, at, open_runs + opened)
            self.touched.add(line_id)

    def _activated(self, body: Any, recorded: Recorded) -> None:
        line_id = recorded.originator_id
        self.activity[line_id] = LineActivityRow(line_id, body.started_at, 0)
        self.touched.add(line_id)
        self.records[body.execution_id] = ExecutionRecordRow(
            body.execution_id, line_id, recorded.organization_id or ""
        )
        self.new_records.add(body.execution_id)
        if body.execution_id_origin == "issued":
            self._issued(body.execution_id, recorded)

    def _identified(self, body: Event, recorded: Recorded) -> None:
        for each in body.identities(recorded):
            self.identify(each, recorded)

    def _begun(self, body: Any, recorded: Recorded, started_at: datetime | None) -> None:
        self._active(body, recorded, opened=1 if body.run_id_origin else 0)
        self._open(body, recorded, started_at)
        self._lend(body, recorded)
        if body.run_id_origin == "issued":
            self._issued(recorded.originator_id, recorded)
        self._identified(body, recorded)

    def _open(self, body: Any, recorded: Recorded, started_at: datetime | None) -> None:
        self.moved.pop(recorded.originator_id, None)
        self.opened[recorded.originator_id] = OpenRunRow(
            recorded.service_line_id or "",
            recorded.originator_id,
            recorded.originator_version,
            started_at,
            body.external_id,
            body.attempt,
            body.retry_of,
        )

    def _lend(self, body: Any, recorded: Recorded) -> None:
        """Begin the run's lease, if it has one, at the fact's arrival."""
        if body.lease_seconds is not None:
            run_id = recorded.originator_id
            self.leases[run_id] = _lease(
                run_id, body.lease_seconds, recorded.recorded_at, recorded.organization_id or ""
            )
            self.heartbeats.pop(run_id, None)

    def _ended(self, body: Any, recorded: Recorded) -> None:
        if body.late:
            self._active(body, recorded)
        else:
            self._cancelled(body, recorded)

    def _cancelled(self, body: Event, recorded: Recorded) -> None:
        self._active(body, recorded, opened=-1)
        self.opened.pop(recorded.originator_id, None)
        self.moved.pop(recorded.originator_id, None)
        self.leases.pop(recorded.originator_id, None)
        self.ended[recorded.originator_id] = recorded.service_line_id or ""

    def _moved(self, body: Event, recorded: Recorded) -> None:
        run_id = recorded.originator_id
        if run_id in self.opened:
            self.opened[run_id] = self.opened[run_id]._replace(version=recorded.originator_version)
        elif run_id not in self.ended:
            self.moved[run_id] = recorded.service_line_id or "", recorded.originator_version

    def _erased(self, body: Event, recorded: Recorded) -> None:
        # An erasure is no activity of the line.
        self.erased[recorded.originator_id] = recorded.occurred_at

    def _issued(self, identifier: str, recorded: Recorded) -> None:
        self.counters[identifier[:3], recorded.recorded_at.year] = sort_key(identifier) % 10**12

    def _key_created(self, body: Event, recorded: Recorded) -> None:
        self.keys[recorded.originator_id] = AGGREGATES["KEY"](recorded.originator_id)
        self._key_changed(body, recorded)
        self._issued(recorded.originator_id, recorded)

    def _key_changed(self, body: Event, recorded: Recorded) -> None:
        key = self.keys[recorded.originator_id]
        before = dict(key.former)
        key.apply(recorded)
        # A secret that is no longer in the key ends now, unless it ended before.
        ends = {secret: min(at, recorded.recorded_at) for secret, at in before.items()}
        self.former |= {
            secret: FormerSecretRow(secret, key.id, key.organization_id, key.workspace_id, ends_at)
            for secret, ends_at in (ends | dict(key.former)).items()
        }

    def _own(self, body: Event, recorded: Recorded) -> None:
        self.owned[recorded.originator_id] = _owned(recorded)
        self._issued(recorded.originator_id, recorded)

    def _disown(self, body: Event, recorded: Recorded) -> None:
        if self.owned.pop(recorded.originator_id, None) is None:
            self.disowned[recorded.originator_id] = _owned(recorded)

    def _first(self, body: Event, recorded: Recorded) -> None:
        self._issued(recorded.originator_id, recorded)
        self._identified(body, recorded)


def _lease(run_id: str, seconds: int, arrived_at: datetime, organization_id: str) -> LeaseRow:
    ends_at = arrived_at + timedelta(seconds=seconds)
    return LeaseRow(run_id, seconds, arrived_at, ends_at, ends_at, organization_id)


def _key_row(key: Any) -> ApiKeyRow:
    return ApiKeyRow(
        key_id=key.id,
        secret_hash=key.secret_hash,
        name=key.name,
        organization_id=key.organization_id,
        workspace_id=key.workspace_id,
        permissions=key.permissions,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
        expires_at=key.expires_at,
        prefix=key.prefix,
        created_by_type=key.created_by.type,
        created_by_id=key.created_by.id,
    )


def _owned(recorded: Recorded) -> OwnedRow:
    kind = EndpointRow if recorded.originator_id.startswith("WHK") else OrganizationWatchRow
    return kind(recorded.organization_id or "", recorded.originator_id)


_BY_NOTE: Mapping[DecisionEffect, Callable[[DecisionTables, Any, Recorded], None]] = {
    DecisionEffect.PASSES: lambda tables, body, recorded: None,
    DecisionEffect.IDENTIFIED: DecisionTables._identified,
    DecisionEffect.ISSUED: DecisionTables._first,
    DecisionEffect.OWNED: DecisionTables._own,
    DecisionEffect.DISOWNED: DecisionTables._disown,
    DecisionEffect.LINE_BEGAN: DecisionTables._activated,
    DecisionEffect.CHECKED_IN: DecisionTables._active,
    DecisionEffect.RUN_REQUESTED: lambda tables, body, recorded: tables._begun(
        body, recorded, None
    ),
    DecisionEffect.RUN_STARTED: lambda tables, body, recorded: tables._begun(
        body, recorded, recorded.occurred_at
    ),
    DecisionEffect.RUN_ENDED: DecisionTables._ended,
    DecisionEffect.RUN_CANCELLED: DecisionTables._cancelled,
    DecisionEffect.RUN_MOVED: DecisionTables._moved,
    DecisionEffect.RUN_ERASED: DecisionTables._erased,
    DecisionEffect.KEY_CREATED: DecisionTables._key_created,
    DecisionEffect.KEY_CHANGED: DecisionTables._key_changed,
}

_NOTE = {row.event: _BY_NOTE[row.noted] for row in EVENT_TABLE}
