"""One append transaction: the append lock is held, the facts are read, the events are written.

The order is what keeps the promises. The lock comes first, so that everything read afterwards is
still true at commit and positions appear in commit order: a reader that tails the log never sees
a position filled in behind it. Then, in new statements, the reads. Then one statement that writes
events, identities and decision rows. Then COMMIT, and a word to those who wait for events. Most
take two round trips: the lock travels with the first read, the writing with the commit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from eventsourcing.persistence import StoredEvent

from ledger.domain.recorded import Recorded
from ledger.postgres.binary import array
from ledger.postgres.pipeline import Statement, Transaction, Value, named
from ledger.store import snapshots
from ledger.store.decision_tables import DecisionTables, LineActivity
from ledger.store.side_tables import SideTables
from ledger.store.snapshots import EVERY, FOLD, Aggregate

# Everything a group of decisions needs, in one round trip. Under the lock nobody changes any of it.
# OFFSET 0 keeps each look at a large table a look by key: the plan stays (``planned_once``), and
# one that is made while a table is empty would rather walk that than what is asked for.
_READ = """
WITH known AS (
    -- Of a stream far beyond the version we know, its snapshot is read, and only what came after
    SELECT asked.id, coalesce(s.version, asked.version) AS version, s.state
    FROM unnest(%(stream)s::text[], %(version)s::bigint[]) AS asked (id, version)
    LEFT JOIN LATERAL (
        SELECT version, state FROM ledger.snapshot
        WHERE stream = asked.id AND version >= asked.version + %(far)s::int AND fold = %(fold)s::int
        OFFSET 0
    ) AS s ON true
)
-- 0: where the log ends
SELECT 0 AS kind, NULL AS a, NULL AS b, NULL AS c, NULL AS d, NULL AS e, NULL AS f,
       s.last_value + s.is_called::int AS n, NULL::bigint AS m, NULL::bytea AS bytes,
       (SELECT recorded_at FROM ledger.ledger_events ORDER BY notification_id DESC LIMIT 1) AS at
FROM ledger.ledger_events_notification_id_seq AS s
UNION ALL
-- 1: what each stream holds beyond the version we know: "is it stale?" and the tail itself
SELECT 1, e.originator_id, e.topic, NULL, NULL, NULL, NULL,
       e.originator_version, e.notification_id, e.state, NULL
FROM known CROSS JOIN LATERAL (
    SELECT originator_id, originator_version, topic, state, notification_id
    FROM ledger.ledger_events
    WHERE originator_id = known.id AND originator_version > known.version
    OFFSET 0
) AS e
UNION ALL
-- 2: facts recorded before
SELECT 2, f.organization_id, f.source, f.fact_id, f.run_id, f.subject, f.event_ids,
       f.position, NULL, f.digest, NULL
