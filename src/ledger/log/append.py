"""An append transaction: take the append lock, read what decisions need, write the events.

The guarantees follow from the order:

1. The append lock. Everything that is read afterwards is still true at commit, and positions become
   visible in order: a reader that tails the log never sees a position appear behind its own.
2. The reads, in new statements, whose snapshots are taken after the lock.
3. The statements that write events, identities and decision rows.
4. COMMIT, then a NOTIFY to processes that wait for events.

Most appends take two round trips: the lock is sent with the first reads, the writes with COMMIT.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from eventsourcing.persistence import StoredEvent

from ledger.domain.identity import Identity
from ledger.domain.recorded import Recorded
from ledger.log import snapshots
from ledger.log.decisions import DecisionTables
from ledger.log.leases import Leases
from ledger.log.nodes import SPOKEN
from ledger.log.side_tables import SideTables
from ledger.log.snapshots import FOLD, Aggregate
from ledger.log.tables import (
    EXECUTION_RECORD,
    ID_COUNTER,
    IDENTITY,
    LINE_ACTIVITY,
    LOG,
    RUN_KEY,
    ExecutionRecordRow,
    LineActivityRow,
    LogRow,
    OpenRunRow,
    RunKeyRow,
)
from ledger.postgres.binary import array
from ledger.postgres.clocks import Comparison
from ledger.postgres.exchange import Rows
from ledger.postgres.pipeline import Statement, Transaction, Value, named
from ledger.postgres.rows import find, insert
from ledger.postgres.table import Table

# OFFSET 0 keeps each look-up in a large table a look-up by key. A generic plan stays
# (``planned_once``), and a plan made while the table is empty would prefer to scan that table.

# The end of the log: the next position, the instants of the last event and beat, and the present.
_END = b"""
SELECT s.last_value + s.is_called::int,
    (SELECT recorded_at FROM ledger.ledger_events ORDER BY notification_id DESC LIMIT 1),
    (SELECT beaten_at FROM ledger.listening WHERE is_only),
    extract(epoch FROM clock_timestamp())::float8
FROM ledger.ledger_events_notification_id_seq AS s
"""

# The tail of each stream: its events beyond the known version, the first ones if there is a limit.
# No rows mean that the known version is up to date.
_TAILS = """
SELECT e.originator_id, e.originator_version, e.topic, e.state, e.notification_id
FROM unnest(%(stream)s::text[], %(version)s::bigint[]) AS asked (id, version)
CROSS JOIN LATERAL (
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM ledger.ledger_events
    WHERE originator_id = asked.id AND originator_version > asked.version
    ORDER BY originator_version LIMIT %(limit)s::int
) AS e
"""

_NEAR = 20
"""The number of unknown events from which on a stream is first looked up among the snapshots."""

# The snapshots of streams beyond the versions known to this process.
_SNAPSHOTS = """
SELECT asked.id, s.version, s.state
FROM unnest(%(stream)s::text[], %(version)s::bigint[]) AS asked (id, version)
CROSS JOIN LATERAL (
    SELECT version, state FROM ledger.snapshot
    WHERE stream = asked.id AND version > asked.version AND fold = %(fold)s::int
    OFFSET 0
) AS s
"""

# The event that has each identity, and before it the event at the position before: this event may
# have been caused by the first, and then has no identity of its own.
_FIRSTS = """
SELECT asked.number, e.originator_id, e.originator_version, e.topic, e.state, e.notification_id
FROM unnest(%(digest)s::uuid[]) WITH ORDINALITY AS asked (digest, number)
CROSS JOIN LATERAL (
    SELECT position FROM ledger.identity WHERE digest = asked.digest OFFSET 0
) AS i
CROSS JOIN LATERAL (
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM ledger.ledger_events
    WHERE notification_id IN (i.position, i.position - 1)
    ORDER BY notification_id OFFSET 0
) AS e
"""

# The open runs of a line, for its closing.
_OPEN_RUNS = """
SELECT line_id, run_id, version, started_at, external_id FROM ledger.open_run
WHERE line_id = %(line)s ORDER BY run_id
"""

# Whether another transaction waits for the append lock.
_IS_AWAITED = b"""
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE relation = 'ledger.append_lock'::regclass AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""

# The number of an organization's endpoints.
_ENDPOINTS = "SELECT count(*) FROM ledger.endpoint WHERE organization_id = %(organization)s"

# The ids among these that already name a stream or an execution record.
_TAKEN = """
SELECT originator_id FROM ledger.ledger_events
WHERE originator_id = ANY(%(ids)s::text[]) AND originator_version = 1
UNION ALL
SELECT execution_id FROM ledger.execution_record WHERE execution_id = ANY(%(ids)s::text[])
"""

