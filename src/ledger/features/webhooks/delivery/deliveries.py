"""The dispatcher's tables: deliveries to send, and the results of attempts (contract, Feeds).

Every statement goes through one connection, which also holds the lock that makes its owner the only
dispatcher. So a dispatcher whose connection broke writes no more, while another process may have
the lock. The former dispatcher's deliveries in flight are still pending, and the other process
sends them.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.postgres.binary import array_text
from ledger.engine.postgres.session import AsyncRoundConnection, options_of
from ledger.engine.values.principal import ANY
from ledger.features.webhooks.delivery.channel_statements import CLAIM, PLAN
from ledger.features.webhooks.delivery.signing import body_of
from ledger.features.webhooks.delivery.verdict import Claimed, Result
from ledger.features.webhooks.model.channel import Format
from projections.feed import feeds
from projections.webhooks.view import EndpointState, decode_state

_OPTIONS = (
    "-c synchronous_commit=off -c idle_in_transaction_session_timeout=60s"
    f" -c ledger.organization_id={ANY} -c ledger.workspace_id={ANY}"
)

STORED_ATTEMPTS = 50
"""The number of a delivery's latest attempts that are stored: each recovery adds attempts."""

_AT_ONCE = 1000
"""Deliveries that one statement recovers or drops."""

# The position up to which messages are taken. The feeds have reached it, so a receiver that reads
# after a webhook finds the event. The view of messages has reached it too, even if that view has
# stopped.
_REACHED = f"""
SELECT least(feed.position, own.position) AS position
FROM ({feeds.FEED_POSITION}) AS feed,
     (SELECT position FROM ledger.projection WHERE name = 'webhook') AS own
"""

# The endpoints that have changed since the view was at a position. One statement reads one
# snapshot: the next call finds a change after the returned position.
_CHANGED = f"""
WITH enlisted AS (
    INSERT INTO ledger.dispatch (endpoint_id)
    SELECT endpoint_id FROM ledger.webhook AS w
    WHERE position > %(seen)s AND NOT deleted
      AND NOT EXISTS (SELECT FROM ledger.dispatch AS t WHERE t.endpoint_id = w.endpoint_id)
    ON CONFLICT DO NOTHING
)
SELECT p.position, reached.position, w.fold,
    coalesce(t.planned, 0), coalesce(t.heeded, 0), t.failing_since
FROM ledger.projection AS p CROSS JOIN ({_REACHED}) AS reached
LEFT JOIN ledger.webhook AS w
  ON w.position > %(seen)s AND (NOT w.deleted OR %(seen)s::bigint > 0)
LEFT JOIN ledger.dispatch AS t USING (endpoint_id)
WHERE p.name = 'webhook'
"""

# The deliveries to send next to each endpoint: first those that are due, then new messages, which
# thereby become deliveries. No message is taken from beyond the position at which the dispatcher
# last read the endpoints: after it, an endpoint may have another address or secret. Each endpoint
# that is not deleted gives at least one row, with the position up to which messages were searched
# and the time when its next delivery is due. The statement reads again if the endpoint is enabled:
# once reads show it as disabled, no delivery is begun.
_CLAIM = f"""
WITH p AS MATERIALIZED (SELECT least(position, %(looked)s) AS position FROM ({_REACHED}) AS now),
asked AS MATERIALIZED (
    SELECT a.endpoint_id, a.free, a.busy::bigint[] AS busy, a.sends AND w.enabled AS sends,
        w.format
    FROM unnest(%(endpoint)s::text[], %(free)s::int[], %(busy)s::text[], %(sends)s::bool[])
        AS a (endpoint_id, free, busy, sends)
    JOIN ledger.webhook AS w ON w.endpoint_id = a.endpoint_id AND NOT w.deleted
), due AS MATERIALIZED (
    SELECT a.endpoint_id, d.*
    FROM asked AS a CROSS JOIN LATERAL (
        SELECT d.position, d.sequence, d.round, d.tried,
            d.attempts[cardinality(d.attempts)] AS last
        FROM ledger.delivery AS d
        WHERE d.endpoint_id = a.endpoint_id AND d.status = 'pending' AND d.due_at <= %(now)s
          AND d.position <> ALL (a.busy) AND (a.sends OR d.sequence = 0)
        ORDER BY d.due_at, d.position LIMIT a.free
    ) AS d
), fresh AS MATERIALIZED (
    SELECT a.endpoint_id, m.position, m.sequence, 0::bigint AS round, 0 AS tried, NULL AS last
    FROM asked AS a JOIN ledger.dispatch AS t USING (endpoint_id) CROSS JOIN p
    CROSS JOIN LATERAL (
        SELECT m.position, m.sequence FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = a.endpoint_id AND m.kind = 'event'
          AND m.position > t.planned AND m.position <= p.position
        ORDER BY m.position
        LIMIT a.free - (SELECT count(*) FROM due AS d WHERE d.endpoint_id = a.endpoint_id)
    ) AS m
    WHERE a.sends
), begun AS (
    INSERT INTO ledger.delivery (endpoint_id, position, sequence, due_at)
    SELECT endpoint_id, position, sequence, %(now)s FROM fresh
), moved AS (
    UPDATE ledger.dispatch AS t SET planned = f.position
    FROM (SELECT endpoint_id, max(position) AS position FROM fresh GROUP BY endpoint_id) AS f
    WHERE t.endpoint_id = f.endpoint_id
)
SELECT a.endpoint_id, p.position, a.sends,
    CASE WHEN a.sends THEN (
        SELECT d.due_at FROM ledger.delivery AS d
        WHERE d.endpoint_id = a.endpoint_id AND d.status = 'pending' AND d.due_at > %(now)s
        ORDER BY d.due_at LIMIT 1) END,
    a.format, 0, c.position, c.sequence, c.round, c.tried, c.last, m.number, m.type, m.item,
    e.type, e.state_before, e.state_after, s.stream, s.version, s.topic, s.state
FROM asked AS a CROSS JOIN p
LEFT JOIN (TABLE due UNION ALL TABLE fresh) AS c USING (endpoint_id)
LEFT JOIN ledger.webhook_message AS m ON m.endpoint_id = c.endpoint_id AND m.position = c.position
LEFT JOIN ledger.event AS e ON e.position = c.position
LEFT JOIN ledger.stored_events(ARRAY(
    SELECT position FROM due UNION SELECT position FROM fresh
)) AS s ON s.position = c.position
ORDER BY c.position
"""

