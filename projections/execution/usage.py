"""The statement that reads the usage of a line: hours, runs and tokens (contract, Reading).

The hours come from this view; runs and tokens come from the days of the view ``run``.
"""

from functools import cache

from ledger.postgres.scope import Planning
from ledger.views.statements import Read, read_of
from projections.execution.statements import line_then

# For whole days the totals, for parts of days the sums of the changes: a change is the difference
# between two successive totals. Hours are given by day and resource; if there are too many pairs of
# day and resource, no amounts are given.
_USAGE = """
SELECT p.position, line.line_id, found.kind, found.day,
       CASE WHEN found.pairs <= %(limit)s THEN found.amounts END
FROM ({position}) AS p
{line}
LEFT JOIN LATERAL (
    SELECT part.kind, part.day, part.amounts, sum(part.pairs) OVER () AS pairs
    FROM (
        SELECT 'hours' AS kind, whole.day, pairs.amounts, pairs.number AS pairs
        FROM unnest(%(days)s::date[]) AS whole (day) CROSS JOIN LATERAL (
            -- The latest row of each resource: one index look-up per resource.
            WITH RECURSIVE latest AS (
                (SELECT d.resource_id, d.total FROM ledger.execution_day AS d
                 WHERE d.line_key = line.line_key AND d.day = whole.day AND d.position <= p.position
                 ORDER BY d.resource_id DESC, d.position DESC LIMIT 1)
                UNION ALL
                SELECT further.resource_id, further.total
                FROM latest CROSS JOIN LATERAL (
                    SELECT d.resource_id, d.total FROM ledger.execution_day AS d
                    WHERE d.line_key = line.line_key AND d.day = whole.day
                      AND d.resource_id < latest.resource_id AND d.position <= p.position
                    ORDER BY d.resource_id DESC, d.position DESC LIMIT 1
                ) AS further
            )
            SELECT json_agg(json_build_array(nullif(resource_id, ''), total))::text AS amounts,
                   count(*) AS number
            FROM latest WHERE total <> 0
        ) AS pairs WHERE pairs.number > 0
        UNION ALL
        SELECT 'runs', whole.day, latest.amounts, 0
        FROM unnest(%(days)s::date[]) AS whole (day) CROSS JOIN LATERAL (
            SELECT json_build_array(d.running, d.completed, d.failed, d.cancelled,
                                    d.tokens::numeric)::text AS amounts
            FROM ledger.run_day AS d
            WHERE d.line_key = line.line_key AND d.day = whole.day AND d.position <= p.position
            ORDER BY d.position DESC LIMIT 1
        ) AS latest
        UNION ALL
        SELECT 'hours', pair.day,
               json_agg(json_build_array(nullif(pair.resource_id, ''), pair.amount))::text, count(*)
        FROM (
            SELECT d.day, d.resource_id, sum(d.change) AS amount
            FROM (
                SELECT d.day, d.resource_id, d.at, d.total - lag(d.total, 1, 0::bigint) OVER (
                    PARTITION BY d.day, d.resource_id ORDER BY d.position) AS change
                FROM ledger.execution_day AS d
                WHERE d.line_key = line.line_key AND d.day = ANY(%(parts)s::date[])
                  AND d.position <= p.position
            ) AS d
            WHERE d.at >= %(from)s AND d.at < %(to)s
            GROUP BY 1, 2
        ) AS pair WHERE pair.amount <> 0 GROUP BY pair.day
        UNION ALL
        SELECT 'runs', d.day, json_build_array(
                   COALESCE(sum(d.running) FILTER (WHERE d.starts), 0),
                   COALESCE(sum(d.completed) FILTER (WHERE d.starts), 0),
                   COALESCE(sum(d.failed) FILTER (WHERE d.starts), 0),
                   COALESCE(sum(d.cancelled) FILTER (WHERE d.starts), 0),
                   COALESCE(sum(d.tokens) FILTER (WHERE d.ends), 0))::text, 0
        FROM (
            SELECT d.day,
                   d.started_at >= %(from)s AND d.started_at < %(to)s AS starts,
                   d.ended_at >= %(from)s AND d.ended_at < %(to)s AS ends,
                   d.running - lag(d.running, 1, 0) OVER before AS running,
                   d.completed - lag(d.completed, 1, 0) OVER before AS completed,
                   d.failed - lag(d.failed, 1, 0) OVER before AS failed,
                   d.cancelled - lag(d.cancelled, 1, 0) OVER before AS cancelled,
                   d.tokens::numeric - lag(d.tokens::numeric, 1, 0::numeric) OVER before AS tokens
            FROM ledger.run_day AS d
            WHERE d.line_key = line.line_key AND d.day = ANY(%(parts)s::date[])
              AND d.position <= p.position
            WINDOW before AS (PARTITION BY d.day ORDER BY d.position)
        ) AS d GROUP BY d.day
    ) AS part
) AS found ON true
"""


@cache
def usage_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, line or null, kind, day, amounts JSON) rows; no amounts if there are too many.

    The kinds: ``hours``, with pairs of a resource and hundredths of hours; and ``runs``, with the
    numbers of running, completed, failed and cancelled runs, and the tokens.
    """
    line, planning = line_then(tenant), Planning.LONG
    return read_of(_USAGE, "execution", "run", past=past, planning=planning, line=line)
