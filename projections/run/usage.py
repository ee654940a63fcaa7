"""The statements of usage: check-ins, hours, runs and tokens, by stretches of time.

The sums come from the running totals of UTC days that the views keep: ``execution_day`` (check-ins
and hours by resource) and ``run_day`` (runs and tokens). A stretch is a number of the parameter
``bounds``: it begins at its bound, and ends at the next one. A UTC day that lies within one stretch
(``days``) counts by its latest totals. A day that a bound cuts (``parts``) counts by its changes: a
change is the difference between two successive totals. Tokens by model come from the runs
themselves, since few runs name models.
"""

from functools import cache

from ledger.postgres.scope import Planning
from ledger.views.statements import Read, read_of, where_tenant
from projections.run.statements import used_then
from projections.run.view import USED_BY_MODEL

# The changes of check-ins and hours in the stretches, of days that a bound cuts.
_HOURS_OF_PARTS = """
SELECT d.line_key, width_bucket(d.at, %(bounds)s::timestamptz[]) AS stretch, d.resource_id,
       d.hours, d.check_ins
FROM (
    SELECT d.line_key, d.resource_id, d.at,
           d.total - lag(d.total, 1, 0::bigint) OVER before AS hours,
           d.check_ins - lag(d.check_ins, 1, 0) OVER before AS check_ins
    FROM ledger.execution_day AS d
    WHERE {lines} AND d.day = ANY(%(parts)s::date[]) AND d.position <= p.position
    WINDOW before AS (PARTITION BY d.line_key, d.day, d.resource_id ORDER BY d.position)
) AS d
WHERE d.at >= %(from)s AND d.at < %(to)s
"""

# The changes of runs and tokens likewise. A change counts runs by their start, and tokens by their
# run's end.
_RUNS_OF_PARTS = """
SELECT d.line_key, width_bucket(counted.at, %(bounds)s::timestamptz[]) AS stretch,
       counted.running, counted.completed, counted.failed, counted.cancelled, counted.tokens
FROM (
    SELECT d.line_key, d.started_at, d.ended_at,
           d.running - lag(d.running, 1, 0) OVER before AS running,
           d.completed - lag(d.completed, 1, 0) OVER before AS completed,
           d.failed - lag(d.failed, 1, 0) OVER before AS failed,
           d.cancelled - lag(d.cancelled, 1, 0) OVER before AS cancelled,
           d.tokens::numeric - lag(d.tokens::numeric, 1, 0::numeric) OVER before AS tokens
    FROM ledger.run_day AS d
    WHERE {lines} AND d.day = ANY(%(parts)s::date[]) AND d.position <= p.position
    WINDOW before AS (PARTITION BY d.line_key, d.day ORDER BY d.position)
) AS d
CROSS JOIN LATERAL (VALUES
    (d.started_at, d.running, d.completed, d.failed, d.cancelled, 0::numeric),
    (d.ended_at, 0, 0, 0, 0, d.tokens)
) AS counted (at, running, completed, failed, cancelled, tokens)
WHERE counted.at >= %(from)s AND counted.at < %(to)s
"""

# The tokens of each model that a run names, by the run's end.
_TOKENS_OF_MODELS = f"""
SELECT r.line_key, width_bucket(r.at, %(bounds)s::timestamptz[]) AS stretch, part ->> 0 AS model,
       (part ->> 1)::numeric AS input, (part ->> 2)::numeric AS output,
       (part ->> 3)::numeric AS cache_read, (part ->> 4)::numeric AS cache_write,
       (part ->> 5)::numeric AS reasoning
FROM (
    SELECT r.line_key, COALESCE(r.ended_at, r.stopped_at) AS at, {used_then("token_usage")} AS usage
    FROM ledger.run AS r
    WHERE {{lines}} AND COALESCE(r.ended_at, r.stopped_at) >= %(from)s
      AND COALESCE(r.ended_at, r.stopped_at) < %(to)s AND {USED_BY_MODEL}
      AND COALESCE(r.ended, r.stopped) <= p.position
) AS r
CROSS JOIN LATERAL jsonb_array_elements(r.usage::jsonb) AS part
"""

