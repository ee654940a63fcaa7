"""The statements that plan and claim deliveries to channels (contract, Feeds).

A channel has one delivery of an alert in flight, in the order of the log. A channel that gathers
(Slack, mail) receives everything due about one topic in one message: one type, and one watch if the
type is about alerts. A new delivery opens a window of some seconds; later ones about the same topic
join it.
"""

_MOST = 1000
"""Messages that one statement plans for an endpoint, and deliveries of one request."""

_MATTER = "concat(m.matter, ' ', m.type)"

# New messages become deliveries, which are claimed once they are due.
PLAN = f"""
WITH p AS MATERIALIZED (SELECT least(position, %(looked)s) AS position FROM ({{reached}}) AS now),
asked AS MATERIALIZED (
    SELECT a.endpoint_id, w.format <> 'pagerduty' AS gathers
    FROM unnest(%(endpoint)s::text[], %(sends)s::bool[]) AS a (endpoint_id, sends)
    JOIN ledger.webhook AS w ON w.endpoint_id = a.endpoint_id AND w.enabled AND NOT w.deleted
    WHERE a.sends
), fresh AS MATERIALIZED (
    SELECT a.endpoint_id, a.gathers, m.position, m.sequence, m.matter
    FROM asked AS a JOIN ledger.dispatch AS t USING (endpoint_id) CROSS JOIN p
    CROSS JOIN LATERAL (
        SELECT m.position, m.sequence, {_MATTER} AS matter FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = a.endpoint_id AND m.kind = 'event'
          AND m.position > t.planned AND m.position <= p.position
        ORDER BY m.position LIMIT {_MOST}
    ) AS m
), windows AS (
    SELECT d.endpoint_id, {_MATTER} AS matter, min(d.due_at) AS due_at
    FROM (SELECT DISTINCT endpoint_id FROM fresh WHERE gathers) AS f
    CROSS JOIN LATERAL (
        SELECT d.* FROM ledger.delivery AS d WHERE d.endpoint_id = f.endpoint_id
          AND d.status = 'pending' AND d.due_at > %(now)s AND d.tried = 0 OFFSET 0
    ) AS d
    CROSS JOIN LATERAL (
        SELECT m.* FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = d.endpoint_id AND m.position = d.position OFFSET 0
    ) AS m
    GROUP BY 1, 2
), begun AS (
    INSERT INTO ledger.delivery (endpoint_id, position, sequence, due_at)
    SELECT f.endpoint_id, f.position, f.sequence,
        CASE WHEN f.gathers THEN coalesce(w.due_at, %(window)s) ELSE %(now)s END
    FROM fresh AS f LEFT JOIN windows AS w USING (endpoint_id, matter)
)
UPDATE ledger.dispatch AS t SET planned = f.position
FROM (SELECT endpoint_id, max(position) AS position FROM fresh GROUP BY endpoint_id) AS f
WHERE t.endpoint_id = f.endpoint_id
"""

# True if the alert of a message has a delivery of some kind. OFFSET 0 keeps each look-up by key:
# the planner has no statistics of a table that has just grown.
_OF_ALERT = """
EXISTS (
    SELECT FROM ledger.webhook_message AS b CROSS JOIN LATERAL (
        SELECT FROM ledger.delivery AS f
        WHERE f.endpoint_id = b.endpoint_id AND f.position = b.position AND {which} OFFSET 0
    ) AS f
    WHERE b.endpoint_id = {of}.endpoint_id AND b.alert_id = {of}.alert_id {earlier} OFFSET 0)
"""
_WAITS = _OF_ALERT.format(
    of="m", which="f.status = 'pending'", earlier="AND b.position < m.position"
)
_WAS_SKIPPED = _OF_ALERT.format(of="c", which="f.status = 'skipped'", earlier="")
_WAS_ACCEPTED = _OF_ALERT.format(
    of="c",
    which="array_to_string(f.attempts, ',') LIKE '%%\"response_status\":2__,%%'",
    earlier="",
)

# Deliveries that are due, each the first unfinished one of its alert, and not in flight.
_DUE = f"""
FROM ledger.delivery AS d CROSS JOIN LATERAL (
    SELECT * FROM ledger.webhook_message AS m
    WHERE m.endpoint_id = d.endpoint_id AND m.position = d.position OFFSET 0
) AS m
WHERE d.endpoint_id = a.endpoint_id AND d.status = 'pending' AND d.due_at <= %(now)s
  AND d.position <> ALL (a.busy) AND (a.sends OR d.sequence = 0) AND NOT {_WAITS}
"""

