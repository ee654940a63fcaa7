"""The statements that read the histories of lines and runs (contract, Reading).

``feeds.py`` has the statements of feeds. A history for a past instant is the present history up to
the statement's position; bounds in time become bounds in position. A point in the history (for the
page) always reads the present history. The view ``run`` tells which events belong to a run.
"""

from functools import cache

from ledger.engine.views import statements
from projections.feed.items import with_stored
from projections.feed.view import key_of

_FIRST_KEY = key_of("l.line_id")
_LINE_KEY = key_of("line.line_id")
_EVENT_KEY = key_of("e.line_id")
_LINE_ID_KEY = key_of("%(line_id)s::text")

# The line's first event: a credential that sees it sees the line. After ``known`` the line is
# unknown.
_FIRST = f"""
SELECT l.line_id, l.position, l.state_after, l.organization_id, l.workspace_id
FROM ledger.event AS l
WHERE ({_FIRST_KEY}, l.position) >= ({_LINE_ID_KEY}, 0)
  AND ({_FIRST_KEY}, l.position) <= ({_LINE_ID_KEY}, {{known}}) AND l.line_id = %(line_id)s
  AND (SELECT ledger.sees_line(%(line_id)s))
ORDER BY {_FIRST_KEY}, l.position LIMIT 1
"""

# The events of a line and its runs in log order, with the line's state before and after. Bounds and
# orders name the line's key too, as the index does: by the position alone, PostgreSQL may scan the
# whole log and filter it by the line.
_HISTORY = f"""
SELECT p.position, line.line_id, page.*
FROM ({{position}}) AS p
LEFT JOIN LATERAL ({_FIRST}) AS l ON true
LEFT JOIN LATERAL (SELECT l.line_id WHERE {{where}}) AS line ON true
LEFT JOIN LATERAL ({{events}}) AS page ON true
ORDER BY page.position
"""
_AFTER = f"""
SELECT e.* FROM ledger.event AS e
WHERE ({_EVENT_KEY}, e.position) > ({_LINE_KEY}, {{after}})
  AND ({_EVENT_KEY}, e.position) <= ({_LINE_KEY}, p.position) AND e.line_id = line.line_id
ORDER BY {_EVENT_KEY}, e.position LIMIT %(limit)s
"""

# A point in a line's history: the latest events up to it, the next event, the first and the last,
# and ticks. Ticks are events so far apart in time that a page can show all of them. Each tick is
# looked up from the tick before, so that no event between two ticks is read: first the log's
# position at the earliest instant of the next tick, then the line's next event after it.
_POINT = f"""
SELECT p.position, line.line_id, found.*
FROM ({{position}}) AS p
CROSS JOIN LATERAL (SELECT LEAST({{at}}, p.position) AS position OFFSET 0) AS at
LEFT JOIN LATERAL ({_FIRST}) AS l ON true
LEFT JOIN LATERAL (
    SELECT l.line_id, l.position AS first, l.state_after AS state, (
        SELECT e.position FROM ledger.event AS e
        WHERE ({_EVENT_KEY}, e.position) >= ({_FIRST_KEY}, 0)
          AND ({_EVENT_KEY}, e.position) <= ({_FIRST_KEY}, p.position) AND e.line_id = l.line_id
        ORDER BY {_EVENT_KEY} DESC, e.position DESC LIMIT 1
    ) AS last
    WHERE {{where}} OFFSET 0
) AS line ON true
LEFT JOIN LATERAL (({{events}}) UNION ALL ({{ticks}})) AS found ON line.line_id IS NOT NULL
ORDER BY found.position
"""
_AROUND = f"""
(SELECT 'end' AS kind, e.* FROM ledger.event AS e WHERE e.position IN (line.first, line.last))
UNION ALL
(SELECT 'until', e.* FROM ledger.event AS e
 WHERE ({_EVENT_KEY}, e.position) >= ({_LINE_KEY}, 0)
   AND ({_EVENT_KEY}, e.position) <= ({_LINE_KEY}, at.position) AND e.line_id = line.line_id
 ORDER BY {_EVENT_KEY} DESC, e.position DESC LIMIT %(limit)s)
UNION ALL
(SELECT 'next', e.* FROM ledger.event AS e
 WHERE ({_EVENT_KEY}, e.position) > ({_LINE_KEY}, at.position)
   AND ({_EVENT_KEY}, e.position) <= ({_LINE_KEY}, p.position) AND e.line_id = line.line_id
 ORDER BY {_EVENT_KEY}, e.position LIMIT 1)
"""
_TICKS = f"""
WITH RECURSIVE tick AS (
    SELECT line.first AS position, line.state, begin.at,
        (ledger.recorded_at(line.last) - begin.at) / %(ticks)s AS apart
    FROM (SELECT ledger.recorded_at(line.first) AS at OFFSET 0) AS begin
    UNION ALL
    SELECT following.position, following.state_after, ledger.recorded_at(following.position),
        tick.apart
    FROM tick CROSS JOIN LATERAL (
        SELECT e.position, e.state_after FROM ledger.event AS e
        WHERE ({_EVENT_KEY}, e.position)
              > ({_LINE_KEY}, (SELECT ledger.position_by(tick.at + tick.apart)))
          AND ({_EVENT_KEY}, e.position) <= ({_LINE_KEY}, p.position) AND e.line_id = line.line_id
        ORDER BY {_EVENT_KEY}, e.position LIMIT 1
    ) AS following
) SELECT 'tick', tick.position, {statements.json_of_instant("tick.at")}, NULL, tick.state,
    NULL, NULL, NULL, NULL FROM tick
"""

