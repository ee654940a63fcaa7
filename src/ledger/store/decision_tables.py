"""Decision tables: what rules that span streams need to know, folded from the same events.

Rows are read under the append lock, changed in memory by each event that is about to be written,
and stored by the statement that writes the events. The fold (``note``) is the only place that
says what an event does to them, so they can be derived from the log at any time.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ledger.domain import api_key, endpoint, run
from ledger.domain import execution_events as execution
from ledger.domain.event_table import Note
from ledger.domain.events import EVENT_TABLE
from ledger.domain.recorded import Event, Recorded
from ledger.domain.values import sort_key
from ledger.postgres.pipeline import Transaction

# The open runs of one line, for its closing.
_OPEN_RUNS = """
SELECT run_id, version, started_at FROM ledger.open_run WHERE line_id = %s ORDER BY run_id
"""

# One check-in, for its void.
_CHECK_IN = """
SELECT hours, at, resource_id, voided FROM ledger.check_in
WHERE line_id = %s AND source = %s AND fact_id = %s
"""

# The last id issued for a prefix in a year.
_COUNTER = "SELECT last FROM ledger.id_counter WHERE prefix = %s AND year = %s"

# How many endpoints an organization has.
_ENDPOINTS = "SELECT count(*) FROM ledger.endpoint WHERE organization_id = %s"

# What few appends change, a statement each.
_VOID = """
UPDATE ledger.check_in SET voided = true WHERE line_id = %s AND source = %s AND fact_id = %s
"""
_MOVE_COUNTER = """
INSERT INTO ledger.id_counter (prefix, year, last) VALUES (%s, %s, %s)
ON CONFLICT (prefix, year) DO UPDATE SET last = excluded.last
"""
_KEY_CREATED = "INSERT INTO ledger.api_key VALUES (%s, %s, %s, %s, %s, %s, %s)"
_KEY_REVOKED = "UPDATE ledger.api_key SET revoked_at = %s WHERE key_id = %s"
# The end of a run's key; whoever has it in memory is told when that is committed.
_DESTROY_RUN_KEY = """
WITH destroyed AS (
    UPDATE ledger.run_key SET wrapped = NULL, destroyed_at = %s WHERE run_id = %s RETURNING run_id
)
SELECT pg_notify('ledger_erased', run_id || ' erased') FROM destroyed
"""
_ENDPOINT_CREATED = "INSERT INTO ledger.endpoint (organization_id, endpoint_id) VALUES (%s, %s)"
_ENDPOINT_DELETED = "DELETE FROM ledger.endpoint WHERE organization_id = %s AND endpoint_id = %s"


class LineActivity:
    """The idle decision's view of one line."""

    __slots__ = ("last_activity_at", "open_runs")

    def __init__(self, last_activity_at: datetime, open_runs: int) -> None:
        self.last_activity_at = last_activity_at
        self.open_runs = open_runs


class OpenRun:
    """A pending or running run: its stream's version, and when it started."""

    __slots__ = ("line_id", "started_at", "version")

    def __init__(self, line_id: str, version: int, started_at: datetime | None) -> None:
        self.line_id = line_id
        self.version = version
        self.started_at = started_at


class CheckIn:
    """What a void must know of the check-in it voids."""

    __slots__ = ("at", "hours", "resource_id", "voided")

    def __init__(
        self, hours: float | None, at: datetime, resource_id: str | None, voided: bool
    ) -> None:
        self.hours = hours
        self.at = at
        self.resource_id = resource_id
        self.voided = voided


