"""The statements behind feeds and the audit log: one table, one order (contract 5).

Both walk ``event`` by position, through the narrowest index that the filters allow. Bounds in time
become bounds in position, since instants of recording rise with it.
"""

from collections.abc import Mapping
from functools import cache

ENVELOPE = (
    """'"id":"EVT-' || e.number || '","type":"' || e.type || '",' || e.told || ',' || e.said"""
)
"""JSON members of the envelope of an event ``e``."""

_ENTRY = """'{"id":"AUD-' || e.number || '",' || e.audited || ',' || e.told || '}'"""

# How far feeds go: not beyond any view that is alive, so that what is read after an event has been
# heard of shows it. A stopped view holds nothing back; where the feed's own is stopped, it ends.
_FEED_POSITION = """
SELECT min(position) AS position FROM ledger.projection
WHERE name = 'event' OR stopped_at IS NULL
"""

_AUDIT_POSITION = "SELECT min(position) AS position FROM ledger.projection WHERE name = 'event'"

# The position from which on events were recorded at or after an instant; past every one if none.
_POSITION_FROM = """
COALESCE((SELECT notification_id FROM ledger.ledger_events
          WHERE recorded_at >= %({name})s ORDER BY recorded_at LIMIT 1), 9223372036854775807)
"""

_FILTERS: Mapping[str, str] = {
    "organization": "e.organization_id = %(organization)s",
    "workspace": "e.workspace_id = %(workspace)s",
    "organization_id": "e.organization_id = %(organization_id)s",
    "workspace_id": "e.workspace_id = %(workspace_id)s",
    "service_line_id": "e.line_id = %(service_line_id)s",
    "type": "e.type = ANY(%(type)s)",
    "actor_id": "e.actor_id = %(actor_id)s",
    "actor_type": "e.actor_type = %(actor_type)s",
    "action": "e.action = ANY(%(action)s)",
    "succeeded": "e.audit IN ('fact', 'command')",
    "refused": "e.audit = 'refused'",
    "no_fact": "e.audit IN ('command', 'refused')",
    "from": f"e.position >= {_POSITION_FROM.format(name='from')}",
    "to": f"e.position < {_POSITION_FROM.format(name='to')}",
}
"""``organization`` and ``workspace`` are the credential's own."""

_WALKS: tuple[tuple[str, str], ...] = (
    ("service_line_id", "line_id"),
    ("workspace", "workspace_id"),
    ("workspace_id", "workspace_id"),
    ("organization", "organization_id"),
    ("organization_id", "organization_id"),
)
"""(filter, column) of the indexes that end in the position, the narrowest first."""

_PAGE = """
SELECT p.position, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL ({rows}) AS page ON true
ORDER BY page.position
"""

# The bounds and the order name the column too, as its index does: with the position alone
# PostgreSQL may walk the whole log and look for the tenant in it.
_WALK = """
SELECT e.position, {item} AS item FROM ledger.event AS e
WHERE ({column}e.position) > ({value}%(after)s) AND ({column}e.position) <= ({value}p.position)
  AND {where}
ORDER BY {column}e.position LIMIT %(limit)s
"""

# Each type by itself, so that a rare one is found without a walk through all others.
_WALK_TYPES = """
SELECT one.position, one.item
FROM (SELECT DISTINCT unnest(%(type)s::text[])) AS wanted (type) CROSS JOIN LATERAL (
    SELECT e.position, {item} AS item FROM ledger.event AS e
    WHERE (e.organization_id, e.type, e.position) > ({value}wanted.type, %(after)s)
      AND (e.organization_id, e.type, e.position) <= ({value}wanted.type, p.position)
      AND {where}
    ORDER BY e.organization_id, e.type, e.position LIMIT %(limit)s
) AS one
ORDER BY one.position LIMIT %(limit)s
"""

# All that feeds carry after a position, with what a stream is chosen by.
TAIL = f"""
SELECT p.position, page.*
FROM ({_FEED_POSITION}) AS p
LEFT JOIN LATERAL (
    SELECT e.position AS at, e.organization_id, e.workspace_id, e.line_id, e.type, e.number,
        '{{' || {ENVELOPE} || '}}' AS item
    FROM ledger.event AS e
    WHERE e.in_feed AND e.position > %(after)s AND e.position <= p.position
    ORDER BY e.position LIMIT %(limit)s
) AS page ON true
ORDER BY page.at
"""

FEED_POSITION = _FEED_POSITION

_ONE = """
SELECT p.position, e.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT '{{' || {envelope} || '}}' AS item FROM ledger.event AS e
    WHERE e.position = %(at)s AND e.number = %(number)s AND e.position <= p.position
      AND e.in_feed AND {where}
) AS e ON true
"""


@cache
def feed_statement(filters: frozenset[str]) -> str:
    """(position, event's position, envelope JSON) rows; one of nulls where there is none."""
    item = f"'{{' || {ENVELOPE} || '}}'"
    owner = next((f for f in ("organization", "organization_id") if f in filters), None)
    if "type" in filters and owner is not None and "service_line_id" not in filters:
        rows = _WALK_TYPES.format(
            item=item, value=f"%({owner})s, ", where=_where(filters - {owner, "type"}, "in_feed")
        )
    else:
        rows = _walk(item, filters, "in_feed")
    return _PAGE.format(position=_FEED_POSITION, rows=rows)


@cache
def audit_statement(filters: frozenset[str]) -> str:
    """(position, entry's position, entry JSON) rows; one of nulls where there is none."""
    rows = _walk(_ENTRY, filters, "audit IS NOT NULL")
    return _PAGE.format(position=_AUDIT_POSITION, rows=rows)


@cache
def event_statement(tenant: frozenset[str]) -> str:
    """One (position, envelope JSON or null) row."""
    return _ONE.format(position=_FEED_POSITION, envelope=ENVELOPE, where=_where(tenant, "in_feed"))


def _walk(item: str, filters: frozenset[str], always: str) -> str:
    walk = next((one for one in _WALKS if one[0] in filters), None)
    column = value = ""
    if walk is not None:
        name, indexed = walk
        column, value, filters = f"e.{indexed}, ", f"%({name})s, ", filters - {name}
    return _WALK.format(item=item, column=column, value=value, where=_where(filters, always))


def _where(filters: frozenset[str], always: str) -> str:
    return " AND ".join([f"e.{always}", *(_FILTERS[name] for name in sorted(filters))])
