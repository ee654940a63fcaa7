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
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from ledger.engine.log import leases, snapshots
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.log.leases import EndedLease
from ledger.engine.log.nodes import SPOKEN
from ledger.engine.log.snapshots import VERSION
from ledger.engine.log.tables import (
    ENDPOINT,
    IDENTITY,
    LOG,
    OMITTED,
    RUN_KEY,
    WATCH,
    EndpointRow,
    LogRow,
    OmittedRow,
    OpenRunRow,
    RunKeyRow,
)
from ledger.engine.postgres.binary import array
from ledger.engine.postgres.clocks import Comparison
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pipeline import Statement, Transaction, Value, find, insert, named
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Folded, Identity

# OFFSET 0 keeps each look-up in a large table a look-up by key. A generic plan stays
# (``planned_once``), and one made while the table is empty would prefer to scan that table.

# The end of the log: the next position, the instants of the last event and beat, and now.
_END = """
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
"""A stream with at least so many unknown events is first looked up among the snapshots."""

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

# The event that has each identity, and before it the event at the previous position: the first may
# have caused that one, which then has no identity of its own.
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

# The streams of the events that have these identities, in the same order.
_STREAMS = """
SELECT e.originator_id
FROM unnest(%(digest)s::uuid[]) WITH ORDINALITY AS asked (digest, number)
CROSS JOIN LATERAL (
    SELECT position FROM ledger.identity WHERE digest = asked.digest OFFSET 0
) AS i
CROSS JOIN LATERAL (
    SELECT originator_id FROM ledger.ledger_events WHERE notification_id = i.position OFFSET 0
) AS e
ORDER BY asked.number
"""

# The open runs of a line, for its closing.
_OPEN_RUNS = f"""
SELECT {", ".join(OpenRunRow._fields)} FROM ledger.open_run
WHERE line_id = %(line)s ORDER BY run_id
"""

# True if another transaction waits for the append lock.
_IS_AWAITED = b"""
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE relation = 'ledger.append_lock'::regclass AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""

# The number of an organization's endpoints or watches.
_OWNED = "SELECT count(*) FROM ledger.{} WHERE organization_id = %(organization)s"

# The ids in each window of numbers that already name a stream or an execution record. A window
# begins after a number, or after the last one that the counter issued.
_NUMBERS = """
SELECT asked.prefix, asked.year, asked.size, base.last, ARRAY(
    SELECT originator_id FROM ledger.ledger_events
    WHERE originator_id = ANY(looked_up.ids) AND originator_version = 1
    UNION ALL
    SELECT execution_id FROM ledger.execution_record WHERE execution_id = ANY(looked_up.ids)
)
FROM unnest(
    %(prefix)s::text[], %(year)s::int[], %(size)s::bigint[], %(after)s::bigint[]
) AS asked (prefix, year, size, after)
LEFT JOIN LATERAL (
    SELECT last FROM ledger.id_counter WHERE prefix = asked.prefix AND year = asked.year OFFSET 0
) AS c ON true
CROSS JOIN LATERAL (SELECT coalesce(asked.after, c.last, 0)) AS base (last)
CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT asked.prefix || to_char(asked.year %% 100, '"-"FM00"-"')
        || lpad(n::text, greatest(6, length(n::text)), '0')
    FROM generate_series(base.last + 1, base.last + asked.size) AS n
) OFFSET 0) AS looked_up (ids)
"""

# The line and the source of each event after a position, except alerts. The line is the fourth
# element of the envelope, or the stream; the source is the first part of the ninth.
_CHANGED_AFTER = """
SELECT COALESCE(convert_from(state, 'UTF8')::json ->> 3,
                CASE WHEN originator_id LIKE 'LIN-%%' THEN originator_id END),
       convert_from(state, 'UTF8')::json -> 8 ->> 0
FROM ledger.ledger_events
WHERE notification_id > %(after)s::bigint AND originator_id NOT LIKE 'ALR-%%'
ORDER BY notification_id LIMIT %(limit)s::int
"""

# Positions were assigned under the lock, so the sequence is moved past them. After a rollback it
# stays moved: a gap remains, and no position is used twice.
_MOVE_END = "setval('ledger.ledger_events_notification_id_seq', {}::bigint)"

# The last position that was recorded by an instant.
_POSITION_BY = """
SELECT notification_id FROM ledger.ledger_events
WHERE recorded_at <= %(at)s::timestamptz ORDER BY recorded_at DESC LIMIT 1
"""