# The usage of a line. If there are too many pairs of day and resource, no amounts are given.
_OF_LINE = """
SELECT p.position, line.line_id, found.kind, found.stretch,
       CASE WHEN found.pairs <= %(limit)s THEN found.amounts END
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.line_key FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND l.activated <= p.position AND {where}
) AS line ON true
LEFT JOIN LATERAL (
    SELECT part.kind, part.stretch, part.amounts, sum(part.pairs) OVER () AS pairs
    FROM (
        SELECT 'hours' AS kind, whole.stretch, pairs.amounts, pairs.number AS pairs
        FROM unnest(%(days)s::date[], %(numbers)s::integer[]) AS whole (day, stretch)
        CROSS JOIN LATERAL (
            -- The latest row of each resource: one index look-up per resource.
            WITH RECURSIVE latest AS (
                (SELECT d.resource_id, d.total, d.check_ins FROM ledger.execution_day AS d
                 WHERE d.line_key = line.line_key AND d.day = whole.day AND d.position <= p.position
                 ORDER BY d.resource_id DESC, d.position DESC LIMIT 1)
                UNION ALL
                SELECT further.resource_id, further.total, further.check_ins
                FROM latest CROSS JOIN LATERAL (
                    SELECT d.resource_id, d.total, d.check_ins FROM ledger.execution_day AS d
                    WHERE d.line_key = line.line_key AND d.day = whole.day
                      AND d.resource_id < latest.resource_id AND d.position <= p.position
                    ORDER BY d.resource_id DESC, d.position DESC LIMIT 1
                ) AS further
            )
            SELECT json_agg(json_build_array(nullif(resource_id, ''), total, check_ins))::text
                       AS amounts,
                   count(*) AS number
            FROM latest WHERE total <> 0 OR check_ins <> 0
        ) AS pairs WHERE pairs.number > 0
        UNION ALL
        SELECT 'runs', whole.stretch, latest.amounts, 0
        FROM unnest(%(days)s::date[], %(numbers)s::integer[]) AS whole (day, stretch)
        CROSS JOIN LATERAL (
            SELECT json_build_array(d.running, d.completed, d.failed, d.cancelled,
                                    d.tokens::numeric)::text AS amounts
            FROM ledger.run_day AS d
            WHERE d.line_key = line.line_key AND d.day = whole.day AND d.position <= p.position
            ORDER BY d.position DESC LIMIT 1
        ) AS latest
        UNION ALL
        SELECT 'hours', pair.stretch,
               json_agg(json_build_array(nullif(pair.resource_id, ''), pair.hours,
                                         pair.check_ins))::text,
               count(*)
        FROM (
            SELECT d.stretch, d.resource_id, sum(d.hours) AS hours, sum(d.check_ins) AS check_ins
            FROM ({hours_of_parts}) AS d
            GROUP BY 1, 2
        ) AS pair WHERE pair.hours <> 0 OR pair.check_ins <> 0 GROUP BY pair.stretch
        UNION ALL
        SELECT 'runs', d.stretch,
               json_build_array(sum(d.running), sum(d.completed), sum(d.failed), sum(d.cancelled),
                                sum(d.tokens))::text,
               0
        FROM ({runs_of_parts}) AS d GROUP BY d.stretch
        UNION ALL
        SELECT 'models', d.stretch,
               json_agg(json_build_array(d.model, d.input, d.output, d.cache_read, d.cache_write,
                                         d.reasoning))::text,
               0
        FROM (
            SELECT d.stretch, d.model, sum(d.input) AS input, sum(d.output) AS output,
                   sum(d.cache_read) AS cache_read, sum(d.cache_write) AS cache_write,
                   sum(d.reasoning) AS reasoning
            FROM ({tokens_of_models}) AS d GROUP BY 1, 2
        ) AS d GROUP BY d.stretch
    ) AS part
) AS found ON true
"""


@cache
def usage_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, line or null, kind, stretch, amounts JSON) rows; no amounts if there are too many.

    The kinds: ``hours``, with triples of a resource, hundredths of hours and check-ins; ``runs``,
    with the numbers of running, completed, failed and cancelled runs, and the tokens; ``models``,
    with a model and its tokens. A stretch may have several rows of a kind.
    """
    return read_of(
        _OF_LINE,
        "execution",
        "run",
        past=past,
        planning=Planning.LONG,
        where=where_tenant(tenant, "l"),
        hours_of_parts=_HOURS_OF_PARTS.format(lines="d.line_key = line.line_key"),
        runs_of_parts=_RUNS_OF_PARTS.format(lines="d.line_key = line.line_key"),
        tokens_of_models=_TOKENS_OF_MODELS.format(lines="r.line_key = line.line_key"),
    )