class DecisionTables:
    """The rows one append has read, and the changes it will write."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.activity: dict[str, LineActivity] = {}
        self.touched: set[str] = set()
        """Lines whose activity row changed."""
        self.opened: dict[str, OpenRun] = {}
        self.ended: dict[str, str] = {}
        """Run id → line id of open runs that ended and are stored."""
        self.check_ins: dict[tuple[str, str, str], CheckIn] = {}
        self.voided: set[tuple[str, str, str]] = set()
        self.new_check_ins: set[tuple[str, str, str]] = set()
        self.execution_records: dict[str, str] = {}
        """Execution id → line id, of those among the loaded ids and this group's own."""
        self.new_records: dict[str, tuple[str, str]] = {}
        self.counters: dict[tuple[str, int], int] = {}
        self.moved_counters: set[tuple[str, int]] = set()
        self.new_keys: list[Recorded] = []
        self.revoked_keys: list[Recorded] = []
        self.moved_endpoints: list[Recorded] = []
        """Set up or removed by this group."""
        self.erased: list[Recorded] = []

    # Reading, under the lock.

    def open_runs(self, line_id: str) -> dict[str, OpenRun]:
        """The line's open runs by id: the stored ones and this group's own changes."""
        found = self._transaction.execute(_OPEN_RUNS, (line_id,))
        stored = {row[0]: OpenRun(line_id, row[1], row[2]) for row in found.fetchall()}
        runs = {k: v for k, v in stored.items() if k not in self.ended}
        return runs | {k: v for k, v in self.opened.items() if v.line_id == line_id}

    def check_in(self, line_id: str, source: str, fact_id: str) -> CheckIn | None:
        """One check-in of the line, or None."""
        key = (line_id, source, fact_id)
        if key not in self.check_ins:
            row = self._transaction.execute(_CHECK_IN, key).fetchone()
            if row is None:
                return None
            self.check_ins[key] = CheckIn(*row)
        return self.check_ins[key]

    def line_of_record(self, run_id: str) -> str | None:
        """The line whose execution record has this id, or None."""
        return self.execution_records.get(run_id)

    def counter(self, prefix: str, year: int) -> int:
        """The last number issued for a prefix in a year of recording."""
        key = (prefix, year)
        if key not in self.counters:
            row = self._transaction.execute(_COUNTER, key).fetchone()
            self.counters[key] = row[0] if row else 0
        return self.counters[key]

    def endpoints(self, organization_id: str) -> int:
        """How many webhook endpoints the organization has, this group's own changes included."""
        row = self._transaction.execute(_ENDPOINTS, (organization_id,)).fetchone()
        moved = [e.body for e in self.moved_endpoints if e.organization_id == organization_id]
        return (row[0] if row else 0) + sum(1 if _is_created(body) else -1 for body in moved)

    # Writing what few appends change; all else is in the statement that writes the events.

    def write_rare_changes(self) -> None:
        """Voids, counters, keys, erasures and endpoints, each by a statement of its own."""
        execute = self._transaction.execute
        for void in self.voided:
            execute(_VOID, void)
        for prefix, year in self.moved_counters:
            execute(_MOVE_COUNTER, (prefix, year, self.counters[prefix, year]))
        for key in self.new_keys:
            body = key.body
            if isinstance(body, api_key.ApiKeyCreated):
                values = (key.originator_id, body.secret_hash, body.name, key.organization_id)
                tail = (key.workspace_id, list(body.permissions), key.recorded_at)
                execute(_KEY_CREATED, values + tail)
        for key in self.revoked_keys:
            execute(_KEY_REVOKED, (key.recorded_at, key.originator_id))
        for erased in self.erased:
            execute(_DESTROY_RUN_KEY, (erased.occurred_at, erased.originator_id))
        for moved in self.moved_endpoints:
            statement = _ENDPOINT_CREATED if _is_created(moved.body) else _ENDPOINT_DELETED
            execute(statement, (moved.organization_id, moved.originator_id))

    # The fold.

    def note(self, recorded: Recorded) -> None:
        """Take in one event that is about to be written."""
        _NOTE[type(recorded.body)](self, recorded.body, recorded)

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """No decision across streams needs to know."""

    def _active(self, recorded: Recorded, opened: int = 0) -> None:
        line_id = recorded.service_line_id or ""
        row = self.activity[line_id]
        row.last_activity_at = max(row.last_activity_at, recorded.occurred_at)
        row.open_runs += opened
        self.touched.add(line_id)

    def _activated(self, body: execution.Activated, recorded: Recorded) -> None:
        line_id = recorded.originator_id
        self.activity[line_id] = LineActivity(body.started_at, 0)
        self.touched.add(line_id)
        self.new_records[body.execution_id] = (line_id, recorded.organization_id or "")
        self.execution_records[body.execution_id] = line_id
        if body.execution_id_origin == "issued":
            self._issued(body.execution_id, recorded)

    def _checked_in(self, body: execution.CheckedIn, recorded: Recorded) -> None:
        self._active(recorded)
        if recorded.fact is not None:
            key = (recorded.originator_id, recorded.fact.source, recorded.fact.id)
            self.check_ins[key] = CheckIn(body.hours, recorded.occurred_at, body.resource_id, False)
            self.new_check_ins.add(key)

    def _voided(self, body: execution.CheckInVoided, recorded: Recorded) -> None:
        if recorded.fact is not None:
            key = (recorded.originator_id, recorded.fact.source, body.fact_id)
            self.check_ins[key].voided = True
            if key not in self.new_check_ins:
                self.voided.add(key)

    def _requested(self, body: run.RunRequested, recorded: Recorded) -> None:
        self._active(recorded, opened=1)
        self._open(recorded, None)
        if body.run_id_origin == "issued":
            self._issued(recorded.originator_id, recorded)

    def _started(self, body: run.RunStarted, recorded: Recorded) -> None:
        self._active(recorded, opened=1 if body.run_id_origin else 0)
        self._open(recorded, recorded.occurred_at)
        if body.run_id_origin == "issued":
            self._issued(recorded.originator_id, recorded)

    def _open(self, recorded: Recorded, started_at: datetime | None) -> None:
        self.opened[recorded.originator_id] = OpenRun(
            recorded.service_line_id or "", recorded.originator_version, started_at
        )

    def _ended(self, body: run.RunCompleted | run.RunFailed, recorded: Recorded) -> None:
        if body.late:
            self._active(recorded)
        else:
            self._cancelled(body, recorded)

    def _cancelled(self, body: Event, recorded: Recorded) -> None:
        self._active(recorded, opened=-1)
        self.opened.pop(recorded.originator_id, None)
        self.ended[recorded.originator_id] = recorded.service_line_id or ""

    def _erased(self, body: run.RunErased, recorded: Recorded) -> None:
        # No activity: nothing happened to the work.
        self.erased.append(recorded)

    def _issued(self, identifier: str, recorded: Recorded) -> None:
        key = (identifier[:3], recorded.recorded_at.year)
        self.counters[key] = sort_key(identifier) % 10**12
        self.moved_counters.add(key)

    def _key_created(self, body: api_key.ApiKeyCreated, recorded: Recorded) -> None:
        self.new_keys.append(recorded)
        self._issued(recorded.originator_id, recorded)

    def _key_revoked(self, body: api_key.ApiKeyRevoked, recorded: Recorded) -> None:
        self.revoked_keys.append(recorded)

    def _endpoint_created(self, body: endpoint.WebhookCreated, recorded: Recorded) -> None:
        self.moved_endpoints.append(recorded)
        self._issued(recorded.originator_id, recorded)

    def _endpoint_deleted(self, body: endpoint.WebhookDeleted, recorded: Recorded) -> None:
        self.moved_endpoints.append(recorded)


def _is_created(body: Event) -> bool:
    return isinstance(body, endpoint.WebhookCreated)


_BY_NOTE: Mapping[Note, Callable[[DecisionTables, Any, Recorded], None]] = {
    Note.PASSES: DecisionTables._passes,
    Note.LINE_BEGAN: DecisionTables._activated,
    Note.CHECKED_IN: DecisionTables._checked_in,
    Note.CHECK_IN_VOIDED: DecisionTables._voided,
    Note.RUN_REQUESTED: DecisionTables._requested,
    Note.RUN_STARTED: DecisionTables._started,
    Note.RUN_ENDED: DecisionTables._ended,
    Note.RUN_CANCELLED: DecisionTables._cancelled,
    Note.RUN_ERASED: DecisionTables._erased,
    Note.KEY_CREATED: DecisionTables._key_created,
    Note.KEY_REVOKED: DecisionTables._key_revoked,
    Note.ENDPOINT_CREATED: DecisionTables._endpoint_created,
    Note.ENDPOINT_DELETED: DecisionTables._endpoint_deleted,
}

_NOTE = {row.event: _BY_NOTE[row.noted] for row in EVENT_TABLE}