# The positions were assigned under the lock, so the sequence is moved past them. After a rollback
# the sequence stays moved: a gap remains, and no position is used twice.
_MOVE_END = "setval('ledger.ledger_events_notification_id_seq', {}::bigint)"

# Updates and deletions of stored rows. A run that ends has no lease any more.
_END_RUNS = """
WITH let_go AS (DELETE FROM ledger.lease WHERE run_id = ANY(%(run)s::text[]))
DELETE FROM ledger.open_run AS o
USING (SELECT unnest(%(line)s::text[]) AS line_id, unnest(%(run)s::text[]) AS run_id) AS ended
WHERE o.line_id = ended.line_id AND o.run_id = ended.run_id
"""
# Destroy a run's key. At the commit a notification tells processes that have the key in memory.
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

# A transaction with a NOTIFY commits under a lock of the whole cluster, for which every other such
# transaction waits, and an append's commit waits for the disk. So NOTIFY is sent after the commit,
# in its own transaction. If a NOTIFY is lost, the projector finds the events at its next poll.
_NOTIFY = Statement(b"NOTIFY ledger_events")

StoredRow = tuple[str, int, str, bytes, int]
"""(stream, version, topic, state, position)"""

# An update in place needs no new disk space, so it could succeed on a full disk. So the probe also
# needs some space for a moment: the rows beyond work_mem go to a temporary file.
_LITTLE_MEMORY = b"SET LOCAL work_mem = '64kB'"
_PROBE = b"""
UPDATE ledger.append_probe SET written_at = clock_timestamp()
FROM (SELECT count(*) FROM generate_series(1, 3000)) AS beyond
RETURNING extract(epoch FROM written_at)::float8
"""


class Found(NamedTuple):
    """The result of ``Append.read``."""

    snapshots: list[Aggregate]
    tails: list[StoredRow]
    """The events beyond the known version, or beyond the snapshot if there is one."""
    firsts: dict[Identity, list[StoredRow]]
    """The event of each known identity; before it the event at the position before, if any."""
    activity: list[LineActivityRow]
    records: list[ExecutionRecordRow]
    keys: list[RunKeyRow]


