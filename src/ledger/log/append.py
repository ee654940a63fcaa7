"""One append transaction: the append lock is held, the facts are read, the events are written.

The order is what keeps the promises. The lock comes first, so that everything read afterwards is
still true at commit and positions appear in commit order: a reader that tails the log never sees
a position filled in behind it. Then, in new statements, the reads. Then the statements that write
events, identities and decision rows. Then COMMIT, and a word to those who wait for events. Most
take two round trips: the lock travels with the first reads, the writing with the commit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from eventsourcing.persistence import StoredEvent

from ledger.domain.recorded import Recorded
from ledger.log import snapshots
from ledger.log.decisions import CheckInKey, DecisionTables
from ledger.log.side_tables import SideTables
from ledger.log.snapshots import EVERY, FOLD, Aggregate
from ledger.log.tables import (
    CHECK_IN,
    EXECUTION_RECORD,
    FACT,
    ID_COUNTER,
    LINE_ACTIVITY,
    LOG,
    RUN_KEY,
    CheckInRow,
    ExecutionRecordRow,
    FactRow,
    LineActivityRow,
    LogRow,
    OpenRunRow,
    RunKeyRow,
)
from ledger.postgres.binary import array
from ledger.postgres.exchange import Rows
from ledger.postgres.pipeline import Statement, Transaction, Value, named
from ledger.postgres.rows import find, insert
from ledger.postgres.table import Table

# OFFSET 0 keeps each look at a large table a look by key: the plan stays (``planned_once``), and
# one that is made while a table is empty would rather walk that than what is asked for.

# Where the log ends: the next position, and the instant of the last event.
_END = b"""
SELECT s.last_value + s.is_called::int,
    (SELECT recorded_at FROM ledger.ledger_events ORDER BY notification_id DESC LIMIT 1)