FROM unnest(%(organization)s::text[], %(source)s::text[], %(fact)s::text[])
    AS asked (organization_id, source, id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.fact
    WHERE organization_id = asked.organization_id AND source = asked.source AND fact_id = asked.id
    OFFSET 0
) AS f
UNION ALL
-- 3: the idle decision's row of every line
SELECT 3, line_id, NULL, NULL, NULL, NULL, NULL, open_runs, NULL, NULL, last_activity_at
FROM ledger.line_activity WHERE line_id = ANY(%(line)s::text[])
UNION ALL
-- 4: RUN ids that are taken by execution records
SELECT 4, execution_id, line_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM ledger.execution_record WHERE execution_id = ANY(%(run)s::text[])
UNION ALL
-- 5: the wrapped keys of runs
SELECT 5, run_id, organization_id, NULL, NULL, NULL, NULL, NULL, NULL, wrapped, NULL
FROM ledger.run_key WHERE run_id = ANY(%(run)s::text[])
UNION ALL
-- 6: the snapshots themselves
SELECT 6, id, NULL, NULL, NULL, NULL, NULL, version, NULL, state, NULL
FROM known WHERE state IS NOT NULL
"""

# Which ids already name a stream or an execution record.
_TAKEN = """
SELECT originator_id FROM ledger.ledger_events
WHERE originator_id = ANY(%(ids)s) AND originator_version = 1
UNION ALL
SELECT execution_id FROM ledger.execution_record WHERE execution_id = ANY(%(ids)s)
"""

# Everything an append writes, in one round trip. The positions were given under the lock, so the
# sequence is moved past them; a rollback leaves a gap, never a position used twice.
_WRITE = """
WITH event AS (
    INSERT INTO ledger.ledger_events
        (originator_id, originator_version, topic, state, notification_id, recorded_at)
    SELECT unnest(%(stream)s::text[]), unnest(%(version)s::bigint[]), unnest(%(topic)s::text[]),
        unnest(%(state)s::bytea[]), unnest(%(position)s::bigint[]),
        unnest(%(recorded_at)s::timestamptz[])
), fact AS (
    INSERT INTO ledger.fact
        (organization_id, source, fact_id, digest, run_id, subject, event_ids, position)
    SELECT unnest(%(fact_organization)s::text[]), unnest(%(fact_source)s::text[]),
        unnest(%(fact_id)s::text[]), unnest(%(fact_digest)s::bytea[]), unnest(%(fact_run)s::text[]),
        unnest(%(fact_subject)s::text[]), unnest(%(fact_events)s::text[]),
        unnest(%(fact_position)s::bigint[])
), activity AS (
    INSERT INTO ledger.line_activity (line_id, last_activity_at, open_runs)
    SELECT unnest(%(line)s::text[]), unnest(%(line_at)s::timestamptz[]),
        unnest(%(line_open)s::int[])
    ON CONFLICT (line_id) DO UPDATE
    SET last_activity_at = excluded.last_activity_at, open_runs = excluded.open_runs
), opened AS (
    INSERT INTO ledger.open_run (line_id, run_id, version, started_at)
    SELECT unnest(%(opened_line)s::text[]), unnest(%(opened)s::text[]),
        unnest(%(opened_version)s::bigint[]), unnest(%(opened_at)s::timestamptz[])
    ON CONFLICT (line_id, run_id) DO UPDATE
    SET version = excluded.version, started_at = excluded.started_at
), ended AS (
    DELETE FROM ledger.open_run AS o
    USING (SELECT unnest(%(ended_line)s::text[]) AS line_id, unnest(%(ended)s::text[]) AS run_id)
        AS gone
    WHERE o.line_id = gone.line_id AND o.run_id = gone.run_id
), checked_in AS (
    INSERT INTO ledger.check_in (line_id, source, fact_id, hours, at, resource_id, voided)
    SELECT unnest(%(check_line)s::text[]), unnest(%(check_source)s::text[]),
        unnest(%(check_fact)s::text[]), unnest(%(check_hours)s::float8[]),
        unnest(%(check_at)s::timestamptz[]), unnest(%(check_resource)s::text[]),
        unnest(%(check_voided)s::bool[])
), run_key AS (
    INSERT INTO ledger.run_key (run_id, organization_id, wrapped)
    SELECT unnest(%(key_run)s::text[]), unnest(%(key_organization)s::text[]),
        unnest(%(key)s::bytea[])
), execution_record AS (
    INSERT INTO ledger.execution_record (execution_id, line_id, organization_id)
    SELECT unnest(%(record)s::text[]), unnest(%(record_line)s::text[]),
        unnest(%(record_organization)s::text[])
)
SELECT setval('ledger.ledger_events_notification_id_seq', %(last)s::bigint)
"""

# The types of its parameters, each an array.
_WRITTEN = {
    "stream": "text",
    "version": "bigint",
    "topic": "text",
    "state": "bytea",
    "position": "bigint",
    "recorded_at": "timestamptz",
    "fact_organization": "text",
    "fact_source": "text",
    "fact_id": "text",
    "fact_digest": "bytea",
    "fact_run": "text",
    "fact_subject": "text",
    "fact_events": "text",
    "fact_position": "bigint",
    "line": "text",
    "line_at": "timestamptz",
    "line_open": "int",
    "opened_line": "text",
    "opened": "text",
    "opened_version": "bigint",
    "opened_at": "timestamptz",
    "ended_line": "text",
    "ended": "text",
    "check_line": "text",
    "check_source": "text",
    "check_fact": "text",
    "check_hours": "float8",
    "check_at": "timestamptz",
    "check_resource": "text",
    "check_voided": "bool",
    "key_run": "text",
    "key_organization": "text",
    "key": "bytea",
    "record": "text",
    "record_line": "text",
    "record_organization": "text",
}

# A transaction that notifies commits under a lock that every other such one waits for, and ours
# waits for the disk: so the word is sent after the commit, in a transaction of its own. One that is
# lost is healed by the projector's next look.
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


class FactRow(NamedTuple):
    """A recorded fact's first outcome."""

    organization_id: str
    source: str
    fact_id: str
    digest: bytes
    run_id: str | None
    subject: str
    event_ids: str
    position: int