# Updates and deletions of stored rows. A run that ends loses its lease.
_END_RUNS = """
WITH let_go AS (DELETE FROM ledger.lease WHERE run_id = ANY(%(run)s::text[]))
DELETE FROM ledger.open_run AS o
USING (SELECT unnest(%(line)s::text[]) AS line_id, unnest(%(run)s::text[]) AS run_id) AS ended
WHERE o.line_id = ended.line_id AND o.run_id = ended.run_id
"""
# Events that open and end nothing also raise a run's version.
_MOVE_RUNS = """
UPDATE ledger.open_run AS o SET version = moved.version
FROM unnest(%(line)s::text[], %(run)s::text[], %(version)s::bigint[])
    AS moved (line_id, run_id, version)
WHERE o.line_id = moved.line_id AND o.run_id = moved.run_id
"""
# Destroy a run's key. A notification at the commit tells processes with the key in memory.
_DESTROY_RUN_KEY = """
WITH destroyed AS (
    UPDATE ledger.run_key SET wrapped = NULL, destroyed_at = %(at)s::timestamptz
    WHERE run_id = %(run)s RETURNING run_id
)
SELECT pg_notify('ledger_erased', run_id || ' erased') FROM destroyed
"""
_DISOWN = "DELETE FROM ledger.{} WHERE organization_id = %(organization)s AND {} = %(id)s"

# Add to the counts of credentials.
_OMIT = """
INSERT INTO ledger.refusals_omitted AS o (credential, organization_id, workspace_id, since, count)
SELECT unnest(%(credential)s::text[]), unnest(%(organization_id)s::text[]),
    unnest(%(workspace_id)s::text[]), unnest(%(since)s::timestamptz[]), unnest(%(count)s::bigint[])
ON CONFLICT (credential) DO UPDATE SET count = o.count + excluded.count
"""

# Delete a credential's count: from now on an event has it.
_DELETE_OMITTED = """
DELETE FROM ledger.refusals_omitted WHERE credential = %(credential)s
RETURNING credential, organization_id, workspace_id, since, count
"""

# A transaction with a NOTIFY commits under a lock of the whole cluster. Every other such
# transaction waits for it, and an append's commit waits for the disk. So NOTIFY is sent after the
# commit, in its own transaction. If one is lost, the projector finds the events at its next poll.
_NOTIFY = Statement(b"NOTIFY ledger_events")

StoredRow = tuple[str, int, str, bytes, int]
"""(stream, version, topic, state, position)"""

# An update in place needs no new disk space, so it could succeed on a full disk. So the probe also
# needs space for a moment: rows beyond work_mem go to a temporary file.
_LITTLE_MEMORY = b"SET LOCAL work_mem = '64kB'"
_PROBE = b"""
UPDATE ledger.append_probe SET written_at = clock_timestamp()
FROM (SELECT count(*) FROM generate_series(1, 3000)) AS beyond
RETURNING extract(epoch FROM written_at)::float8
"""


class Window(NamedTuple):
    """Numbers of ids that are looked up together."""

    prefix: str
    year: int
    """The year of recording, in UTC."""
    size: int
    after: int | None = None
    """None starts after the last number that was issued."""


class Numbers(NamedTuple):
    """The answer to a ``Window``."""

    prefix: str
    year: int
    size: int
    last: int
    """The number before the first one."""
    used: Collection[str]
    """The ids of the window that name something."""


class Wanted(NamedTuple):
    """What to read. A part without keys costs nothing."""

    streams: Mapping[str, int] = MappingProxyType({})
    """The known version of each stream."""
    identities: Sequence[Identity] = ()
    rows: Mapping[Table, Collection[Sequence[Any]]] = MappingProxyType({})
    """The keys of rows, each with a value for each key column."""
    windows: Sequence[Window] = ()