# A run's own events, with the line's state before and after each.
_RUN_EVENTS = """
SELECT p.position, run.run_id, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.run_id, ARRAY[l.opened, l.started, l.stopped, l.ended, l.erased] AS positions
    FROM ledger.run AS l
    WHERE l.run_id = %(run_id)s AND l.opened <= p.position AND {where}
) AS run ON true
LEFT JOIN LATERAL ({events}) AS page ON true
ORDER BY page.position
"""
_OF_RUN = """
SELECT e.* FROM ledger.event AS e
WHERE e.position = ANY(run.positions) AND e.position <= p.position
ORDER BY e.position LIMIT %(limit)s
"""


_RECORDED_BY = "COALESCE((SELECT ledger.position_by(%(known_by)s)), 0)"
_RECORDED_AFTER = """
GREATEST(%(after)s, COALESCE((SELECT ledger.position_by(%(recorded_after)s)), 0))
"""


@cache
def history_read(
    tenant: frozenset[str], past: bool = False, recorded: frozenset[str] = frozenset()
) -> statements.Read:
    """(position, line or null, columns of a found event) rows.

    ``recorded`` are the requested bounds ``recorded_after`` and ``recorded_until``. With the
    latter, the statement's instant is that end, and the line may be known up to ``known_by``.
    """
    after = _RECORDED_AFTER if "recorded_after" in recorded else "%(after)s"
    return statements.read_of(
        _HISTORY,
        "event",
        past=past,
        known=_RECORDED_BY if "recorded_until" in recorded else "p.position",
        where=statements.where_tenant(tenant, "l"),
        events=with_stored(_AFTER.format(after=after)),
    )


@cache
def point_read(tenant: frozenset[str], past: bool = False) -> statements.Read:
    """(position, line or null, kind, columns of a found event) rows.

    The kinds: ``end``, ``until``, ``next``, ``tick``. A tick has its position, a state, and its
    instant as JSON in the column of the type.
    """
    return statements.read_of(
        _POINT,
        "event",
        at=statements.POSITION_THEN if past else "p.position",
        known="p.position",
        where=statements.where_tenant(tenant, "l"),
        events=with_stored(_AROUND, "kind"),
        ticks=_TICKS,
    )


@cache
def run_events_read(tenant: frozenset[str], past: bool = False) -> statements.Read:
    """(position, run or null, columns of a found event) rows."""
    visible, events = statements.where_tenant(tenant, "l"), with_stored(_OF_RUN)
    return statements.read_of(_RUN_EVENTS, "event", "run", past=past, where=visible, events=events)