_PLAN = PLAN.format(reached=_REACHED)
_CLAIM_PLANNED = CLAIM.format(reached=_REACHED)

# The results of attempts. If a recovery has begun another round meanwhile, a failure in the old
# round decides nothing any more. A success still does, unless the delivery is sent again anyway.
_RECORD = f"""
WITH r AS (
    SELECT * FROM unnest(%(endpoint)s::text[], %(position)s::bigint[], %(round)s::bigint[],
        %(status)s::text[], %(due_at)s::timestamptz[], %(counts)s::bool[], %(attempt)s::text[],
        %(url)s::text[]) AS r (endpoint_id, position, round, status, due_at, counts, attempt, url)
), failing AS (
    UPDATE ledger.dispatch AS t SET failing_since = f.since
    FROM unnest(%(failing)s::text[], %(failing_since)s::timestamptz[]) AS f (endpoint_id, since)
    WHERE t.endpoint_id = f.endpoint_id
)
UPDATE ledger.delivery AS d
SET attempts = CASE WHEN r.attempt IS NULL THEN d.attempts ELSE array_append(
        d.attempts[greatest(cardinality(d.attempts) - {STORED_ATTEMPTS - 2}, 1):], r.attempt) END,
    url = coalesce(r.url, d.url),
    tried = d.tried + (r.counts AND d.round = r.round)::int,
    status = CASE WHEN d.round = r.round OR r.status = 'delivered' AND NOT d.again
        THEN r.status ELSE d.status END,
    due_at = CASE WHEN d.round = r.round OR r.status = 'delivered' AND NOT d.again
        THEN r.due_at ELSE d.due_at END,
    again = d.again AND NOT (d.round = r.round AND r.status = 'delivered')
FROM r WHERE d.endpoint_id = r.endpoint_id AND d.position = r.position
"""

# The next unprocessed test or recovery of each endpoint.
_REQUESTS = f"""
SELECT t.endpoint_id, m.position, m.kind, m.since, m.resent
FROM ({_REACHED}) AS p CROSS JOIN ledger.dispatch AS t
CROSS JOIN LATERAL (
    SELECT m.position, m.kind, m.since, m.resent FROM ledger.webhook_message AS m
    WHERE m.endpoint_id = t.endpoint_id AND m.kind <> 'event'
      AND m.position > t.heeded AND m.position <= p.position
    ORDER BY m.position LIMIT 1
) AS m
WHERE t.endpoint_id = ANY(%(endpoint)s::text[])
"""

_TEST = """
WITH begun AS (
    INSERT INTO ledger.delivery (endpoint_id, position, sequence, due_at)
    VALUES (%(endpoint)s, %(position)s, 0, %(now)s)
)
UPDATE ledger.dispatch SET heeded = %(position)s WHERE endpoint_id = %(endpoint)s
"""

