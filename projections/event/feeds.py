"""The statements behind feeds and the audit log: one table, one order (contract 5).

Both walk ``event`` by position, through the narrowest index that the filters allow: upwards, as
programs follow it, or backwards, as people look at it. Bounds in time become bounds in position,
since instants of recording rise with it.
"""

from collections.abc import Mapping
from functools import cache

from ledger.language.audited import FACT_EVENT_TYPES
from ledger.views.statements import tenant_conditions, where

ENVELOPE = (
    """'"id":"EVT-' || e.number || '","type":"' || e.type || '",' || e.told || ',' || e.said"""
)
"""JSON members of the envelope of an event ``e``."""

_ENTRY = """'{"id":"AUD-' || e.number || '",' || e.audited || ',' || e.told || '}'"""

# Feeds go as far as every view that is not stopped, so that any read after an event was heard shows
# the event. Other views that are stopped hold nothing back; a feed whose own view is stopped ends.
FEED_POSITION = """
SELECT min(position) AS position FROM ledger.projection
WHERE name = 'event' OR stopped_at IS NULL
"""

# The view's own position: for single events, which never change, and for the audit log.
_VIEW_POSITION = "SELECT min(position) AS position FROM ledger.projection WHERE name = 'event'"

# The position from which on events were recorded at or after an instant; past every one if none.
_POSITION_FROM = """
COALESCE((SELECT notification_id FROM ledger.ledger_events
          WHERE recorded_at >= %({name})s ORDER BY recorded_at LIMIT 1), 9223372036854775807)
"""

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("e"),
    "organization_id": "e.organization_id = %(organization_id)s",
    "workspace_id": "e.workspace_id = %(workspace_id)s",
    "service_line_id": "e.line_id = %(service_line_id)s",
    "type": "e.type = ANY(%(type)s)",
    "actor_id": "e.actor_id = %(actor_id)s",
    "actor_type": "e.actor_type = %(actor_type)s",
    "action": "e.action = ANY(%(action)s)",
    "succeeded": "e.audit IN ('fact', 'command')",
    "refused": "e.audit = 'refused'",
    "fact": "e.audit = 'fact'",
    "no_fact": "e.audit IN ('command', 'refused')",
}
"""``organization`` and ``workspace`` are the credential's own."""

_SAME = (("organization_id", "organization"), ("workspace_id", "workspace"))
"""(what is asked for, the credential's own): compared before any row is looked at."""

_TENANT = frozenset(name for pair in _SAME for name in pair)
_OWNER = frozenset(_SAME[0])

_BEFORE_ACTIONS = frozenset({"actor_id", "actor_type", "workspace", "workspace_id", "no_fact"})
"""Filters of the audit log that say where to walk, so that actions are looked at on the way. (Of a
type and a kind of actor PostgreSQL expects so few that it would not walk, but sort.)"""

# A line's events are all of one tenant: its first one tells whose, so that another's line costs
# one row, however long it is.
_LINE_GATE = """
EXISTS (SELECT FROM (
    SELECT l.organization_id, l.workspace_id FROM ledger.event AS l
    WHERE l.line_id = %(service_line_id)s ORDER BY l.line_id, l.position LIMIT 1
) AS e WHERE {where})
"""

_WALKS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("service_line_id",),),
    (("actor_id",), ("organization", "organization_id")),
    (("organization", "organization_id"), ("workspace", "workspace_id")),
    (("organization", "organization_id"),),
)
"""Indexes that end in the position, the narrowest first: for each of their columns the filters that
give its value. (An administrator who asks for a workspace names its organization, or walks all.)"""

_PAGE = """
SELECT p.position, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL ({rows}) AS page ON true
ORDER BY page.position{way}
"""

# The bounds and the order name the column too, as its index does: with the position alone
# PostgreSQL may walk the whole log and look for the tenant in it.
_WALK = """
SELECT e.position, {item} AS item FROM ledger.event AS e
WHERE ({column}e.position) > ({value}{after}) AND ({column}e.position) <= ({value}{until})
  AND {where}
ORDER BY {order} LIMIT %(limit)s
"""

