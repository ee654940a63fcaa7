"""Reads of views as values, and their common parts: position, and the tenant's filter.

A statement returns position and rows in one round trip. Stored JSON is returned without parsing.
The filters of every statement limit it to the credential's tenant. Lists use keyset pagination,
never an offset.

A statement of the past has an instant as a parameter. It finds the last position recorded by then,
and for each row of its page the latest version and step at or before that position. It returns a
NULL position if the position cannot be known yet: an append may be in flight, or the view may lag.
The caller then waits and sends the statement again.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ledger.engine.postgres.pool.scope import Planning

# The position that all views of the statement have reached.
_PRESENT = "SELECT min(position) AS position FROM ledger.projection WHERE name IN ({views})"

POSITION_THEN = "COALESCE(ledger.position_by(%(as_of)s), 0)"

# The last position recorded by an instant. It is final if a later event exists (positions and
# instants rise together), on a standby also if a later beat does, or if the append in flight has
# ended since (``settled``). A standby does not know of appends in flight, and another connection
# may lead to the primary, so the statement itself asks what the server is. OFFSET 0 prevents
# inlining of the subquery: PostgreSQL would repeat the look-up at each use.
_PAST = """
SELECT CASE WHEN reached.position >= asked.position
             AND (%(settled)s AND NOT pg_is_in_recovery() OR %(as_of)s < ledger.known_until())
       THEN asked.position END AS position
FROM (SELECT min(position) AS position FROM ledger.projection WHERE name IN ({views})) AS reached,
     (SELECT {position_then} AS position) AS asked
OFFSET 0
"""

# The last position recorded by an instant, to be read after the append in flight has ended; the
# instant up to which every event is known; and True if the server is a standby. No view is read.
INSTANT = f"SELECT {POSITION_THEN}, ledger.known_until(), pg_is_in_recovery()"
RECORDED_AT = "SELECT ledger.recorded_at(%(position)s)"
AWAIT_APPEND = "SELECT ledger.await_append()"

# The lag of each view behind the log.
LAG = """
SELECT p.name, p.version, p.generation, p.position,
       COALESCE(ledger.log_end(), 0) AS head, p.stopped_at, p.error
FROM ledger.projection AS p ORDER BY p.name
"""


class Read(NamedTuple):
    """A statement that reads views, with all that follows from it."""

    sql: str
    """The statement. The rows, at least one, begin with their position."""
    views: frozenset[str]
    """The views that the statement reads."""
    planning: Planning
    is_pure: bool
    """True if the rows follow from the views' rows alone, so that a response may be cached
    (``engine/reads/answers.py``). The day and the week of the clock are then parameters."""
    is_behind_all: bool
    """True if the rows may have only events that every other live view has too, as in feeds."""


def read_of(
    statement: str,
    *views: str,
    past: bool = False,
    planning: Planning = Planning.SHORT,
    is_pure: bool = False,
    is_behind_all: bool = False,
    **parts: str,
) -> Read:
    """The read of these views by a statement, filled with its position and the parts.

    The position is the views', or an instant's, unless the parts name another one. A statement
    about the past takes long even if it follows an index.
    """
    if past and planning is Planning.SHORT:
        planning = Planning.LONG
    sql = statement.format(**{"position": position_of(past, *views)} | parts)
    return Read(sql, frozenset(views), planning, is_pure, is_behind_all)


def position_of(past: bool, *views: str) -> str:
    """A statement's part for its position: the position of the views, or of an instant."""
    names = ", ".join(f"'{view}'" for view in views)
    statement = _PAST if past else _PRESENT
    return statement.format(views=names, position_then=POSITION_THEN)


def position_of_page(*views: str) -> str:
    """The part for the position of an export's later pages: the parameter ``end``.

    After a crash of the database the views may be behind it.
    """
    names = ", ".join(f"'{view}'" for view in views)
    return f"""SELECT least(min(position), %(end)s) AS position
FROM ledger.projection WHERE name IN ({names})"""


def json_of_instant(value: str) -> str:
    """An instant as JSON text, as ``format_instant`` formats it; ``null`` if it is NULL."""
    return f"""COALESCE(rtrim(to_json({value} AT TIME ZONE 'UTC')::text, '"') || 'Z"', 'null')"""


def where_tenant(tenant: frozenset[str], row: str) -> str:
    """The condition that a row (by its alias) belongs to the credential's tenant."""
    return where(tenant, tenant_conditions(row))


def tenant_conditions(row: str) -> dict[str, str]:
    """The conditions by filter, for statements with further filters.

    ``organization`` and ``workspace`` are those of the credential, the others those of the request.
    """
    return {
        "organization": f"{row}.organization_id = %(organization)s",
        "workspace": f"{row}.workspace_id = %(workspace)s",
        "organization_id": f"{row}.organization_id = %(organization_id)s",
        "workspace_id": f"{row}.workspace_id = %(workspace_id)s",
    }


def where(filters: frozenset[str], conditions: Mapping[str, str], *always: str) -> str:
    """Join the conditions of ``always`` and of the filters with AND."""
    return " AND ".join([*always, *(conditions[name] for name in sorted(filters))]) or "true"
