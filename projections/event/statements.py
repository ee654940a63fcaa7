"""The statements that read the histories of lines and runs (contract, Reading).

``feeds.py`` has the statements of feeds. A history for an instant of the past is the present
history up to the statement's position. A place in the history (for the page) is always read from
the present history. The view ``run`` tells which events belong to a run.
"""

from functools import cache
from typing import Literal

from ledger.views.statements import POSITION_THEN, position_of, where_tenant
from projections.event.feeds import ENVELOPE

_STATES = """
',"state_before":' || COALESCE('"' || e.state_before || '"', 'null')
|| ',"state_after":"' || e.state_after || '"'
"""
_ITEM = f"""'{{' || {ENVELOPE} || {_STATES} || '}}'"""

# The events of a line and of its runs, in log order, with the line's state before and after. A
# credential sees the line if it sees the line's first event. Bounds and orders name the line too,
# as the index does: with the position alone, PostgreSQL may walk the whole log and filter it by the
# line.
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

# A place in a line's history: the latest events up to the place, the next event, the first and the
# last event, and ticks. Ticks are events so far apart that a page can show all of them. The query
# looks up each tick from the tick before, so that the events between two ticks are not read.
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

# A run's own events, with the line's state before and after each.
_RUN_EVENTS = """
SELECT p.position, run.run_id, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.run_id, ARRAY[l.opened, l.started, l.cancelled, l.ended, l.erased] AS positions
    FROM ledger.run AS l
    WHERE l.run_id = %(run_id)s AND l.opened <= p.position AND {where}
) AS run ON true
LEFT JOIN LATERAL (
    SELECT e.position, {item} AS item
    FROM ledger.event AS e WHERE e.position = ANY(run.positions) AND e.position <= p.position
    ORDER BY e.position LIMIT %(limit)s
) AS page ON true
ORDER BY page.position
"""


@cache
def history_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, position of the event, item JSON) rows."""
    position = position_of(past, "event")
    return _HISTORY.format(position=position, where=where_tenant(tenant, "l"), item=_ITEM)


@cache
def place_statement(tenant: frozenset[str], by: Literal["now", "position", "instant"]) -> str:
    """(position, line or null, kind, position of the event, item JSON or a tick's state) rows.

    The kinds: ``end``, ``until``, ``next``, ``tick``.
    """
    position = position_of(False, "event")
    return _PLACE.format(position=position, at=_AT[by], where=where_tenant(tenant, "l"), item=_ITEM)


@cache
def run_events_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, run or null, position of the event, item JSON) rows."""
    position = position_of(past, "event", "run")
    return _RUN_EVENTS.format(position=position, where=where_tenant(tenant, "l"), item=_ITEM)