# Each type is walked by itself, so that a rare type is found without a walk through all others.
_WALK_TYPES = """
SELECT one.position, one.item
FROM ({types}) AS wanted (type) CROSS JOIN LATERAL (
    SELECT e.position, {item} AS item FROM ledger.event AS e
    WHERE (e.organization_id, e.type, e.position) > ({value}wanted.type, {after})
      AND (e.organization_id, e.type, e.position) <= ({value}wanted.type, {until})
      AND {where}
    ORDER BY e.organization_id{way}, e.type{way}, e.position{way} LIMIT %(limit)s
) AS one
ORDER BY one.position{way} LIMIT %(limit)s
"""

_TYPES = "SELECT DISTINCT unnest(%(type)s::text[])"

# The types of facts by what the audit log calls them. (Actions need not be looked at any more.)
_TYPES_OF_ACTIONS = f"""
SELECT told.type FROM (VALUES {", ".join(map(str, FACT_EVENT_TYPES))}) AS told (action, type)
WHERE told.action = ANY(%(action)s)
"""

# Entries by actions: facts are found by their types; commands and refusals have no type, since no
# history tells them, and are found apart. Each type costs a page of rows: where many actions of
# facts are asked for, most entries fit, and all entries are looked at. (The number of actions is a
# sum of comparisons and not a count of rows: so PostgreSQL knows it when it plans.)
_FEW_ACTIONS = "{} <= 8".format(
    " + ".join(
        f"('{action}' = ANY(%(action)s::text[]))::int"
        for action in dict.fromkeys(action for action, _ in FACT_EVENT_TYPES)
    )
)
_WALK_ACTIONS = f"""
(SELECT * FROM ({{facts}}) AS e WHERE {_FEW_ACTIONS})
UNION ALL (SELECT * FROM ({{others}}) AS e WHERE {_FEW_ACTIONS})
UNION ALL (SELECT * FROM ({{all}}) AS e WHERE NOT {_FEW_ACTIONS})
ORDER BY position{{way}} LIMIT %(limit)s
"""

# All that feeds carry after a position, with what a stream is chosen by.
TAIL = f"""
SELECT p.position, page.*
FROM ({FEED_POSITION}) AS p
LEFT JOIN LATERAL (
    SELECT e.position AS at, e.organization_id, e.workspace_id, e.line_id, e.type,
        '{{' || {ENVELOPE} || '}}' AS item
    FROM ledger.event AS e
    WHERE e.in_feed AND e.position > %(after)s AND e.position <= p.position
    ORDER BY e.position LIMIT %(limit)s
) AS page ON true
ORDER BY page.at
"""

# Where feeds end, and the number of the event there.
PRESENT = f"""
SELECT p.position, e.number
FROM ({FEED_POSITION}) AS p LEFT JOIN ledger.event AS e ON e.position = p.position
"""

_ONE = """
SELECT p.position, e.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT '{{' || {envelope} || '}}' AS item FROM ledger.event AS e
    WHERE e.position = %(at)s AND e.number = %(number)s AND e.position <= p.position
      AND {where}
) AS e ON true
"""


@cache
def feed_statement(filters: frozenset[str], backwards: bool = False) -> str:
    """(position, event's position, envelope JSON) rows; one of nulls where there is none.

    Those after ``after``; ``backwards`` the last of them before ``before``, the newest first.
    """
    item = f"'{{' || {ENVELOPE} || '}}'"
    if "type" in filters and filters & _OWNER and "service_line_id" not in filters:
        rows = _walk_types(_TYPES, item, filters, "e.in_feed", backwards)
    else:
        rows = _walk(item, filters, "e.in_feed", backwards)
    return _PAGE.format(position=FEED_POSITION, rows=rows, way=_way(backwards))


