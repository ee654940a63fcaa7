"""The statements that tell a line's story: history, timeline, usage (contract 4).

They are told alike for now and for an instant of the past: up to the statement's position. Where
one stands in the history, which only the present can tell, is for the page.
"""

from functools import cache
from typing import Literal

from projections.feeds import ENVELOPE
from projections.reading import POSITION_THEN, position_of, where_line

_STATES = """
',"state_before":' || COALESCE('"' || e.state_before || '"', 'null')
|| ',"state_after":"' || e.state_after || '"'
"""
_ITEM = f"""'{{' || {ENVELOPE} || {_STATES} || '}}'"""

# A line's events and its runs', in log order, with the line's state before and after. The line is
# seen by whoever sees its first event. Bounds and orders name the line too, as the index does: with
# the position alone PostgreSQL may walk the whole log and look for the line in it.
_HISTORY = """
SELECT p.position, line.line_id, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.organization_id, l.workspace_id FROM ledger.event AS l
    WHERE (l.line_id, l.position) >= (%(line_id)s, 0)
      AND (l.line_id, l.position) <= (%(line_id)s, p.position)
    ORDER BY l.line_id, l.position LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (SELECT l.line_id WHERE {where}) AS line ON true
LEFT JOIN LATERAL (
    SELECT e.position, {item} AS item FROM ledger.event AS e
    WHERE (e.line_id, e.position) > (line.line_id, %(after)s)
      AND (e.line_id, e.position) <= (line.line_id, p.position)
    ORDER BY e.line_id, e.position LIMIT %(limit)s
) AS page ON true
ORDER BY page.position
"""

# Where one stands in a line's history: the latest events by a place in it, the next one, both ends,
# and ticks: events that are at least so far apart that there are no more than a page can show. Each
# tick is looked for from the one before it, so that what lies between costs nothing.
_PLACE = """
SELECT p.position, line.line_id, found.kind, found.position, found.item
FROM ({position}) AS p
CROSS JOIN LATERAL (SELECT LEAST({at}, p.position) AS position OFFSET 0) AS at
LEFT JOIN LATERAL (
    SELECT l.line_id, l.position, l.state_after, l.organization_id, l.workspace_id
    FROM ledger.event AS l
    WHERE (l.line_id, l.position) >= (%(line_id)s, 0)
      AND (l.line_id, l.position) <= (%(line_id)s, p.position)
    ORDER BY l.line_id, l.position LIMIT 1
) AS l ON true
LEFT JOIN LATERAL (
    SELECT l.line_id, l.position AS first, l.state_after AS state, (
        SELECT e.position FROM ledger.event AS e
        WHERE (e.line_id, e.position) >= (l.line_id, 0)
          AND (e.line_id, e.position) <= (l.line_id, p.position)
        ORDER BY e.line_id DESC, e.position DESC LIMIT 1
    ) AS last
    WHERE {where} OFFSET 0
) AS line ON true
LEFT JOIN LATERAL (
    (SELECT 'end' AS kind, e.position, {item} AS item FROM ledger.event AS e
     WHERE e.position IN (line.first, line.last))
    UNION ALL
    (SELECT 'until', e.position, {item} FROM ledger.event AS e
     WHERE (e.line_id, e.position) >= (line.line_id, 0)
       AND (e.line_id, e.position) <= (line.line_id, at.position)
     ORDER BY e.line_id DESC, e.position DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT 'next', e.position, {item} FROM ledger.event AS e
     WHERE (e.line_id, e.position) > (line.line_id, at.position)
       AND (e.line_id, e.position) <= (line.line_id, p.position)
     ORDER BY e.line_id, e.position LIMIT 1)
    UNION ALL
    (WITH RECURSIVE tick AS (
        SELECT line.first AS position, line.state
        UNION ALL
        SELECT following.position, following.state_after
        FROM tick CROSS JOIN LATERAL (
            SELECT e.position, e.state_after FROM ledger.event AS e
            WHERE (e.line_id, e.position) >= (line.line_id, tick.position
                      + (line.last - line.first) / %(ticks)s + 1)
              AND (e.line_id, e.position) <= (line.line_id, p.position)
            ORDER BY e.line_id, e.position LIMIT 1
        ) AS following
     ) SELECT 'tick', tick.position, tick.state FROM tick)
) AS found ON line.line_id IS NOT NULL
ORDER BY found.position
"""