FROM ledger.ledger_events_notification_id_seq AS s
"""

# The snapshots of streams that go far beyond the version we know.
_SNAPSHOTS = """
SELECT asked.id, s.version, s.state
FROM unnest(%(stream)s::text[], %(version)s::bigint[]) AS asked (id, version)
CROSS JOIN LATERAL (
    SELECT version, state FROM ledger.snapshot
    WHERE stream = asked.id AND version >= asked.version + %(far)s::int AND fold = %(fold)s::int
    OFFSET 0
) AS s
"""

# What each stream holds beyond the version we know, or beyond its snapshot: "is it stale?" and the
# tail itself.
_TAILS = """
SELECT e.originator_id, e.originator_version, e.topic, e.state, e.notification_id
FROM unnest(%(stream)s::text[], %(version)s::bigint[]) AS asked (id, version)
LEFT JOIN LATERAL (
    SELECT version FROM ledger.snapshot
    WHERE stream = asked.id AND version >= asked.version + %(far)s::int AND fold = %(fold)s::int
    OFFSET 0
) AS s ON true
CROSS JOIN LATERAL (
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM ledger.ledger_events
    WHERE originator_id = asked.id AND originator_version > coalesce(s.version, asked.version)
    OFFSET 0
) AS e
"""

# The open runs of one line, for its closing.
_OPEN_RUNS = """
SELECT line_id, run_id, version, started_at FROM ledger.open_run
WHERE line_id = %(line)s ORDER BY run_id
"""

# How many endpoints an organization has.
_ENDPOINTS = "SELECT count(*) FROM ledger.endpoint WHERE organization_id = %(organization)s"

# Which ids already name a stream or an execution record.
_TAKEN = """
SELECT originator_id FROM ledger.ledger_events
WHERE originator_id = ANY(%(ids)s::text[]) AND originator_version = 1
UNION ALL
SELECT execution_id FROM ledger.execution_record WHERE execution_id = ANY(%(ids)s::text[])
"""

# The positions were given under the lock, so the sequence is moved past them; a rollback leaves a
# gap, never a position used twice.
_MOVE_END = "setval('ledger.ledger_events_notification_id_seq', {}::bigint)"

# Changes of stored rows, and their ends.
_END_RUNS = """
DELETE FROM ledger.open_run AS o
USING (SELECT unnest(%(line)s::text[]) AS line_id, unnest(%(run)s::text[]) AS run_id) AS ended
WHERE o.line_id = ended.line_id AND o.run_id = ended.run_id
"""
_VOID = """
UPDATE ledger.check_in SET voided = true
WHERE line_id = %(line)s AND source = %(source)s AND fact_id = %(fact)s
"""
_REVOKE_KEY = "UPDATE ledger.api_key SET revoked_at = %(at)s::timestamptz WHERE key_id = %(key)s"
# The end of a run's key; whoever has it in memory is told when that is committed.
_DESTROY_RUN_KEY = """
WITH destroyed AS (
    UPDATE ledger.run_key SET wrapped = NULL, destroyed_at = %(at)s::timestamptz
    WHERE run_id = %(run)s RETURNING run_id
)
SELECT pg_notify('ledger_erased', run_id || ' erased') FROM destroyed
"""
_DELETE_ENDPOINT = """
DELETE FROM ledger.endpoint
WHERE organization_id = %(organization)s AND endpoint_id = %(endpoint)s
"""

# A transaction that notifies commits under a lock that every other such one waits for, and ours
# waits for the disk: so the word is sent after the commit, in a transaction of its own. A word that
# is lost is healed by the projector's next look.
_NOTIFY = Statement(b"NOTIFY ledger_events")

StoredRow = tuple[str, int, str, bytes, int]
"""(stream, version, topic, state, position)"""

# A row that is changed in place needs no room that is not there yet, and would be written on a full
# disk. So the statement needs some for a moment: rows beyond work_mem go to a file.
_LITTLE_MEMORY = b"SET LOCAL work_mem = '64kB'"
_PROBE = b"""
UPDATE ledger.append_probe SET written_at = clock_timestamp()
FROM (SELECT count(*) FROM generate_series(1, 3000)) AS beyond
"""


class Found(NamedTuple):
    """What one read found."""

    snapshots: list[Aggregate]
    tails: list[StoredRow]
    """Beyond the version known, or beyond the snapshot where there is one."""
    facts: list[FactRow]
    activity: list[LineActivityRow]
    records: list[ExecutionRecordRow]
    keys: list[RunKeyRow]


class Append:
    """What may be done while the lock is held, which the first ``read`` takes."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.decisions = DecisionTables()
        self.next_position = 0
        self.last_recorded_at: datetime | None = None
        """Both known from the first ``read`` on."""

    @property
    def aside(self) -> SideTables:
        """The tables beside the log."""
        return SideTables(self._transaction)

    # Reading, under the lock: nobody changes any of it.

    def read(
        self,
        known: Mapping[str, int],
        *,
        facts: Collection[tuple[str, str, str]] = (),
        lines: Collection[str] = (),
        runs: Collection[str] = (),
    ) -> Found:
        """The tails of streams beyond the versions known, facts, lines' activity, runs' keys.

        All in one round trip, without the statements that have nothing to ask.
        """
        end = [] if self.next_position else self._ask(Statement(_END))
        snapshots_found, tails = self._ask_streams(known, FOLD)
        facts_found = self._ask_keys(FACT, facts)
        activity = self._ask_keys(LINE_ACTIVITY, [(line,) for line in lines])
        keys = [(run,) for run in runs]
        records, run_keys = self._ask_keys(EXECUTION_RECORD, keys), self._ask_keys(RUN_KEY, keys)
        self._transaction.flush()
        for row in end:
            self.next_position, self.last_recorded_at = row
        restored, tails = self._restored(known, snapshots_found, tails)
        return Found(
            restored,
            sorted(tails),
            [FactRow(*row) for row in facts_found],
            [LineActivityRow(*row) for row in activity],
            [ExecutionRecordRow(*row) for row in records],
            [RunKeyRow(*row) for row in run_keys],
        )

    def _restored(
        self, known: Mapping[str, int], found: Rows, tails: Rows
    ) -> tuple[list[Aggregate], Rows]:
        """The aggregates of snapshots, and the tails beyond them."""
        restored = [snapshots.restore(*row) for row in found]
        spoilt = {
            row[0]: known[row[0]]
            for row, aggregate in zip(found, restored, strict=True)
            if aggregate is None
        }
        if spoilt:
            # Their tails began at the snapshot: read anew, from the version known.
            _, whole = self._ask_streams(spoilt, None)
            self._transaction.flush()
            tails = [row for row in tails if row[0] not in spoilt] + whole
        return [aggregate for aggregate in restored if aggregate is not None], tails

    def _ask_streams(self, known: Mapping[str, int], fold: int | None) -> tuple[Rows, Rows]:
        """Ask for the snapshots of a fold, and the tails beyond them; None: for whole tails."""
        if not known:
            return [], []
        values: dict[str, Value] = {
            "stream": array("text", known),
            "version": array("bigint", known.values()),
            "far": EVERY,
            "fold": fold,
        }
        return self._ask(named(_SNAPSHOTS, values)), self._ask(named(_TAILS, values))

    def _ask_keys(self, table: Table, keys: Collection[Sequence[Any]]) -> Rows:
        return self._ask(find(table, keys)) if keys else []

    def _ask(self, statement: Statement) -> Rows:
        """The statement's rows, which are there once the transaction was flushed."""
        rows: Rows = []
        self._transaction.defer(statement, rows.extend)
        return rows

    def open_runs(self, line_id: str) -> dict[str, OpenRunRow]:
        """The line's open runs by id: the stored ones with this append's own changes."""
        found = self._transaction.run(named(_OPEN_RUNS, {"line": line_id}))
        return self.decisions.open_runs(line_id, [OpenRunRow(*row) for row in found])

    def check_in(self, line_id: str, source: str, fact_id: str) -> CheckInRow | None:
        """One check-in of the line, or None."""
        key: CheckInKey = (line_id, source, fact_id)
        check_ins = self.decisions.check_ins
        if key not in check_ins:
            for row in self._transaction.run(find(CHECK_IN, [key])):
                check_ins[key] = CheckInRow(*row)
        return check_ins.get(key)

    def counter(self, prefix: str, year: int) -> int:
        """The last number issued for a prefix in a year of recording."""
        key, counters = (prefix, year), self.decisions.counters
        if key not in counters:
            found = self._transaction.run(find(ID_COUNTER, [key]))
            counters[key] = found[0][2] if found else 0
        return counters[key]

    def endpoints(self, organization_id: str) -> int:
        """How many webhook endpoints the organization has, this append's changes included."""
        found = self._transaction.run(named(_ENDPOINTS, {"organization": organization_id}))
        return self.decisions.endpoints(organization_id, found[0][0])

    def taken(self, ids: Iterable[str]) -> set[str]:
        """Those of these RUN or KEY ids that something already bears."""
        found = self._transaction.run(named(_TAKEN, {"ids": array("text", ids)}))
        return {row[0] for row in found}

    # Writing, at the latest with the commit.

    def write(
        self,
        stored: Sequence[StoredEvent],
        recorded: Sequence[Recorded],
        *,
        facts: Sequence[FactRow],
        keys: Sequence[RunKeyRow],
        is_last: bool,
    ) -> None:
        """Write events, facts and run keys; with the last of the append every noted change too.

        Events that are not the last are written while the caller goes on.
        """
        events = [
            LogRow(*_columns(event), envelope.position, envelope.recorded_at)
            for event, envelope in zip(stored, recorded, strict=True)
        ]
        rows: dict[Table, Sequence[Sequence[Any]]] = {LOG: events, FACT: facts, RUN_KEY: keys}
        if is_last:
            rows |= self.decisions.changed()
        self.next_position += len(events)
        if changed := {table: some for table, some in rows.items() if some}:
            self._transaction.defer(insert(changed, _MOVE_END, self.next_position - 1))
        if is_last:
            self._change_stored()
            self._transaction.defer_beyond(_NOTIFY)
        else:
            self._transaction.send()

    def _change_stored(self) -> None:
        """Change or delete the rows that noted events are about."""
        decisions = self.decisions
        if decisions.ended:
            lines, runs = array("text", decisions.ended.values()), array("text", decisions.ended)
            self._change(_END_RUNS, line=lines, run=runs)
        for line, source, fact in decisions.voided:
            self._change(_VOID, line=line, source=source, fact=fact)
        for key, at in decisions.revoked_keys.items():
            self._change(_REVOKE_KEY, key=key, at=at.isoformat())
        for run, at in decisions.erased.items():
            self._change(_DESTROY_RUN_KEY, run=run, at=at.isoformat())
        for endpoint, row in decisions.deleted_endpoints.items():
            self._change(_DELETE_ENDPOINT, organization=row.organization_id, endpoint=endpoint)

    def _change(self, statement: str, **values: Value) -> None:
        self._transaction.defer(named(statement, values))

    def keep(self, aggregates: Collection[Aggregate]) -> None:
        """Write the snapshots of aggregates, as they are with what this append has written."""
        snapshots.keep(self._transaction, aggregates)

    def probe(self) -> None:
        """Write a row that says nothing, as an append would write its own."""
        self._transaction.defer(Statement(_LITTLE_MEMORY))
        self._transaction.defer(Statement(_PROBE))


def _columns(event: StoredEvent) -> tuple[str, int, str, bytes]:
    return str(event.originator_id), event.originator_version, event.topic, event.state
