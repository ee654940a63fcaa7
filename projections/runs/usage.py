"""The statements of usage: check-ins, hours, runs and tokens, by time span.

The sums come from the running totals of UTC days in the views: ``execution_day`` (check-ins and
hours by resource) and ``run_day`` (runs and tokens). A span is a number of the parameter
``bounds``: it begins at its bound, and ends at the next one. A UTC day within one span (``days``)
counts by its latest totals. A day that a bound cuts (``parts``) counts by its changes, the
differences between successive totals. Tokens by model come from the runs, since few name models.
"""

from collections.abc import Sequence
from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, position_of_page, read_of, where_tenant
from projections.runs.statements import used_then
from projections.runs.view import USED_BY_MODEL

# The changes of check-ins and hours in the spans, for days that a bound cuts.
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

# The changes of runs and tokens likewise. Runs count by their start, tokens by their run's end.
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

# The latest totals of days within a span, of these lines: one index look-up for each day and
# resource, from the last one back, however many check-ins there were.
_HOURS_OF_DAYS = """
SELECT asked.line_key, whole.stretch, d.resource_id, d.total AS hours, d.check_ins
FROM {asked} AS asked (line_key)
CROSS JOIN LATERAL (
    WITH RECURSIVE latest AS (
        (SELECT d.day, d.resource_id, d.total, d.check_ins FROM ledger.execution_day AS d
         WHERE d.line_key = asked.line_key AND d.day BETWEEN %(first)s AND %(last)s
           AND d.position <= p.position
         ORDER BY d.day DESC, d.resource_id DESC, d.position DESC LIMIT 1)
        UNION ALL
        SELECT further.* FROM latest CROSS JOIN LATERAL (
            SELECT d.day, d.resource_id, d.total, d.check_ins FROM ledger.execution_day AS d
            WHERE d.line_key = asked.line_key AND d.day >= %(first)s
              AND (d.day, d.resource_id) < (latest.day, latest.resource_id)
              AND d.position <= p.position
            ORDER BY d.day DESC, d.resource_id DESC, d.position DESC LIMIT 1
        ) AS further
    )
    SELECT * FROM latest
) AS d
JOIN unnest(%(days)s::date[], %(numbers)s::integer[]) AS whole (day, stretch) USING (day)
"""
_RUNS_OF_DAYS = """
SELECT asked.line_key, whole.stretch, d.running, d.completed, d.failed, d.cancelled,
       d.tokens::numeric AS tokens
FROM {asked} AS asked (line_key)
CROSS JOIN LATERAL (
    WITH RECURSIVE latest AS (
        (SELECT d.day, d.running, d.completed, d.failed, d.cancelled, d.tokens
         FROM ledger.run_day AS d
         WHERE d.line_key = asked.line_key AND d.day BETWEEN %(first)s AND %(last)s
           AND d.position <= p.position
         ORDER BY d.day DESC, d.position DESC LIMIT 1)
        UNION ALL
        SELECT further.* FROM latest CROSS JOIN LATERAL (
            SELECT d.day, d.running, d.completed, d.failed, d.cancelled, d.tokens
            FROM ledger.run_day AS d
            WHERE d.line_key = asked.line_key AND d.day >= %(first)s AND d.day < latest.day
              AND d.position <= p.position
            ORDER BY d.day DESC, d.position DESC LIMIT 1
        ) AS further
    )
    SELECT * FROM latest
) AS d
JOIN unnest(%(days)s::date[], %(numbers)s::integer[]) AS whole (day, stretch) USING (day)
"""

# Runs that name models, by their start: under each of their models, or under none.
_RUNS_OF_MODELS = f"""
SELECT DISTINCT r.run_key, r.line_key, width_bucket(r.started_at, %(bounds)s::timestamptz[])
           AS stretch, r.status, part ->> 0 AS model
FROM (
    SELECT r.run_key, r.line_key, r.started_at, r.status, {used_then("token_usage")} AS usage
    FROM ledger.run AS r
    WHERE {{lines}} AND r.started_at >= %(from)s AND r.started_at < %(to)s AND {USED_BY_MODEL}
      AND COALESCE(r.ended, r.stopped) <= p.position
) AS r
CROSS JOIN LATERAL jsonb_array_elements(r.usage::jsonb) AS part
"""