_AT = {"now": "p.position", "position": "%(at)s::bigint", "instant": POSITION_THEN}

# What a run's own events did, with the line's state around each.
_RUN_EVENTS = """
SELECT p.position, run.run_id, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.run_id FROM ledger.run AS l
    WHERE l.run_id = %(run_id)s AND l.opened <= p.position AND {where}
) AS run ON true
LEFT JOIN LATERAL (
    SELECT e.position, {item} AS item
    FROM ledger.run_version AS v JOIN ledger.event AS e ON e.position = v.position
    WHERE v.run_id = run.run_id AND v.position <= p.position
    ORDER BY v.position LIMIT %(limit)s
) AS page ON true
ORDER BY page.position
"""

# The line, if the credential sees it and it was there by then.
_LINE = """
LEFT JOIN LATERAL (
    SELECT l.line_id FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND l.activated <= p.position AND {where}
) AS line ON true
"""

# The turning points of a line from the one that holds at ``from`` on, by effective time. (That
# never falls along a line's stream, so the order of positions is also that of times; of those at
# one instant only the last one lasted.)
_TIMELINE = """
SELECT p.position, line.line_id, turn.since, turn.state, turn.causes
FROM ({position}) AS p
{line}
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (i.since) i.since, i.state, i.causes
    FROM ledger.execution_interval AS i
    WHERE i.line_id = line.line_id AND i.turned AND i.opened <= p.position
      AND i.since < %(to)s
      AND i.since >= COALESCE((
          SELECT first.since FROM ledger.execution_interval AS first
          WHERE first.line_id = line.line_id AND first.turned AND first.opened <= p.position
            AND first.since <= %(from)s
          ORDER BY first.since DESC LIMIT 1), '-infinity')
    ORDER BY i.since, i.opened DESC LIMIT %(limit)s
) AS turn ON true
ORDER BY turn.since
"""

# What whole days came to, and what the changes of days that are asked for in part come to. Hours
# are told by day and resource: such pairs are counted here, and where too many, none is given.
_USAGE = """
SELECT p.position, line.line_id, found.kind, found.day,
       CASE WHEN found.pairs <= %(limit)s THEN found.amounts END
FROM ({position}) AS p
{line}
LEFT JOIN LATERAL (
    SELECT one.kind, one.day, one.amounts, sum(one.pairs) OVER () AS pairs
    FROM (
        SELECT 'hours' AS kind, whole.day, pairs.amounts, pairs.number AS pairs
        FROM unnest(%(days)s::date[]) AS whole (day) CROSS JOIN LATERAL (
            -- From resource to resource, the latest row of each: a look into the index for each.
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
    ) AS one
) AS found ON true
"""


@cache
def history_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, position of the event, item JSON) rows."""
    position = position_of(past, "event")
    return _HISTORY.format(position=position, where=where_line(tenant), item=_ITEM)


@cache
def place_statement(tenant: frozenset[str], by: Literal["now", "position", "instant"]) -> str:
    """(position, line or null, kind, position of the event, item JSON or a tick's state) rows.

    The kinds: ``end``, ``until``, ``next``, ``tick``.
    """
    position = position_of(False, "event")
    return _PLACE.format(position=position, at=_AT[by], where=where_line(tenant), item=_ITEM)


@cache
def run_events_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, run or null, position of the event, item JSON) rows."""
    position = position_of(past, "event", "run")
    return _RUN_EVENTS.format(position=position, where=where_line(tenant), item=_ITEM)


@cache
def timeline_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, since, state, causes) rows."""
    return _TIMELINE.format(position=position_of(past, "execution"), line=_line(tenant))


@cache
def usage_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, kind, day, amounts JSON) rows; no amounts where too many."""
    return _USAGE.format(position=position_of(past, "execution", "run"), line=_line(tenant))


def _line(tenant: frozenset[str]) -> str:
    return _LINE.format(where=where_line(tenant))