class Loaded(NamedTuple):
    """The answer to ``Wanted``."""

    snapshots: Sequence[Folded]
    tails: Sequence[StoredRow]
    """The events beyond the known version, or beyond the snapshot if there is one."""
    firsts: Mapping[Identity, Sequence[StoredRow]]
    """The event of each known identity; before it the event at the previous position, if any."""
    rows: Mapping[Table, Sequence[Any]]
    """The existing rows of the requested tables."""
    numbers: Sequence[Numbers]


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
        self.clocks = Comparison(wall, steady)
        self.is_first = is_first
        """True if this is the connection's first append: the database may be another one."""
        self.next_position = 0
        self.last_recorded_at: datetime | None = None
        """The next event is recorded after this instant: the one of the last event, or of the last
        beat if that is later. Known, as ``next_position`` is, from the first ``read`` on."""

    @property
    def transaction(self) -> Transaction:
        """For the views, which may be written with the events."""
        return self._transaction

    def read(self, wanted: Wanted) -> Loaded:
        """Read in one round trip, unless a tail is long. No other transaction changes these rows.

        The first read also finds the end of the log.
        """
        queries: dict[Table | str, Statement] = {
            table: find(table, keys) for table, keys in wanted.rows.items() if keys
        }
        if not self.next_position:
            queries[_END] = Statement(_END.encode())
        if wanted.streams:
            queries[_TAILS] = named(_TAILS, _streams(wanted.streams) | {"limit": _NEAR})
        if wanted.identities:
            digests = array("uuid", [identity.digest for identity in wanted.identities])
            queries[_FIRSTS] = named(_FIRSTS, {"digest": digests})
        if wanted.windows:
            prefixes, years, sizes, begins = zip(*wanted.windows, strict=True)
            queries[_NUMBERS] = named(
                _NUMBERS,
                {
                    "prefix": array("text", prefixes),
                    "year": array("int", years),
                    "size": array("bigint", sizes),
                    "after": array("bigint", begins),
                },
            )
        found = self._transaction.ask(queries)
        for self.next_position, recorded_at, beaten_at, at in found.get(_END, ()):
            beats = [beaten_at] if self._heeds_beats else []
            self.last_recorded_at = max(filter(None, [recorded_at, *beats]), default=None)
            self.clocks.compare(at)
        restored, tails = self._complete(wanted.streams, found.get(_TAILS, []))
        return Loaded(
            restored,
            sorted(tails),
            _by_identity(wanted.identities, found.get(_FIRSTS, [])),
            {
                table: [table.row(*row) for row in rows]
                for table, rows in found.items()
                if isinstance(table, Table)
            },
            [Numbers(*row) for row in found.get(_NUMBERS, ())],
        )

    def _complete(self, versions: Mapping[str, int], tails: Rows) -> tuple[list[Folded], Rows]:
        """Where tails are long, return the aggregates of snapshots and the tails beyond them."""
        if len(tails) < _NEAR:
            return [], tails
        sizes = Counter(row[0] for row in tails)
        far = {stream: versions[stream] for stream, size in sizes.items() if size == _NEAR}
        if not far:
            return [], tails
        found = self._transaction.run(named(_SNAPSHOTS, _streams(far) | {"fold": VERSION}))
        restored = [a for row in found if (a := snapshots.restore(*row)) is not None]
        far |= {aggregate.id: aggregate.version for aggregate in restored}
        whole = self._transaction.run(named(_TAILS, _streams(far) | {"limit": None}))
        return restored, [row for row in tails if row[0] not in far] + whole

    def streams_of(self, identities: Sequence[Identity]) -> list[str]:
        """The streams of the stored events that have these identities, in the same order."""
        digests = array("uuid", [identity.digest for identity in identities])
        return [stream for (stream,) in self._transaction.run(named(_STREAMS, {"digest": digests}))]

    def open_runs(self, line_id: str) -> list[OpenRunRow]:
        """The line's open runs, in the order of their ids, without the changes of this append."""
        found = self._transaction.run(named(_OPEN_RUNS, {"line": line_id}))
        return [OpenRunRow(*row) for row in found]

    def owned(self, table: Table, organization_id: str) -> int:
        """How many endpoints or watches the organization had before this append."""
        counted = named(_OWNED.format(table.name), {"organization": organization_id})
        found = self._transaction.run(counted)
        return int(found[0][0])

    def changed_after(self, position: int, most: int) -> set[str] | None:
        """The lines and sources of stored events after a position; None if more than ``most``."""
        found = self._transaction.run(named(_CHANGED_AFTER, {"after": position, "limit": most + 1}))
        return None if len(found) > most else {name for row in found for name in row if name}

    def position_by(self, at: datetime) -> int:
        """The last position recorded by an instant, without those of this append."""
        found = self._transaction.run(named(_POSITION_BY, {"at": at.isoformat()}))
        return int(found[0][0]) if found else 0

    def ended(self, runs: Collection[str]) -> dict[str, EndedLease]:
        """Those stored leases of these runs that have ended, by run, each locked."""
        rows = self._transaction.run(named(leases.ENDED, {"run": array("text", runs)}))
        return {run_id: EndedLease(*instants) for run_id, *instants in rows}

    def pop_omitted(self, credential: str) -> OmittedRow | None:
        """Remove and return the credential's count of refusals, or None."""
        rows = self._transaction.run(named(_DELETE_OMITTED, {"credential": credential}))
        return OmittedRow(*rows[0]) if rows else None

    def language(self) -> int | None:
        """The oldest language of a living node; None if no node beats."""
        spoken: int | None = self._transaction.run(Statement(SPOKEN))[0][0]
        return spoken

    def is_awaited(self) -> bool:
        """True if another transaction waits for the append lock: of any process, on any node."""
        return bool(self._transaction.run(Statement(_IS_AWAITED))[0][0])

    def write(
        self,
        events: Sequence[LogRow],
        keys: Sequence[RunKeyRow],
        tables: DecisionTables,
        *,
        is_last: bool,
    ) -> None:
        """Write events, identities and run keys; with the last events also all noted changes.

        The last ones are sent with the commit. Others are sent at once, and the caller goes on
        while PostgreSQL writes them.
        """
        rows = tables.changed() if is_last else {}
        rows |= {LOG: events, IDENTITY: tables.pop_identities(), RUN_KEY: keys}
        self.next_position += len(events)
        self._add(rows, _MOVE_END, self.next_position - 1)
        if not is_last:
            self._transaction.send()
            return
        if tables.ended:
            lines, runs = array("text", tables.ended.values()), array("text", tables.ended)
            self.change(_END_RUNS, line=lines, run=runs)
        if tables.moved:
            of_lines, versions = zip(*tables.moved.values(), strict=True)
            runs, numbers = array("text", tables.moved), array("bigint", versions)
            self.change(_MOVE_RUNS, line=array("text", of_lines), run=runs, version=numbers)
        for run, at in tables.erased.items():
            self.change(_DESTROY_RUN_KEY, run=run, at=at.isoformat())
        for identifier, row in tables.disowned.items():
            table = ENDPOINT if isinstance(row, EndpointRow) else WATCH
            statement = _DISOWN.format(table.name, table.key[-1])
            self.change(statement, organization=row.organization_id, id=identifier)

    def notify(self) -> None:
        """Notify the projector, with the commit, of events that are left to it."""
        self._transaction.defer_beyond(_NOTIFY)

    def write_tables(
        self,
        rows: Mapping[Table, Sequence[Sequence[Any]]],
        heartbeats: Mapping[str, datetime],
        omitted: Collection[OmittedRow],
    ) -> None:
        """Write rows without events, heartbeats by run, and counts of omitted refusals."""
        self.write_rows(rows)
        if heartbeats:
            instants = array("timestamptz", heartbeats.values())
            self.change(leases.HEAR, run=array("text", heartbeats), at=instants)
        if omitted:
            columns = map(array, OMITTED.columns.values(), zip(*omitted, strict=True))
            self.change(_OMIT, **dict(zip(OMITTED.columns, columns, strict=True)))

    def write_rows(self, rows: Mapping[Table, Sequence[Sequence[Any]]]) -> None:
        """Insert rows, or replace those of tables with ``replaces``."""
        self._add(rows)

    def beat(self, now: datetime, *, listens: bool) -> None:
        """Beat: no later event is recorded before this instant (contract, Several nodes).

        With ``listens``, also note that the service can take heartbeats at this instant.
        """
        self.change(leases.LISTEN if listens else leases.BEAT, now=now.isoformat())

    def select(self, statement: str, values: Mapping[str, Value]) -> Rows:
        """The rows of a statement about tables other than the log's, or about stored events."""
        return self._transaction.run(named(statement, values))

    def change(self, statement: str, **values: Value) -> None:
        """Send a statement that changes stored rows, with the commit."""
        self._transaction.defer(named(statement, values))

    def _add(
        self, rows: Mapping[Table, Sequence[Sequence[Any]]], select: str = "", value: Value = None
    ) -> None:
        if some := {table: of_table for table, of_table in rows.items() if of_table}:
            self._transaction.defer(insert(some, select, value))

    def probe(self) -> None:
        """Update the probe row, to find out if an append could write, and the clock's skew."""
        self._transaction.defer(Statement(_LITTLE_MEMORY))
        self._transaction.defer(Statement(_PROBE), lambda rows: self.clocks.compare(rows[0][0]))
        self._transaction.flush()


def _streams(versions: Mapping[str, int]) -> dict[str, Value]:
    return {"stream": array("text", versions), "version": array("bigint", versions.values())}


def _by_identity(identities: Sequence[Identity], found: Rows) -> dict[Identity, list[StoredRow]]:
    rows: dict[Identity, list[StoredRow]] = {}
    for number, *row in found:
        rows.setdefault(identities[number - 1], []).append(tuple(row))
    return rows