# The usage of a line. Too many pairs of day and resource give no amounts.
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
        SELECT 'hours' AS kind, pair.stretch,
               json_agg(json_build_array(nullif(pair.resource_id, ''), pair.hours,
                                         pair.check_ins))::text AS amounts,
               count(*) AS pairs
        FROM (
            SELECT d.stretch, d.resource_id, sum(d.hours) AS hours, sum(d.check_ins) AS check_ins
            FROM ({hours}) AS d GROUP BY 1, 2
        ) AS pair WHERE pair.hours <> 0 OR pair.check_ins <> 0 GROUP BY pair.stretch
        UNION ALL
        SELECT 'runs', d.stretch,
               json_build_array(sum(d.running), sum(d.completed), sum(d.failed), sum(d.cancelled),
                                sum(d.tokens))::text,
               0
        FROM ({runs}) AS d GROUP BY d.stretch
        UNION ALL
        SELECT 'models', d.stretch,
               json_agg(json_build_array(d.model, d.input, d.output, d.cache_read, d.cache_write,
                                         d.reasoning))::text,
               0
        FROM (
            SELECT d.stretch, d.model, sum(d.input) AS input, sum(d.output) AS output,
                   sum(d.cache_read) AS cache_read, sum(d.cache_write) AS cache_write,
                   sum(d.reasoning) AS reasoning
            FROM ({models}) AS d GROUP BY 1, 2
        ) AS d GROUP BY d.stretch
    ) AS part
) AS found ON true
"""


@cache
def usage_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, line or null, kind, span, amounts JSON) rows; no amounts if there are too many.

    The kinds: ``hours``, with triples of a resource, hundredths of hours and check-ins; ``runs``,
    with the numbers of running, completed, failed and cancelled runs, and the tokens; ``models``,
    with a model and its tokens.
    """
    of_line = {"asked": "(SELECT line.line_key)", "lines": "d.line_key = line.line_key"}
    return read_of(
        _OF_LINE,
        "execution",
        "run",
        past=past,
        planning=Planning.LONG,
        where=where_tenant(tenant, "l"),
        hours=_union(_HOURS_OF_DAYS, _HOURS_OF_PARTS, **of_line),
        runs=_union(_RUNS_OF_DAYS, _RUNS_OF_PARTS, **of_line),
        models=_TOKENS_OF_MODELS.format(lines="r.line_key = line.line_key"),
    )


def _union(*parts: str, **of_lines: str) -> str:
    return " UNION ALL ".join(part.format(**of_lines) for part in parts)


_REQUESTED = "unnest(%(lines)s::bigint[])"
_OF_LINES = {"asked": _REQUESTED, "lines": "d.line_key = ANY(%(lines)s::bigint[])"}
_NO_RUNS = "0 AS running, 0 AS completed, 0 AS failed, 0 AS cancelled, 0::numeric AS tokens"
_HOURS = f"""SELECT line_key, stretch, {{resource}}, hours, check_ins, {_NO_RUNS}
FROM ({{part}}) AS d WHERE {{chosen}}"""
_RUNS = """SELECT line_key, stretch, '', 0, 0, running, completed, failed, cancelled, tokens
FROM ({part}) AS d"""

