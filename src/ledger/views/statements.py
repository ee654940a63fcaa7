"""What the statements that read views have in common: where views stand, and who may see a row.

A statement answers in one round trip, position and rows together, and its bytes come out as stored:
nothing is parsed on the way. Every statement is scoped by the credential's tenant through its
filters; lists are walked by key, never by offset.

A statement of the past is given an instant. It finds the last position recorded by then, and for
each row of its page the latest version and step at or before it. Its position is null where that
cannot be told yet: an append may be in flight, or the view is not so far (``await`` and repeat).
"""

from collections.abc import Mapping

# The position that all views of a statement have reached.
_PRESENT = "SELECT min(position) AS position FROM ledger.projection WHERE name IN ({views})"

POSITION_THEN = """
COALESCE((SELECT notification_id FROM ledger.ledger_events
          WHERE recorded_at <= %(as_of)s ORDER BY recorded_at DESC LIMIT 1), 0)
"""

# The last position recorded by an instant: known for good once a later event is there (positions
# and instants rise together), or once the append in flight was waited for. OFFSET 0 keeps it one
# look-up: PostgreSQL would else put the expression wherever the position is used. And a later event
# is looked for from the log's end: EXISTS would read the log from its beginning.
_PAST = """
SELECT CASE WHEN reached.position >= asked.position
             AND (%(settled)s OR %(as_of)s < (SELECT recorded_at FROM ledger.ledger_events
                                              ORDER BY recorded_at DESC LIMIT 1))
       THEN asked.position END AS position
FROM (SELECT min(position) AS position FROM ledger.projection WHERE name IN ({views})) AS reached,
     (SELECT {position_then} AS position) AS asked
OFFSET 0
"""

# The last position recorded by an instant, without a view, once the append in flight has ended; and
# how far the log's clock is.
INSTANT = f"""
SELECT {POSITION_THEN},
       (SELECT recorded_at FROM ledger.ledger_events ORDER BY recorded_at DESC LIMIT 1)
"""
RECORDED_AT = "SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = %(position)s"
AWAIT_APPEND = "SELECT ledger.await_append()"

# How far each view is behind the log.
LAG = """
SELECT p.name, p.version, p.generation, p.position,
       COALESCE((SELECT max(notification_id) FROM ledger.ledger_events), 0) AS head,
       p.stopped_at, p.error
FROM ledger.projection AS p ORDER BY p.name
"""


def position_of(past: bool, *views: str) -> str:
    """The part of a statement that gives its position: the views', or the asked instant's."""
    names = ", ".join(f"'{view}'" for view in views)
    return (_PAST if past else _PRESENT).format(views=names, position_then=POSITION_THEN)


def where_tenant(tenant: frozenset[str], row: str) -> str:
    """The condition that a row, known under this name, is of the credential's own tenant."""
    return where(tenant, tenant_conditions(row))


def tenant_conditions(row: str) -> Mapping[str, str]:
    """The conditions of ``where_tenant`` by filter, for statements that have further filters."""
    return {
        "organization": f"{row}.organization_id = %(organization)s",
        "workspace": f"{row}.workspace_id = %(workspace)s",
    }


def where(filters: frozenset[str], conditions: Mapping[str, str], *always: str) -> str:
    """The condition that the filters make together, after the conditions that ``always`` hold."""
    return " AND ".join([*always, *(conditions[name] for name in sorted(filters))]) or "true"