# Some of the deliveries that a recovery requests become due now, in their own round. The recovery
# is done once no delivery is left.
_RECOVER = f"""
WITH wanted AS (
    SELECT coalesce((SELECT notification_id FROM ledger.ledger_events
                     WHERE recorded_at >= %(since)s ORDER BY recorded_at LIMIT 1),
                    %(position)s) AS since
), part AS (
    (SELECT d.position FROM ledger.delivery AS d, wanted AS w
     WHERE d.endpoint_id = %(endpoint)s AND d.status = 'failed' AND d.sequence > 0
       AND d.position BETWEEN w.since AND %(position)s AND d.round < %(position)s
     LIMIT {_AT_ONCE})
    UNION ALL
    (SELECT d.position FROM ledger.delivery AS d, wanted AS w
     WHERE d.endpoint_id = %(endpoint)s AND d.status = 'pending' AND d.sequence > 0
       AND d.position BETWEEN w.since AND %(position)s AND d.round < %(position)s
     LIMIT {_AT_ONCE})
), recovered AS (
    UPDATE ledger.delivery AS d
    SET status = 'pending', round = %(position)s, tried = 0, due_at = %(now)s
    FROM part WHERE d.endpoint_id = %(endpoint)s AND d.position = part.position
)
UPDATE ledger.dispatch SET heeded = %(position)s
WHERE endpoint_id = %(endpoint)s AND NOT EXISTS (SELECT FROM part)
"""

# A delivery becomes due now, in its own round. If the event is no delivery yet, it is sent soon
# anyway.
_RESEND = """
WITH again AS (
    UPDATE ledger.delivery
    SET status = 'pending', round = %(position)s, tried = 0, due_at = %(now)s, again = true
    WHERE endpoint_id = %(endpoint)s AND position = %(resent)s AND round < %(position)s
)
UPDATE ledger.dispatch SET heeded = %(position)s WHERE endpoint_id = %(endpoint)s
"""

# Some of the deliveries of deleted endpoints: nobody can request them any more. (The endpoints'
# rows of ``dispatch`` stay. Without them, if a crash took the view back to before the deletion,
# every message ever sent would become a new delivery.)
_DROP = f"""
DELETE FROM ledger.delivery WHERE (endpoint_id, position) IN (
    SELECT d.endpoint_id, d.position
    FROM ledger.dispatch AS t JOIN ledger.webhook AS w USING (endpoint_id)
    CROSS JOIN LATERAL (
        SELECT endpoint_id, position FROM ledger.delivery
        WHERE endpoint_id = t.endpoint_id LIMIT {_AT_ONCE}
    ) AS d
    WHERE w.deleted LIMIT {_AT_ONCE})
"""


class Changed(NamedTuple):
    """An endpoint as the view has it now, and the dispatcher's progress with it."""

    state: EndpointState
    planned: int
    applied: int
    failing_since: datetime | None


class ViewChanges(NamedTuple):
    """The changes in the view since the last read."""

    position: int
    """The view's position."""
    reached: int
    """The position up to which messages may be taken."""
    changed: list[Changed]


class Ask(NamedTuple):
    """A request for an endpoint's next deliveries."""

    endpoint_id: str
    free: int
    """The most deliveries to claim."""
    busy: Sequence[int]
    """Positions of the deliveries in flight, which must not be claimed again."""
    sends: bool
    """False for tests only."""
    is_channel: bool = False
    gathers: bool = False
    """True if all claimed deliveries go as one message."""


class ClaimedBatch(NamedTuple):
    """The deliveries claimed for an endpoint."""

    reached: int
    """The position up to which no other message is left, if fewer than ``Ask.free`` came."""
    sends: bool
    next_due: datetime | None
    claimed: list[Claimed]
    skipped: int = 0
    """The number of deliveries that are not sent any more."""

    @property
    def messages(self) -> list[list[Claimed]]:
        """The deliveries, grouped by request."""
        found: list[list[Claimed]] = []
        for claimed in self.claimed:
            if claimed.follows:
                found[-1].append(claimed)
            else:
                found.append([claimed])
        return found


class AppliedRequest(NamedTuple):
    """A test or recovery that made deliveries due: all of them if ``is_done``, else some."""

    endpoint_id: str
    position: int
    is_done: bool


