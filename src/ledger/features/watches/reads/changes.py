"""The statement that tells the past of lines as a watch needs it: states, and open blockers.

All is told by effective time, as it is known now: a late fact counts when it happened.
"""

from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, read_of
from projections.lines.filters import where_line

# The changes of a page of lines from the last one by ``from`` before which nothing held. A line
# without any has one row, of nulls. Blockers come with the events that open and clear them.
_CHANGES = """
WITH found AS MATERIALIZED (
    SELECT p.position AS reached, l.record_key, l.line_id, l.name, i.opened, i.since, i.state
    FROM ({position}) AS p
    LEFT JOIN LATERAL (
        SELECT l.record_key, l.line_id, l.line_key,
               ('{{' || l.head || '}}')::json ->> 'name' AS name
        FROM ledger.execution AS l
        WHERE {where} ORDER BY l.record_key DESC LIMIT %(limit)s
    ) AS l ON true
    LEFT JOIN LATERAL (
        SELECT i.opened, i.since, i.state FROM ledger.execution_interval AS i
        WHERE i.line_key = l.line_key AND i.opened <= p.position AND i.since < %(to)s AND {counts}
          AND i.opened >= COALESCE((
              SELECT b.opened FROM ledger.execution_interval AS b
              WHERE b.line_key = l.line_key AND b.opened <= p.position AND b.since <= %(from)s
                AND {is_over}
              ORDER BY b.opened DESC LIMIT 1), 0)
    ) AS i ON true
)
SELECT found.*, s.stream, s.version, s.topic, s.state
FROM found
LEFT JOIN ledger.stored_events(ARRAY(SELECT opened FROM found WHERE {is_told})) AS s
    ON s.position = found.opened
ORDER BY found.record_key DESC, found.opened
"""


@cache
def states_read(filters: frozenset[str]) -> Read:
    """(position, record key, line, its name, position of a change, its time, state, event) rows.

    The changes of state; the event is that of a state in ``states``.
    """
    return _read(
        filters, "i.turned", "b.turned AND b.state <> ALL(%(states)s)", "state = ANY(%(states)s)"
    )


@cache
def blockers_read(filters: frozenset[str]) -> Read:
    """Rows as of ``states_read``: the changes of open blockers, each with its event."""
    changed = """i.open_blockers <> COALESCE((
              SELECT b.open_blockers FROM ledger.execution_interval AS b
              WHERE b.line_key = i.line_key AND b.opened < i.opened
              ORDER BY b.opened DESC LIMIT 1), 0)"""
    return _read(filters, changed, "b.open_blockers = 0", "true")


def _read(filters: frozenset[str], counts: str, is_over: str, is_told: str) -> Read:
    return read_of(
        _CHANGES,
        "execution",
        planning=Planning.LONG,
        where=where_line(filters),
        counts=counts,
        is_over=is_over,
        is_told=is_told,
    )
