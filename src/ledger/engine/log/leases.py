"""The leases of open runs: the statements of appends, and the one of the loop that finds due ones.

Time in which the service could take no heartbeat does not count. So the API's writers note each
second that they listen (``listen``). After a gap, the first of them postpones the end of every
lease by the gap, in the same transaction. A lease has ended only if the service was still listening
at its end, so nothing expires before the gap is known, whichever process starts first.

The append lock and the lock of the lease's row keep a heartbeat, an expiry and an ending of the
same run apart.

With the note a writer beats: a standby then knows up to which instant it has every event.
"""

from datetime import datetime
from typing import NamedTuple

from ledger.engine.postgres.timing import GAP_SECONDS

# Restart stored leases, unless the run has ended meanwhile. The clocks of nodes may differ, so no
# heartbeat makes a lease end earlier. The second condition keeps it a look-up by key.
HEAR = """
UPDATE ledger.lease AS l
SET heard_at = greatest(l.heard_at, beat.at),
    ends_at = greatest(l.ends_at, beat.at + l.seconds * interval '1 second')
FROM (SELECT unnest(%(run)s::text[]) AS run_id, unnest(%(at)s::timestamptz[]) AS at) AS beat
WHERE l.run_id = beat.run_id AND l.run_id = ANY(%(run)s::text[])
"""

# The instant of a beat: a microsecond before now, since an event may still be recorded at this very
# instant. A node whose clock is ahead of the database's must not move the others' events with it.
_NOW = "least(%(now)s::timestamptz, clock_timestamp()) - interval '1 microsecond'"

# Beat. The clocks of nodes may differ, so the beat only rises.
BEAT = f"""
UPDATE ledger.listening SET beaten_at = {_NOW} WHERE is_only AND beaten_at < {_NOW}
"""

# Note that the service listens now, and beat. After a gap (more than two notes are missing),
# postpone each lease that had not ended when it began, by the part of the gap after the lease's
# last report. The note, too, only rises; the beat rises also after a note of a node that is ahead.
LISTEN = f"""
WITH earlier AS (
    SELECT listened_at FROM ledger.listening WHERE is_only FOR UPDATE
), noted AS (
    UPDATE ledger.listening
    SET listened_at = greatest(earlier.listened_at, %(now)s::timestamptz),
        beaten_at = greatest(beaten_at, {_NOW})
    FROM earlier
)
UPDATE ledger.lease AS l
SET ends_at = l.ends_at
    + greatest(%(now)s::timestamptz - greatest(earlier.listened_at, l.heard_at), interval '0')
FROM earlier
WHERE earlier.listened_at < %(now)s::timestamptz - interval '{GAP_SECONDS} seconds'
  AND l.ends_at > earlier.listened_at
"""

# Those leases of these runs that have ended, in the order of the runs, since rows are locked.
ENDED = """
SELECT l.run_id, l.heard_at, l.ends_at FROM ledger.lease AS l, ledger.listening AS s
WHERE l.run_id = ANY(%(run)s::text[]) AND l.ends_at <= s.listened_at
ORDER BY l.run_id FOR UPDATE OF l
"""

# The leases that are due for a check, each with whether it has ended. A restarted lease is due at
# its new end. Organizations are served in turn, oldest lease first, so those of one never wait
# behind those of another. A row that an append has locked is null here and checked in the next
# round: nothing waits while holding rows, so there is no deadlock. (A heartbeat may come between
# the snapshot and the lock: PostgreSQL checks the constraint first on the snapshot's row, so both
# instants are of that row.)
CHECK_DUE = """
WITH RECURSIVE organization AS (
    SELECT min(organization_id) AS id FROM ledger.lease
    UNION ALL
    SELECT (SELECT min(l.organization_id) FROM ledger.lease AS l WHERE l.organization_id > o.id)
    FROM organization AS o WHERE o.id IS NOT NULL
), turn AS (
    SELECT l.run_id, l.due_at, row_number() OVER (PARTITION BY o.id ORDER BY l.due_at) AS number
    FROM ledger.listening AS s CROSS JOIN organization AS o CROSS JOIN LATERAL (
        SELECT run_id, due_at FROM ledger.lease
        WHERE organization_id = o.id AND due_at <= s.listened_at
        ORDER BY due_at LIMIT %(limit)s::int
    ) AS l
    WHERE s.is_only
    ORDER BY number, l.due_at LIMIT %(limit)s::int
), due AS MATERIALIZED (
    SELECT l.run_id, l.ends_at <= s.listened_at AS has_ended
    FROM ledger.listening AS s, ledger.lease AS l
    WHERE s.is_only AND l.run_id IN (SELECT run_id FROM turn)
    FOR UPDATE OF l SKIP LOCKED
), put_off AS (
    UPDATE ledger.lease AS l SET due_at = l.ends_at
    FROM due WHERE l.run_id = due.run_id AND NOT due.has_ended
)
SELECT turn.run_id, due.has_ended FROM turn LEFT JOIN due USING (run_id)
ORDER BY turn.number, turn.due_at
"""


class EndedLease(NamedTuple):
    """A lease that has ended, of a run that is open."""

    reported_at: datetime
    """When a fact or a heartbeat of the run last arrived."""
    ends_at: datetime