class Deliveries:
    """The dispatcher's tables, over one connection."""

    def __init__(
        self, connection: psycopg.AsyncConnection[TupleRow], gather: timedelta = timedelta(0)
    ) -> None:
        """``gather`` is how long a channel's message waits for others about its topic."""
        self._connection, self._gather = connection, gather

    async def changed(self, position: int) -> ViewChanges:
        """The changes in the view since it was at ``position``."""
        cursor = await self._connection.execute(_CHANGED, {"seen": position}, prepare=True)
        rows = await cursor.fetchall()
        found = [Changed(decode_state(row[2]), *row[3:]) for row in rows if row[2] is not None]
        return ViewChanges(rows[0][0], rows[0][1], found)

    async def round(
        self,
        results: Sequence[Result],
        failing: Mapping[str, datetime | None],
        asks: Sequence[Ask],
        looked: int,
        now: datetime,
    ) -> dict[str, ClaimedBatch]:
        """Record results, then claim the next deliveries: one transaction, one round trip.

        ``looked`` is the position at which the endpoints were read.
        """
        async with self._connection.pipeline():
            if results:
                await self._connection.execute(_RECORD, _record(results, failing), prepare=True)
            channels = [ask for ask in asks if ask.is_channel]
            others = [ask for ask in asks if not ask.is_channel]
            cursors = []
            if others:
                values = _claim(others, looked, now)
                cursors.append(await self._connection.execute(_CLAIM, values, prepare=True))
            if channels:
                values = _claim(channels, looked, now) | {"window": now + self._gather}
                await self._connection.execute(_PLAN, values, prepare=True)
                cursors.append(await self._connection.execute(_CLAIM_PLANNED, values, prepare=True))
        rows = [row for cursor in cursors for row in await cursor.fetchall()]
        gathering = {ask.endpoint_id for ask in asks if ask.gathers}
        batches: dict[str, ClaimedBatch] = {}
        for endpoint_id, reached, sends, next_due, format_, skipped, *claimed in rows:
            one = batches.setdefault(
                endpoint_id, ClaimedBatch(reached, sends, next_due, [], skipped)
            )
            if claimed[0] is not None:
                follows = endpoint_id in gathering and bool(one.claimed)
                found = _claimed(endpoint_id, format_, claimed)
                one.claimed.append(found._replace(follows=follows))
        return batches

    async def apply_requests(self, endpoints: Iterable[str], now: datetime) -> list[AppliedRequest]:
        """Apply the next test or recovery of each endpoint.

        A recovery is applied in parts: it may cover a million deliveries.
        """
        wanted = {"endpoint": array_text(endpoints)}
        cursor = await self._connection.execute(_REQUESTS, wanted, prepare=True)
        applied = []
        for endpoint_id, position, kind, since, resent in await cursor.fetchall():
            values = {"endpoint": endpoint_id, "position": position, "now": now}
            values |= {"since": since, "resent": resent}
            statement = _TEST if kind == "test" else _RECOVER if resent is None else _RESEND
            done = await self._connection.execute(statement, values)
            applied.append(AppliedRequest(endpoint_id, position, done.rowcount == 1))
        return applied

    async def drop_deleted(self) -> bool:
        """Drop some deliveries of deleted endpoints; return True if there may be more."""
        dropped = await self._connection.execute(_DROP)
        return dropped.rowcount == _AT_ONCE


async def connect(conninfo: str) -> psycopg.AsyncConnection[TupleRow]:
    """A connection whose commits do not wait for the disk: a lost result is sent again."""
    return await AsyncRoundConnection.connect(
        conninfo,
        autocommit=True,
        row_factory=tuple_row,
        application_name="ledger dispatcher",
        options=options_of(conninfo, _OPTIONS),
    )


def _claimed(endpoint_id: str, format_: Format, row: Sequence[Any]) -> Claimed:
    """A claimed delivery: the first columns are the dispatcher's, the others its body."""
    position, sequence, round_, tried, last, number, type_, test, *found = row
    body = body_of(test, (position, *found), sequence)
    return Claimed(
        endpoint_id, position, sequence, round_, tried, last, number, type_, body, format_
    )


def _record(results: Sequence[Result], failing: Mapping[str, datetime | None]) -> Mapping[str, Any]:
    return {
        "endpoint": array_text(r.claimed.endpoint_id for r in results),
        "position": array_text(r.claimed.position for r in results),
        "round": array_text(r.claimed.round for r in results),
        "status": array_text(r.status for r in results),
        "due_at": array_text(r.due_at for r in results),
        "counts": array_text(r.counts for r in results),
        "attempt": array_text(r.attempt for r in results),
        "url": array_text(r.url for r in results),
        "failing": array_text(failing),
        "failing_since": array_text(failing.values()),
    }


def _claim(asks: Sequence[Ask], looked: int, now: datetime) -> dict[str, Any]:
    return {
        "endpoint": array_text(a.endpoint_id for a in asks),
        "free": array_text(a.free for a in asks),
        "busy": array_text(a.busy for a in asks),
        "sends": array_text(a.sends for a in asks),
        "looked": looked,
        "now": now,
    }