# The sums of lines by group, span and resource: ``groups`` has the group number of each of
# ``members``. A line may be in several groups.
_SUMS = """
SELECT p.position, summed.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT asked.number, each.stretch, each.resource_id, count(*)::integer AS lines,
           sum(each.hours)::bigint, sum(each.check_ins)::bigint, sum(each.running)::bigint,
           sum(each.completed)::bigint, sum(each.failed)::bigint, sum(each.cancelled)::bigint,
           sum(each.tokens)
    FROM (
        SELECT d.line_key, d.stretch, d.resource_id, sum(d.hours) AS hours,
               sum(d.check_ins) AS check_ins, sum(d.running) AS running,
               sum(d.completed) AS completed, sum(d.failed) AS failed,
               sum(d.cancelled) AS cancelled, sum(d.tokens) AS tokens
        FROM ({parts}) AS d (line_key, stretch, resource_id, hours, check_ins, running, completed,
                             failed, cancelled, tokens)
        GROUP BY 1, 2, 3
    ) AS each
    JOIN unnest(%(members)s::bigint[], %(groups)s::integer[]) AS asked (line_key, number)
        USING (line_key)
    WHERE each.hours <> 0 OR each.check_ins <> 0 OR each.running <> 0 OR each.completed <> 0
       OR each.failed <> 0 OR each.cancelled <> 0 OR each.tokens <> 0
    GROUP BY 1, 2, 3
) AS summed ON true
"""

# The tokens and runs of lines by group, span and model.
_MODELS = """
SELECT p.position, summed.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT asked.number, d.stretch, d.model, sum(d.input), sum(d.output), sum(d.cache_read),
           sum(d.cache_write), sum(d.reasoning), sum(d.completed)::bigint, sum(d.failed)::bigint,
           sum(d.cancelled)::bigint
    FROM ({parts}) AS d
    JOIN unnest(%(members)s::bigint[], %(groups)s::integer[]) AS asked (line_key, number)
        USING (line_key)
    GROUP BY 1, 2, 3
) AS summed ON true
"""
_TOKENS = """
SELECT line_key, stretch, model, input, output, cache_read, cache_write, reasoning,
       0 AS completed, 0 AS failed, 0 AS cancelled
FROM ({part}) AS d WHERE input > 0 OR output > 0
"""
_COUNTED = """
SELECT line_key, stretch, {model}, 0, 0, 0, 0, 0, (status = 'completed')::integer,
       (status = 'failed')::integer, (status = 'cancelled')::integer
FROM ({part}) AS d
"""


@cache
def sums_read(by_resource: bool, filtered: bool) -> Read:
    """(position, group, span, resource, lines, hundredths of hours, check-ins, numbers) rows.

    The numbers are those of running, completed, failed and cancelled runs, and the tokens. The
    resource is empty for none, and without ``by_resource``. ``filtered`` counts only check-ins of
    ``resources``. With either, runs do not count. Nulls if there is nothing.
    """
    chosen = "resource_id = ANY(%(resources)s)" if filtered else "true"
    resource = "resource_id" if by_resource else "'' AS resource_id"
    hours = _union(_HOURS_OF_DAYS, _HOURS_OF_PARTS, **_OF_LINES)
    parts = [_HOURS.format(resource=resource, part=hours, chosen=chosen)]
    if not by_resource and not filtered:
        parts.append(_RUNS.format(part=_union(_RUNS_OF_DAYS, _RUNS_OF_PARTS, **_OF_LINES)))
    return _of_lines(_SUMS, parts)


@cache
def models_read(counted: bool) -> Read:
    """(position, group, span, model, numbers of its tokens, numbers of runs) rows.

    ``counted`` adds the completed, failed and cancelled runs that name the model; under a null
    model, the runs that name any.
    """
    lines = "r.line_key = ANY(%(lines)s::bigint[])"
    parts = [_TOKENS.format(part=_TOKENS_OF_MODELS.format(lines=lines))]
    if counted:
        runs = _RUNS_OF_MODELS.format(lines=lines)
        each = f"SELECT DISTINCT run_key, line_key, stretch, status FROM ({runs}) AS d"
        parts += [
            _COUNTED.format(model="model", part=runs),
            _COUNTED.format(model="NULL", part=each),
        ]
    return _of_lines(_MODELS, parts)


def _of_lines(statement: str, parts: Sequence[str]) -> Read:
    return read_of(
        statement,
        "execution",
        "run",
        planning=Planning.LONG,
        position=position_of_page("execution", "run"),
        parts=" UNION ALL ".join(parts),
    )
