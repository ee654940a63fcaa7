"""The PostgreSQL that wrote the log last (contract, Several nodes, "Positions and ids").

A failover to a standby that lagged loses acknowledged events, and so does a restored backup. Their
positions and ids are known outside, so they must not be given again. A promoted standby has another
timeline, another cluster another system identifier, and a restored dump other tables. A writer
reads these once a connection, since no connection outlives a failover. If they differ from the row
``ledger.lineage``, the first append of the connection moves the log's sequence and the counters of
ids on.

A backup may be old, or restored a second time. So the skip grows with the time since the database's
last beat, after the first minute, by more than can be recorded in that time. Everything that was
recorded meanwhile, after an earlier skip or without one, lies before.
"""

import logging
from typing import NamedTuple

from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pipeline import Pipeline, Statement, Transaction, named

_logger = logging.getLogger(__name__)

POSITIONS_MOVED = 1_000_000
"""The fewest positions that are skipped after a possible loss."""

IDS_MOVED = 10_000
"""The fewest ids of each prefix that are skipped."""

_LATE_SECONDS = 60
"""Within this time after the last beat nothing more is skipped: no standby lags further."""

_POSITIONS_A_SECOND = 30_000
"""Positions skipped for each later second: more than are ever recorded in one."""

_IDS_A_SECOND = 1_000
"""Ids skipped for each later second."""

_MOST_SECONDS = 10_000_000
"""The most seconds that count. An event's id has 12 digits for its position, so room must be left
even if a ledger was away for years."""

# The timeline is the first part of a WAL file's name. Raises an error on a standby.
_WHERE = b"""
SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
    d.oid || '/' || 'ledger.ledger_events'::regclass::oid,
    has_function_privilege('pg_control_system()', 'EXECUTE')
FROM pg_database AS d WHERE d.datname = current_database()
"""
_SYSTEM = b"SELECT system_identifier::text FROM pg_control_system()"

# Write the lineage anew if it has changed. Then move the sequence, and the counters that exist or
# may have existed. A moved sequence stays so after a rollback. So the next attempt counts from the
# same base, unless the statement's result was lost with the append, which does no harm. An
# identifier that the user may not read is unknown, and does not count as another one. This append's
# own beat comes later; 1970 means that no writer of a service has listened yet.
_FOLLOW = f"""
WITH other AS MATERIALIZED (
    SELECT CASE WHEN s.listened_at > '1970-01-01T00:00:00Z' THEN greatest(0, least(
        {_MOST_SECONDS}, extract(epoch FROM clock_timestamp()
            - greatest(s.listened_at, s.beaten_at))::bigint - {_LATE_SECONDS}))
        ELSE 0 END AS seconds
    FROM ledger.lineage AS l CROSS JOIN ledger.listening AS s
    WHERE l.timeline <> %(timeline)s::bigint OR l.tables <> %(tables)s
       OR (l.system_identifier <> %(system)s AND '' NOT IN (l.system_identifier, %(system)s))
), written AS (
    INSERT INTO ledger.lineage AS l (system_identifier, timeline, tables)
    VALUES (%(system)s, %(timeline)s::bigint, %(tables)s)
    ON CONFLICT (is_only) DO UPDATE SET timeline = excluded.timeline, tables = excluded.tables,
        system_identifier = coalesce(nullif(excluded.system_identifier, ''), l.system_identifier)
    WHERE l.timeline <> excluded.timeline OR l.tables <> excluded.tables
       OR excluded.system_identifier NOT IN ('', l.system_identifier)
), counted AS (
    INSERT INTO ledger.id_counter AS c (prefix, year, last)
    SELECT k.prefix, k.year, {IDS_MOVED} + {_IDS_A_SECOND} * other.seconds FROM other CROSS JOIN (
        SELECT prefix, year FROM ledger.id_counter
        UNION
        SELECT unnest(ARRAY['KEY', 'RUN', 'STM', 'WHK']),
            extract(year FROM clock_timestamp() AT TIME ZONE 'UTC')::int
    ) AS k
    ON CONFLICT (prefix, year) DO UPDATE SET last = c.last + excluded.last
)
SELECT base.position, setval('ledger.ledger_events_notification_id_seq', greatest(
    s.last_value, base.position + {POSITIONS_MOVED} + {_POSITIONS_A_SECOND} * other.seconds))
FROM other CROSS JOIN ledger.ledger_events_notification_id_seq AS s
CROSS JOIN LATERAL (SELECT coalesce(%(base)s::bigint, s.last_value)) AS base (position)
"""


class Lineage(NamedTuple):
    """The PostgreSQL of a connection, and its tables."""

    system: str
    """The cluster's system identifier; empty if the user may not read it."""
    timeline: int
    tables: str
    """The OIDs of the database and of the log's table."""


def ask(pipeline: Pipeline, *before: Statement) -> Lineage:
    """Read the lineage of a connection, in one group with the statements ``before``.

    Raises psycopg's ObjectNotInPrerequisiteState on a standby.
    """
    (timeline, tables, may_ask) = pipeline.run(*before, Statement(_WHERE))[-1][0]
    system = pipeline.run(Statement(_SYSTEM))[0][0][0] if may_ask else ""
    return Lineage(system, timeline, tables)


class Follower:
    """Follows to a PostgreSQL, until an append to it has succeeded."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._base: int | None = None
        """The end of the sequence before an append moved it that was then given up."""

    def follow(self, transaction: Transaction) -> None:
        """Skip positions and ids if another PostgreSQL wrote last. Sent behind the append lock."""
        values = self._lineage._asdict() | {"base": self._base}
        transaction.defer(named(_FOLLOW, values), self._note)

    def _note(self, moved: Rows) -> None:
        for base, end in moved:
            if self._base is None:
                _logger.warning(
                    "another PostgreSQL wrote last (now: system %s, timeline %s, tables %s), so"
                    " events may be lost: positions go on behind %s",
                    *self._lineage,
                    end,
                )
            self._base = base