class State:
    """What one read found, by kind."""

    def __init__(self) -> None:
        self.snapshots: list[Aggregate] = []
        self.tails: list[StoredRow] = []
        """Beyond the version known, or beyond the snapshot where there is one."""
        self.facts: list[FactRow] = []
        self.activity: dict[str, LineActivity] = {}
        self.records: dict[str, str] = {}
        """Execution record id → line id."""
        self.keys: list[tuple[str, str, bytes | None]] = []
        """(run, organization, wrapped key or None once destroyed)."""


class Append:
    """What may be done while the lock is held, which the first ``read`` takes."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.decisions = DecisionTables(transaction)
        self.aside = SideTables(transaction)
        self.next_position = 0
        self.last_recorded_at: datetime | None = None
        """Both known from the first ``read`` on."""

    def read(
        self,
        known: Mapping[str, int],
        *,
        facts: Collection[tuple[str, str, str]] = (),
        lines: Iterable[str] = (),
        runs: Iterable[str] = (),
        fold: int | None = FOLD,
    ) -> State:
        """The tails of streams beyond the versions known, facts, lines' activity, runs' keys.

        Snapshots are those of ``fold``; with None the tails are whole.
        """
        asked: dict[str, Value] = {
            "stream": array("text", known),
            "version": array("bigint", known.values()),
            "far": EVERY,
            "fold": fold,
            "organization": array("text", [fact[0] for fact in facts]),
            "source": array("text", [fact[1] for fact in facts]),
            "fact": array("text", [fact[2] for fact in facts]),
            "line": array("text", lines),
            "run": array("text", runs),
        }
        state = State()
        spoilt: dict[str, int] = {}
        rows = self._transaction.run(named(_READ, asked))
        for kind, a, b, c, d, e, f, n, m, octets, at in rows:
            if kind == 1:
                state.tails.append((a, n, b, octets, m))
            elif kind == 2:
                state.facts.append(FactRow(a, b, c, octets, d, e, f, n))
            elif kind == 3:
                state.activity[a] = LineActivity(at, n)
            elif kind == 4:
                state.records[a] = b
            elif kind == 5:
                state.keys.append((a, b, octets))
            elif kind == 6:
                aggregate = snapshots.restore(a, n, octets)
                if aggregate is None:
                    spoilt[a] = known[a]
                else:
                    state.snapshots.append(aggregate)
            elif not self.next_position:
                self.next_position, self.last_recorded_at = n, at
        if spoilt:
            # Their tails began at the snapshot: read anew, from the version known.
            state.tails = [tail for tail in state.tails if tail[0] not in spoilt]
            state.tails += self.read(spoilt, fold=None).tails
        state.tails.sort()
        return state

    def taken(self, ids: Sequence[str]) -> set[str]:
        """Those of these RUN or KEY ids that something already bears."""
        return {row[0] for row in self._transaction.execute(_TAKEN, {"ids": list(ids)})}

    def probe(self) -> None:
        """Write a row that says nothing, as an append would write its own."""
        self._transaction.defer(Statement(_LITTLE_MEMORY))
        self._transaction.defer(Statement(_PROBE))

    def insert(
        self,
        stored: Sequence[StoredEvent],
        *,
        recorded: Sequence[Recorded],
        facts: Sequence[FactRow],
        keys: Sequence[tuple[str, str, bytes]],
        is_last: bool,
    ) -> list[int]:
        """Write events, facts and run keys; with the last of the append every noted change too.

        That is at the latest with the commit; what is not the last, while the caller goes on.
        Returns the positions.
        """
        positions = [r.position for r in recorded]
        parameters: dict[str, Iterable[Any]] = dict.fromkeys(_WRITTEN, ())
        parameters |= {
            "stream": [e.originator_id for e in stored],
            "version": [e.originator_version for e in stored],
            "topic": [e.topic for e in stored],
            "state": [e.state for e in stored],
            "position": positions,
            "recorded_at": [r.recorded_at for r in recorded],
            "key_run": [key[0] for key in keys],
            "key_organization": [key[1] for key in keys],
            "key": [key[2] for key in keys],
            **_fact_columns(facts),
        }
        if is_last:
            parameters |= _decision_columns(self.decisions)
        self.next_position += len(positions)
        columns = {name: array(_WRITTEN[name], values) for name, values in parameters.items()}
        self._transaction.defer(named(_WRITE, {**columns, "last": self.next_position - 1}))
        if is_last:
            self._transaction.defer_beyond(_NOTIFY)
            self.decisions.write_rare_changes()
        else:
            self._transaction.send()
        return positions

    def keep(self, aggregates: Collection[Aggregate]) -> None:
        """Write the snapshots of aggregates, as they are with what this append has written."""
        snapshots.keep(self._transaction, aggregates)


def _fact_columns(facts: Sequence[FactRow]) -> dict[str, Any]:
    return {
        "fact_organization": [f.organization_id for f in facts],
        "fact_source": [f.source for f in facts],
        "fact_id": [f.fact_id for f in facts],
        "fact_digest": [f.digest for f in facts],
        "fact_run": [f.run_id for f in facts],
        "fact_subject": [f.subject for f in facts],
        "fact_events": [f.event_ids for f in facts],
        "fact_position": [f.position for f in facts],
    }


def _decision_columns(decisions: DecisionTables) -> dict[str, Any]:
    lines = sorted(decisions.touched)
    activity = [decisions.activity[line] for line in lines]
    opened = decisions.opened
    check_ins = [(key, decisions.check_ins[key]) for key in decisions.new_check_ins]
    return {
        "line": lines,
        "line_at": [row.last_activity_at for row in activity],
        "line_open": [row.open_runs for row in activity],
        "opened": list(opened),
        "opened_line": [row.line_id for row in opened.values()],
        "opened_version": [row.version for row in opened.values()],
        "opened_at": [row.started_at for row in opened.values()],
        "ended": list(decisions.ended),
        "ended_line": list(decisions.ended.values()),
        "record": list(decisions.new_records),
        "record_line": [line_id for line_id, _ in decisions.new_records.values()],
        "record_organization": [owner for _, owner in decisions.new_records.values()],
        "check_line": [key[0] for key, _ in check_ins],
        "check_source": [key[1] for key, _ in check_ins],
        "check_fact": [key[2] for key, _ in check_ins],
        "check_hours": [row.hours for _, row in check_ins],
        "check_at": [row.at for _, row in check_ins],
        "check_resource": [row.resource_id for _, row in check_ins],
        "check_voided": [row.voided for _, row in check_ins],
    }