# The deliveries to send next. If an alert is resolved, skip that it opened or is still open. Skip
# the resolution if the endpoint accepted nothing about the alert. A request to resend an event
# overrides both. The log says whether an alert is resolved: the endpoint may not receive that type.
CLAIM = f"""
WITH p AS MATERIALIZED (SELECT least(position, %(looked)s) AS position FROM ({{reached}}) AS now),
asked AS MATERIALIZED (
    SELECT a.endpoint_id, a.free, a.busy::bigint[] AS busy, a.sends AND w.enabled AS sends,
        w.format, w.format <> 'pagerduty' AS gathers
    FROM unnest(%(endpoint)s::text[], %(free)s::int[], %(busy)s::text[], %(sends)s::bool[])
        AS a (endpoint_id, free, busy, sends)
    JOIN ledger.webhook AS w ON w.endpoint_id = a.endpoint_id AND NOT w.deleted
), first AS MATERIALIZED (
    SELECT a.endpoint_id, d.matter
    FROM asked AS a CROSS JOIN LATERAL (
        SELECT {_MATTER} AS matter {_DUE} ORDER BY d.due_at, d.position LIMIT 1
    ) AS d
    WHERE a.gathers
), chosen AS MATERIALIZED (
    SELECT a.endpoint_id, d.*
    FROM asked AS a LEFT JOIN first USING (endpoint_id)
    CROSS JOIN LATERAL (
        SELECT d.position, d.sequence, d.round, d.tried, d.again,
            d.attempts[cardinality(d.attempts)] AS last, m.number, m.type, m.item, m.alert_id
        {_DUE} AND (NOT a.gathers OR {_MATTER} = first.matter)
        ORDER BY d.due_at, d.position LIMIT CASE WHEN a.gathers THEN {_MOST} ELSE a.free END
    ) AS d
), stale AS MATERIALIZED (
    SELECT c.endpoint_id, c.position FROM chosen AS c
    WHERE NOT c.again AND (
        c.type IN ('alert.opened', 'alert.reminded') AND EXISTS (
            SELECT FROM ledger.ledger_events AS e
            WHERE e.originator_id = c.alert_id AND e.topic LIKE 'alert.resolved/%%' OFFSET 0)
        OR c.type = 'alert.resolved' AND {_WAS_SKIPPED} AND NOT {_WAS_ACCEPTED})
), skipped AS (
    UPDATE ledger.delivery AS d SET status = 'skipped', due_at = NULL
    FROM stale AS s WHERE d.endpoint_id = s.endpoint_id AND d.position = s.position
), kept AS MATERIALIZED (
    SELECT c.* FROM chosen AS c LEFT JOIN stale AS s USING (endpoint_id, position)
    WHERE s.position IS NULL
)
SELECT a.endpoint_id,
    CASE WHEN EXISTS (
        SELECT FROM ledger.webhook_message AS m
        WHERE m.endpoint_id = a.endpoint_id AND m.kind = 'event'
          AND m.position > t.planned AND m.position <= p.position
    ) THEN t.planned ELSE p.position END,
    a.sends,
    CASE WHEN EXISTS (SELECT FROM stale AS s WHERE s.endpoint_id = a.endpoint_id) THEN %(now)s
        WHEN a.sends THEN (
            SELECT d.due_at FROM ledger.delivery AS d
            WHERE d.endpoint_id = a.endpoint_id AND d.status = 'pending' AND d.due_at > %(now)s
            ORDER BY d.due_at LIMIT 1) END,
    a.format, (SELECT count(*) FROM stale AS s WHERE s.endpoint_id = a.endpoint_id),
    c.position, c.sequence, c.round, c.tried, c.last, c.number, c.type, c.item,
    e.type, e.state_before, e.state_after, s.stream, s.version, s.topic, s.state
FROM asked AS a CROSS JOIN p JOIN ledger.dispatch AS t ON t.endpoint_id = a.endpoint_id
LEFT JOIN kept AS c ON c.endpoint_id = a.endpoint_id
LEFT JOIN ledger.event AS e ON e.position = c.position
LEFT JOIN ledger.stored_events(ARRAY(SELECT position FROM kept)) AS s ON s.position = c.position
ORDER BY c.position
"""
