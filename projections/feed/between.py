"""The statement that counts the events of lines between two positions (contract, Usage)."""

from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, position_of_page, read_of
from ledger.features.feed.published import TYPES
from projections.feed.view import key_of

_OF_ALL = key_of("e.organization_id"), key_of("%(organization)s::text")
_OF_WORKSPACE = (
    key_of("e.organization_id", "e.workspace_id"),
    key_of("%(organization)s::text", "%(workspace)s::text"),
)

# The histories of lines have alerts too, but alerts change nothing of a line.
_NO_ALERT = "COALESCE(e.type, '') NOT IN ({types})".format(
    types=", ".join(f"'{type_}'" for type_ in TYPES if type_.startswith("alert."))
)

# The next events of a tenant after a position, by line: in the order of an index of the view.
_BETWEEN = """
SELECT p.position, found.line_id, found.number, found.first, found.last
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT e.line_id, count(*) AS number, min(e.position) AS first, max(e.position) AS last
    FROM (
        SELECT e.line_id, e.position FROM ledger.event AS e
        WHERE ({key}, e.position) > ({asked}, %(after)s)
          AND ({key}, e.position) <= ({asked}, p.position) AND {where} AND e.line_id IS NOT NULL
        ORDER BY {key}, e.position LIMIT %(limit)s
    ) AS e
    GROUP BY e.line_id
) AS found ON true
"""


@cache
def between_read(workspace: bool) -> Read:
    """(position, line, number of its events, first, last) rows, up to the position ``end``.

    Counts the next ``limit`` events of the ``organization``, or of one ``workspace`` of it.
    """
    key, value = _OF_WORKSPACE if workspace else _OF_ALL
    conditions = f"e.organization_id = %(organization)s AND {_NO_ALERT}"
    if workspace:
        conditions += " AND e.workspace_id = %(workspace)s"
    return read_of(
        _BETWEEN,
        "event",
        "execution",
        "run",
        planning=Planning.LONG,
        position=position_of_page("event", "execution", "run"),
        key=key,
        asked=value,
        where=conditions,
    )


YEARS = read_of(
    """
SELECT p.position, asked.at,
       extract(year FROM ledger.recorded_at(asked.at) AT TIME ZONE 'UTC')::integer
FROM ({position}) AS p LEFT JOIN unnest(%(positions)s::bigint[]) AS asked (at) ON true
""",
    "event",
    "execution",
    "run",
    planning=Planning.LONG,
    position=position_of_page("event", "execution", "run"),
)
"""(position, position of an event, year of its recording) rows."""
