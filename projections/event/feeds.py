"""The statements behind feeds and the audit log: one table, one order (contract, Feeds).

Feeds and audit log walk ``event`` by position (keyset pagination), through the narrowest index that
the filters allow: forwards for programs that follow the log, backwards for people who look at the
latest events. Bounds in time become bounds in position, since instants of recording rise with
positions.
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

# Feeds go only as far as the slowest view that is not stopped. So a client that has received an
# event sees it in every later read. Other views that are stopped do not hold feeds back; if the
# view ``event`` itself is stopped, feeds do not go on.
FEED_POSITION = """
SELECT min(position) AS position FROM ledger.projection
WHERE name = 'event' OR stopped_at IS NULL
"""

# The position of the view ``event``: for single events, which never change, and the audit log.
_VIEW_POSITION = "SELECT min(position) AS position FROM ledger.projection WHERE name = 'event'"

# The position of the first event recorded at or after an instant; if there is none, a position
# beyond all others.
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
"""Conditions by filter; ``organization`` and ``workspace`` are those of the credential."""

_SAME = (("organization_id", "organization"), ("workspace_id", "workspace"))
"""(requested filter, the credential's own): compared with each other before any row is read."""

_TENANT = frozenset(name for pair in _SAME for name in pair)
_OWNER = frozenset(_SAME[0])

_BEFORE_ACTIONS = frozenset({"actor_id", "actor_type", "workspace", "workspace_id", "no_fact"})
"""Filters of the audit log that determine the walk, during which each row's action is compared.

(Of rows with a certain type and a certain kind of actor, PostgreSQL expects so few that it would
sort them instead of walking an index.)
"""

# A line has one tenant, which the line's first event tells. So a request for another tenant's line
# reads one row, however many events the line has.
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
"""The indexes that end in the position, the narrowest first.

For each column of an index: the filters that give its value. (If an administrator asks for a
workspace without its organization, the whole log is walked.)
"""

_PAGE = """
SELECT p.position, page.position, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL ({rows}) AS page ON true
ORDER BY page.position{way}
"""

# The bounds and the order name the columns of the index too. With the position alone, PostgreSQL
# may walk the whole log and filter it by the tenant.
_WALK = """
SELECT e.position, {item} AS item FROM ledger.event AS e
WHERE ({column}e.position) > ({value}{after}) AND ({column}e.position) <= ({value}{until})
  AND {where}
ORDER BY {order} LIMIT %(limit)s
"""

# A separate walk for each type, so that a rare type is found without reading all other types.
_WALK_TYPES = """
SELECT walked.position, walked.item
FROM ({types}) AS wanted (type) CROSS JOIN LATERAL (
    SELECT e.position, {item} AS item FROM ledger.event AS e
    WHERE (e.organization_id, e.type, e.position) > ({value}wanted.type, {after})
      AND (e.organization_id, e.type, e.position) <= ({value}wanted.type, {until})
      AND {where}
    ORDER BY e.organization_id{way}, e.type{way}, e.position{way} LIMIT %(limit)s
) AS walked
ORDER BY walked.position{way} LIMIT %(limit)s
"""

_TYPES = "SELECT DISTINCT unnest(%(type)s::text[])"

# The types of events for the requested actions of facts. (The walks need no filter by action then.)
_TYPES_OF_ACTIONS = f"""
SELECT told.type FROM (VALUES {", ".join(map(str, FACT_EVENT_TYPES))}) AS told (action, type)
WHERE told.action = ANY(%(action)s)
"""

# Entries by actions. Facts are found by the types of their events. Commands and refusals may have
# no type, so they are found by an index of their own. The walk of each type costs a page of rows.
# If many actions of facts are requested, most entries match, so all entries are walked instead.
# (The number of requested actions is a sum of comparisons, not a count of rows, so that PostgreSQL
# knows the number when it plans.)
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

# The feed's events after a position, with the columns by which the streams of clients filter.
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

# The position where feeds end, and the number of the event there.
PRESENT = f"""
SELECT p.position, e.number
FROM ({FEED_POSITION}) AS p LEFT JOIN ledger.event AS e ON e.position = p.position
"""

_EVENT = """
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
    """(position, event's position, envelope JSON) rows; a row of nulls if there is no event.

    The events after ``after``, the oldest first; with ``backwards`` only those before ``before``,
    the newest first.
    """
    item = f"'{{' || {ENVELOPE} || '}}'"
    if "type" in filters and filters & _OWNER and "service_line_id" not in filters:
        rows = _walk_types(_TYPES, item, filters, "e.in_feed", backwards)
    else:
        rows = _walk(item, filters, "e.in_feed", backwards)
    return _PAGE.format(position=FEED_POSITION, rows=rows, way=_way(backwards))


@cache
def audit_statement(filters: frozenset[str], backwards: bool = False) -> str:
    """(position, entry's position, entry JSON) rows; a row of nulls if there is no entry."""
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
    """A single (position, envelope JSON or null) row."""
    visible = where(tenant, _FILTERS, "e.in_feed")
    return _EVENT.format(position=_VIEW_POSITION, envelope=ENVELOPE, where=visible)


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
    """The direction of a walk, the same for every column: one index then serves both directions."""
    return " DESC" if backwards else ""


def _fixed(filters: frozenset[str]) -> dict[str, str]:
    """The filters (each with its column) that select the narrowest index."""
    # Commands and refusals have an index of their own: there are fewer of them than one actor's
    # events.
    leading = filters - {"actor_id"} if "no_fact" in filters else filters
    for columns in _WALKS:
        names = [next((name for name in choice if name in leading), None) for choice in columns]
        if None not in names:
            return {name: _FILTERS[name].split(" = ")[0] for name in names if name is not None}
    return {}


def _told_apart(filters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """(conditions on parameters alone, the filters that remain to be compared with rows)."""
    both = [(asked, own) for asked, own in _SAME if {asked, own} <= filters]
    gates = [f"%({asked})s::text = %({own})s::text" for asked, own in both]
    return gates, filters - {asked for asked, _ in both} - {"from", "to"}


def _bounds(filters: frozenset[str], backwards: bool) -> dict[str, str]:
    """The positions between which a walk goes. Bounds in time are not compared row by row."""
    after, ends = "%(after)s", ["p.position"]
    if "from" in filters:
        after = f"GREATEST(%(after)s, {_POSITION_FROM.format(name='from')} - 1)"
    if "to" in filters:
        ends.append(f"{_POSITION_FROM.format(name='to')} - 1")
    if backwards:
        ends.append("%(before)s - 1")
    return {"after": after, "until": f"LEAST({', '.join(ends)})" if ends[1:] else ends[0]}