class Append:
    """The operations under the append lock, which the first ``read`` takes."""

    def __init__(
        self,
        transaction: Transaction,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        *,
        is_first: bool = False,
        heeds_beats: bool = True,
    ) -> None:
        self._transaction, self._heeds_beats = transaction, heeds_beats
        self._clocks = Comparison(wall, steady)
        self.is_first = is_first
        """Whether this is the connection's first append: the database may be another one."""
        self.decisions = DecisionTables()
        self.next_position = 0
        self.last_recorded_at: datetime | None = None
        """The instant after which the next event is recorded: that of the last event, or of the
        last beat if that is later. Known, as ``next_position`` is, from the first ``read`` on."""

    @property
    def clock_skew(self) -> float | None:
        """By how many seconds this machine's clock is ahead of the database's; None: unknown."""
        return self._clocks.skew

    @property
    def aside(self) -> SideTables:
        """The tables beside the log: outcomes and omitted refusals."""
        return SideTables(self._transaction)

    @property
    def leases(self) -> Leases:
        return Leases(self._transaction)

    # Reading, under the lock: no other transaction changes these rows.

    def read(
        self,
        known: Mapping[str, int],
        *,
        identities: Sequence[Identity] = (),
        lines: Collection[str] = (),
        records: Collection[str] = (),
        keys: Collection[str] = (),
    ) -> Found:
        """Read the tails of streams beyond the known versions, events by identity, rows by id.

        One round trip, unless a tail is long; a statement without keys is not sent.
        """
        end = [] if self.next_position else self._ask(Statement(_END))
        tails = self._ask_tails(known, _NEAR)
        firsts = self._ask_firsts(identities)
        activity = self._ask_keys(LINE_ACTIVITY, lines)
        found_records = self._ask_keys(EXECUTION_RECORD, records)
        found_keys = self._ask_keys(RUN_KEY, keys)
        self._transaction.flush()
        for self.next_position, recorded_at, beaten_at, at in end:
            beats = [beaten_at] if self._heeds_beats else []
            self.last_recorded_at = max(filter(None, [recorded_at, *beats]), default=None)
            self._clocks.compare(at)
        restored, tails = self._complete(known, tails)
        return Found(
            restored,
            sorted(tails),
            _by_identity(identities, firsts),
            [LineActivityRow(*row) for row in activity],
            [ExecutionRecordRow(*row) for row in found_records],
            [RunKeyRow(*row) for row in found_keys],
        )

    def _complete(self, known: Mapping[str, int], tails: Rows) -> tuple[list[Aggregate], Rows]:
        """Return the aggregates of snapshots and the tails beyond them, where tails are long."""
        if len(tails) < _NEAR:
            return [], tails
        sizes = Counter(row[0] for row in tails)
        far = {stream: known[stream] for stream, size in sizes.items() if size == _NEAR}
        if not far:
            return [], tails
        found = self._transaction.run(named(_SNAPSHOTS, _streams(far) | {"fold": FOLD}))
        restored = [a for row in found if (a := snapshots.restore(*row)) is not None]
        far |= {aggregate.id: aggregate.version for aggregate in restored}
        whole = self._transaction.run(named(_TAILS, _streams(far) | {"limit": None}))
        return restored, [row for row in tails if row[0] not in far] + whole

    def _ask_tails(self, known: Mapping[str, int], limit: int) -> Rows:
        if not known:
            return []
        return self._ask(named(_TAILS, _streams(known) | {"limit": limit}))

    def _ask_firsts(self, identities: Sequence[Identity]) -> Rows:
        if not identities:
            return []
        digests = array("uuid", [identity.digest for identity in identities])
        return self._ask(named(_FIRSTS, {"digest": digests}))

    def _ask_keys(self, table: Table, keys: Collection[str]) -> Rows:
        return self._ask(find(table, [(key,) for key in keys])) if keys else []

    def _ask(self, statement: Statement) -> Rows:
        """Return the statement's rows: a list that is filled when the transaction is flushed."""
        rows: Rows = []
        self._transaction.defer(statement, rows.extend)
        return rows

    def open_runs(self, line_id: str) -> dict[str, OpenRunRow]:
        """The line's open runs by id: the stored rows with the changes of this append."""
        found = self._transaction.run(named(_OPEN_RUNS, {"line": line_id}))
        return self.decisions.open_runs(line_id, [OpenRunRow(*row) for row in found])

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
        """The RUN or KEY ids among these that are already taken."""
        found = self._transaction.run(named(_TAKEN, {"ids": array("text", ids)}))
        return {row[0] for row in found}

    def language(self) -> int | None:
        """The oldest language that a living node speaks; None if no node beats."""
        spoken: int | None = self._transaction.run(Statement(SPOKEN))[0][0]
        return spoken

    def is_awaited(self) -> bool:
        """Whether another transaction waits for the append lock: of any process, on any node."""
        return bool(self._transaction.run(Statement(_IS_AWAITED))[0][0])

    # Writing: the statements are sent with the commit at the latest.

    def write(
        self,
        stored: Sequence[StoredEvent],
        recorded: Sequence[Recorded],
        *,
        keys: Sequence[RunKeyRow],
        is_last: bool,
    ) -> None:
        """Write events, identities and run keys; with the last events also all noted changes.

        Other events are sent at once, and the caller goes on while PostgreSQL writes them.
        """
        events = [
            LogRow(*_columns(event), envelope.position, envelope.recorded_at)
            for event, envelope in zip(stored, recorded, strict=True)
        ]
        identities = self.decisions.take_identities()
        rows: dict[Table, Sequence[Sequence[Any]]] = {
            LOG: events,
            IDENTITY: identities,
            RUN_KEY: keys,
        }
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
        """Update or delete stored rows, as the noted events require."""
        decisions = self.decisions
        if decisions.ended:
            lines, runs = array("text", decisions.ended.values()), array("text", decisions.ended)
            self._change(_END_RUNS, line=lines, run=runs)
        for run, at in decisions.erased.items():
            self._change(_DESTROY_RUN_KEY, run=run, at=at.isoformat())
        for endpoint, row in decisions.deleted_endpoints.items():
            self._change(_DELETE_ENDPOINT, organization=row.organization_id, endpoint=endpoint)

    def _change(self, statement: str, **values: Value) -> None:
        self._transaction.defer(named(statement, values))

    def keep(self, aggregates: Collection[Aggregate]) -> None:
        """Write the snapshots of aggregates, which include the events of this append."""
        snapshots.keep(self._transaction, aggregates)

    def probe(self) -> None:
        """Update the probe row, to find out whether an append could write, and the clock's skew."""
        self._transaction.defer(Statement(_LITTLE_MEMORY))
        self._transaction.defer(Statement(_PROBE), lambda rows: self._clocks.compare(rows[0][0]))
        self._transaction.flush()


def _streams(known: Mapping[str, int]) -> dict[str, Value]:
    return {"stream": array("text", known), "version": array("bigint", known.values())}


def _by_identity(identities: Sequence[Identity], found: Rows) -> dict[Identity, list[StoredRow]]:
    rows: dict[Identity, list[StoredRow]] = {}
    for number, *row in found:
        rows.setdefault(identities[number - 1], []).append(tuple(row))
    return rows


def _columns(event: StoredEvent) -> tuple[str, int, str, bytes]:
    return str(event.originator_id), event.originator_version, event.topic, event.state
