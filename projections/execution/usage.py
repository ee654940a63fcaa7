"""The statement that reads the usage of a line: hours, runs and tokens (contract, Reading).

The hours come from this view; runs and tokens come from the days of the view ``run``.
"""

from functools import cache

from ledger.views.statements import position_of
from projections.execution.statements import line_then

# For whole days the totals, for parts of days the sums of the changes. Hours are given by day and
# resource; if there are too many pairs of day and resource, no amounts are given.
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
                 WHERE d.line_id = line.line_id AND d.day = whole.day AND d.position <= p.position
                 ORDER BY d.resource_id DESC, d.position DESC LIMIT 1)
                UNION ALL
                SELECT further.resource_id, further.total
                FROM latest CROSS JOIN LATERAL (
                    SELECT d.resource_id, d.total FROM ledger.execution_day AS d
                    WHERE d.line_id = line.line_id AND d.day = whole.day
                      AND d.resource_id < latest.resource_id AND d.position <= p.position
                    ORDER BY d.resource_id DESC, d.position DESC LIMIT 1
                ) AS further
            )
            SELECT json_agg(json_build_array(nullif(resource_id, ''), total))::text AS amounts,
                   count(*) AS number
            FROM latest WHERE total <> 0
        ) AS pairs WHERE pairs.number > 0
        UNION ALL
        SELECT kind.name, whole.day, latest.total, 0
        FROM unnest(%(days)s::date[]) AS whole (day),
             (VALUES ('runs'), ('tokens')) AS kind (name) CROSS JOIN LATERAL (
            SELECT d.total FROM ledger.run_day AS d
            WHERE d.line_id = line.line_id AND d.kind = kind.name AND d.day = whole.day
              AND d.position <= p.position
            ORDER BY d.position DESC LIMIT 1
        ) AS latest
        UNION ALL
        SELECT 'hours', pair.day,
               json_agg(json_build_array(nullif(pair.resource_id, ''), pair.amount))::text, count(*)
        FROM (
            SELECT d.day, d.resource_id, sum(d.change) AS amount
            FROM ledger.execution_day AS d
            WHERE d.line_id = line.line_id AND d.day = ANY(%(parts)s::date[])
              AND d.position <= p.position AND d.at >= %(from)s AND d.at < %(to)s
            GROUP BY 1, 2
        ) AS pair WHERE pair.amount <> 0 GROUP BY pair.day
        UNION ALL
        SELECT amount.kind, amount.day, json_object_agg(amount.name, amount.number)::text, 0
        FROM (
            SELECT d.kind, d.day, change.name, sum(change.number::numeric) AS number
            FROM ledger.run_day AS d
            CROSS JOIN LATERAL json_each_text(d.change::json) AS change (name, number)
            WHERE d.line_id = line.line_id AND d.kind IN ('runs', 'tokens')
              AND d.day = ANY(%(parts)s::date[])
              AND d.position <= p.position AND d.at >= %(from)s AND d.at < %(to)s
            GROUP BY 1, 2, 3
        ) AS amount GROUP BY amount.kind, amount.day
    ) AS part
) AS found ON true
"""


@cache
def usage_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, kind, day, amounts JSON) rows; no amounts if there are too many."""
    return _USAGE.format(position=position_of(past, "execution", "run"), line=line_then(tenant))
