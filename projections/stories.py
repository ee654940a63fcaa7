"""The statements that tell a line's story: history, timeline, usage (contract 4).

They are told alike for now and for an instant of the past: up to the statement's position.
"""

from functools import cache

from projections.feeds import ENVELOPE
from projections.reading import position_of, where_line

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
    SELECT e.position, '{{' || {envelope}
        || ',"state_before":' || COALESCE('"' || e.state_before || '"', 'null')
        || ',"state_after":"' || e.state_after || '"}}' AS item
    FROM ledger.event AS e
    WHERE (e.line_id, e.position) > (line.line_id, %(after)s)
      AND (e.line_id, e.position) <= (line.line_id, p.position)
    ORDER BY e.line_id, e.position LIMIT %(limit)s
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

# What whole days came to, and the single changes of the days that are asked for in part.
_USAGE = """
SELECT p.position, line.line_id, found.kind, found.day, found.amounts
FROM ({position}) AS p
{line}
LEFT JOIN LATERAL (
    SELECT 'hours' AS kind, whole.day, latest.total AS amounts
    FROM unnest(%(days)s::date[]) AS whole (day) CROSS JOIN LATERAL (
        SELECT d.total FROM ledger.execution_day AS d
        WHERE d.line_id = line.line_id AND d.day = whole.day AND d.position <= p.position
        ORDER BY d.position DESC LIMIT 1
    ) AS latest
    UNION ALL
    SELECT kind.name, whole.day, latest.total
    FROM unnest(%(days)s::date[]) AS whole (day),
         (VALUES ('runs'), ('tokens')) AS kind (name) CROSS JOIN LATERAL (
        SELECT d.total FROM ledger.run_day AS d
        WHERE d.line_id = line.line_id AND d.kind = kind.name AND d.day = whole.day
          AND d.position <= p.position
        ORDER BY d.position DESC LIMIT 1
    ) AS latest
    UNION ALL
    SELECT 'hours', d.day, d.change FROM ledger.execution_day AS d
    WHERE d.line_id = line.line_id AND d.day = ANY(%(parts)s::date[])
      AND d.position <= p.position AND d.at >= %(from)s AND d.at < %(to)s
    UNION ALL
    SELECT d.kind, d.day, d.change FROM ledger.run_day AS d
    WHERE d.line_id = line.line_id AND d.kind IN ('runs', 'tokens')
      AND d.day = ANY(%(parts)s::date[])
      AND d.position <= p.position AND d.at >= %(from)s AND d.at < %(to)s
) AS found ON true
"""


@cache
def history_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, position of the event, item JSON) rows."""
    return _HISTORY.format(
        position=position_of(past, "event"), where=where_line(tenant), envelope=ENVELOPE
    )


@cache
def timeline_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, since, state, causes) rows."""
    return _TIMELINE.format(position=position_of(past, "execution"), line=_line(tenant))


@cache
def usage_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line or null, kind, day, amounts JSON) rows; a day in part has one a change."""
    return _USAGE.format(position=position_of(past, "execution", "run"), line=_line(tenant))


def _line(tenant: frozenset[str]) -> str:
    return _LINE.format(where=where_line(tenant))
