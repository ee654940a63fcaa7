"""The statement that reads the names of lines, which other pages than a line's own show."""

from functools import cache

from ledger.views.statements import position_of
from projections.execution.statements import where_line

_NAMES = """
SELECT p.position, line.line_id, ('{{' || line.head || '}}')::json ->> 'name'
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, {head} AS head FROM ledger.execution AS l
    WHERE l.line_id = ANY(%(ids)s) AND {where}
) AS line ON true
"""

# The head as it was at the position. The subquery finds none for a line that was not known then.
_HEAD_THEN = """(
    SELECT v.head FROM ledger.execution_version AS v
    WHERE v.line_key = l.line_key AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
)"""


@cache
def names_statement(tenant: frozenset[str], past: bool = False) -> str:
    """(position, line, name) rows; nulls for what is not known or has no name."""
    return _NAMES.format(
        position=position_of(past, "execution"),
        head=_HEAD_THEN if past else "l.head",
        where=where_line(tenant),
    )