@cache
def audit_statement(filters: frozenset[str], backwards: bool = False) -> str:
    """(position, entry's position, entry JSON) rows; one of nulls where there is none."""
    always = "e.audit IS NOT NULL"
    rows = _walk(_ENTRY, filters, always, backwards)
    if "action" in filters and filters & _OWNER and not filters & _BEFORE_ACTIONS:
        rows = _WALK_ACTIONS.format(
            facts=_walk_types(_TYPES_OF_ACTIONS, _ENTRY, filters | {"fact"}, always, backwards),
            others=_walk(_ENTRY, filters | {"no_fact"}, always, backwards),
            all=rows,
            way=_way(backwards),
        )
    return _PAGE.format(position=_VIEW_POSITION, rows=rows, way=_way(backwards))


@cache
def event_statement(tenant: frozenset[str]) -> str:
    """One (position, envelope JSON or null) row."""
    visible = where(tenant, _FILTERS, "e.in_feed")
    return _ONE.format(position=_VIEW_POSITION, envelope=ENVELOPE, where=visible)


def _walk(item: str, filters: frozenset[str], always: str, backwards: bool) -> str:
    gates, plain = _told_apart(filters)
    fixed = _fixed(plain)
    plain -= fixed.keys()
    if "service_line_id" in fixed and plain & _TENANT:
        gates.append(_LINE_GATE.format(where=where(plain & _TENANT, _FILTERS)))
        plain -= _TENANT
    return _WALK.format(
        item=item,
        column="".join(f"{column}, " for column in fixed.values()),
        value="".join(f"%({name})s, " for name in fixed),
        where=where(plain, _FILTERS, always, *gates),
        order=", ".join(f"{name}{_way(backwards)}" for name in (*fixed.values(), "e.position")),
        **_bounds(filters, backwards),
    )


def _walk_types(
    types: str, item: str, filters: frozenset[str], always: str, backwards: bool
) -> str:
    gates, plain = _told_apart(filters)
    (owner,) = plain & _OWNER
    return _WALK_TYPES.format(
        types=types,
        item=item,
        value=f"%({owner})s, ",
        where=where(plain - {owner, "type", "action"}, _FILTERS, always, *gates),
        way=_way(backwards),
        **_bounds(filters, backwards),
    )


def _way(backwards: bool) -> str:
    """The direction, the same for every column, so that one index serves both directions."""
    return " DESC" if backwards else ""


def _fixed(filters: frozenset[str]) -> dict[str, str]:
    """The filters (each with its column) that lead to an index, the narrowest there is."""
    # Commands and refusals have an index of their own: they are fewer than what one actor reports.
    leading = filters - {"actor_id"} if "no_fact" in filters else filters
    for columns in _WALKS:
        names = [next((name for name in choice if name in leading), None) for choice in columns]
        if None not in names:
            return {name: _FILTERS[name].split(" = ")[0] for name in names if name is not None}
    return {}


def _told_apart(filters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """(conditions about parameters alone, the filters left to be looked up in rows)."""
    both = [(asked, own) for asked, own in _SAME if {asked, own} <= filters]
    gates = [f"%({asked})s::text = %({own})s::text" for asked, own in both]
    return gates, filters - {asked for asked, _ in both} - {"from", "to"}


def _bounds(filters: frozenset[str], backwards: bool) -> dict[str, str]:
    """Between which positions a walk goes. Bounds in time are not compared row by row."""
    after, ends = "%(after)s", ["p.position"]
    if "from" in filters:
        after = f"GREATEST(%(after)s, {_POSITION_FROM.format(name='from')} - 1)"
    if "to" in filters:
        ends.append(f"{_POSITION_FROM.format(name='to')} - 1")
    if backwards:
        ends.append("%(before)s - 1")
    return {"after": after, "until": f"LEAST({', '.join(ends)})" if ends[1:] else ends[0]}
