"""The statement that finds the events which changed the numbers of a period (contract, Statements).

The views have a row for each change of a line's days, state or causes. So no event is decoded.
"""

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import position_of_page, read_of

MOST_EVENTS = 100

_OF_DAYS = """d.line_key = ANY(%(lines)s::bigint[]) AND d.day BETWEEN %(first)s AND %(last)s
          AND d.position > %(after)s AND d.position <= p.position"""

# Events recorded after a position: check-ins and voids of the period; starts of its runs (an ending
# does not change their number); endings and corrections that changed its tokens; changes of state
# or causes that last for a part of it.
_CAUSES = f"""
SELECT p.position, found.line_key, found.event, ledger.recorded_at(found.event), found.number
FROM ({{position}}) AS p
LEFT JOIN LATERAL (
    SELECT c.line_key, c.event, count(*) OVER of_line AS number,
           row_number() OVER (of_line ORDER BY c.event) AS place
    FROM (
        SELECT d.line_key, d.position AS event FROM ledger.execution_day AS d
        WHERE {_OF_DAYS} AND d.at >= %(from)s AND d.at < %(to)s
        UNION
        SELECT d.line_key, d.position FROM ledger.run_day AS d
        WHERE {_OF_DAYS} AND (
            d.ended_at >= %(from)s AND d.ended_at < %(to)s
            OR d.started_at >= %(from)s AND d.started_at < %(to)s
            AND d.running + d.completed + d.failed + d.cancelled <> COALESCE((
                SELECT b.running + b.completed + b.failed + b.cancelled FROM ledger.run_day AS b
                WHERE b.line_key = d.line_key AND b.day = d.day AND b.position < d.position
                ORDER BY b.position DESC LIMIT 1), 0)
        )
        UNION
        SELECT i.line_key, i.opened FROM ledger.execution_interval AS i
        WHERE i.line_key = ANY(%(lines)s::bigint[]) AND i.turned AND i.since < %(to)s
          AND i.opened > %(after)s AND i.opened <= p.position
          AND COALESCE((
              SELECT n.since FROM ledger.execution_interval AS n
              WHERE n.line_key = i.line_key AND n.turned AND n.opened > i.opened
                AND n.opened <= p.position
              ORDER BY n.opened LIMIT 1), 'infinity') > greatest(i.since, %(from)s)
    ) AS c
    WINDOW of_line AS (PARTITION BY c.line_key)
) AS found ON found.place <= {MOST_EVENTS}
ORDER BY found.line_key, found.event
"""

CAUSES = read_of(
    _CAUSES,
    "execution",
    "run",
    planning=Planning.BY_VALUES,
    position=position_of_page("execution", "run"),
)
"""(position, line key, event, instant of recording, number of all events) rows of ``lines``.

Events between the positions ``after`` and ``end``; nulls if there is none.
"""
