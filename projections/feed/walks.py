"""Scans of ``event`` by position, along the narrowest index that the filters allow.

An index has a number made of its texts (``key_of``). PostgreSQL can choose an index only by a
condition on this number. So a scan has a condition for each index that the filters allow: bounds
for the scanned index, an equation for each other. The cheapest path to the few rows with both a
certain line and a certain type depends on how rare each of the two is.
"""

from collections.abc import Mapping, Sequence

from ledger.engine.views.statements import where
from ledger.features.feed.audited import FACT_EVENT_TYPES
from projections.feed.view import NO_FACTS, key_of

# The types of events for the requested actions of facts.
TYPES_OF_ACTIONS = f"""
SELECT told.type FROM (VALUES {", ".join(map(str, FACT_EVENT_TYPES))}) AS told (action, type)
WHERE told.action = ANY(%(action)s)
"""

TYPES = "SELECT DISTINCT unnest(%(type)s::text[])"

OWNER = ("organization", "organization_id")
WORKSPACE = ("workspace", "workspace_id")

_FILTERS_OF: Mapping[str, tuple[str, ...]] = {
    "line_id": ("service_line_id",),
    "organization_id": OWNER,
    "workspace_id": WORKSPACE,
    "actor_id": ("actor_id",),
}
"""Column of a key → the filters that give its value; the credential's own filter first."""

_CONDITIONS: Mapping[str, str] = {
    "type": "e.type = ANY(%(type)s)",
    "actor_type": "e.actor_type = %(actor_type)s",
    "action": f"""(e.action = ANY(%(action)s)
        OR e.audit = 'fact' AND e.type = ANY(ARRAY({TYPES_OF_ACTIONS})))""",
    "succeeded": "e.audit IN ('fact', 'command')",
    "refused": "e.audit = 'refused'",
    "read": "e.audit = 'read'",
    "fact": "e.audit = 'fact'",
    "no_fact": f"e.audit IN {NO_FACTS}",
    "no_organization": "e.organization_id IS NULL",
}

_KEYS = (
    ("line_id",),
    ("organization_id", "actor_id"),
    ("organization_id", "workspace_id"),
    ("organization_id",),
)
"""The columns of the keys, the narrowest key first.

(For a workspace without its organization, an administrator's request scans the whole log.)
"""

_FEW_KEYS = (("organization_id", "about_line_id"), ("organization_id",))
"""The same for entries that are not facts."""

# Bounds and order have the key of the index too. By the position alone, PostgreSQL may scan the
# whole log and filter it by the tenant.
_SCAN = """
SELECT e.* FROM ledger.event AS e
WHERE ({key}e.position) > ({value}{after}) AND ({key}e.position) <= ({value}{until}) AND {where}
ORDER BY {key_way}e.position{way} LIMIT %(limit)s
"""

# A scan per type finds a rare type without reading all other types.
_SCAN_TYPES = """
SELECT walked.* FROM ({types}) AS wanted (type) CROSS JOIN LATERAL ({walk}) AS walked
ORDER BY walked.position{way} LIMIT %(limit)s
"""

# The condition on the key of some types. For a single type, PostgreSQL's plan knows how rare it is.
_OF_TYPES = f"""
({{key}} = {{first}} OR cardinality(%(type)s::text[]) > 1
    AND {{key}} = ANY(ARRAY(SELECT {{number}} FROM ({TYPES}) AS wanted (type))))
"""

_SEES_LINE = "(SELECT ledger.sees_line(%(service_line_id)s::text))"

# A line has one tenant, which is in the line's first event. So a request for another tenant's line
# reads one row, however many events the line has.
_LINE_GATE = f"""
EXISTS (SELECT FROM (
    SELECT l.organization_id, l.workspace_id FROM ledger.event AS l
    WHERE {key_of("l.line_id")} = {key_of("%(service_line_id)s::text")}
      AND l.line_id = %(service_line_id)s
    ORDER BY {key_of("l.line_id")}, l.position LIMIT 1
) AS e WHERE {{where}})
"""

# The position of the first event recorded at or after an instant, or one beyond all events.
_POSITION_FROM = """
COALESCE((SELECT ledger.position_from(%({name})s)), 9223372036854775807)
"""


def scan(filters: frozenset[str], always: str, backwards: bool) -> str:
    """SQL: the rows along the narrowest index."""
    columns = _columns(filters)
    # Entries that are not facts have an index: they are fewer than an actor's or workspace's
    # events.
    keys = _FEW_KEYS if "no_fact" in filters else _KEYS
    walked = next((key for key in keys if set(key) <= columns.keys()), ())
    return _scan_by(walked, filters, columns, always, backwards)


def scan_types(types: str, filters: frozenset[str], always: str, backwards: bool) -> str:
    """SQL: the rows of one scan per type, in the order of all together."""
    columns = {**_columns(filters), "type": "wanted.type"}
    walked = ("organization_id", "type")
    rows = _scan_by(walked, filters - {"type", "action"}, columns, always, backwards)
    return _SCAN_TYPES.format(types=types, walk=rows, way=way(backwards))


def way(backwards: bool) -> str:
    """The direction of a scan, the same for every column: one index then serves both directions."""
    return " DESC" if backwards else ""


def _columns(filters: frozenset[str]) -> dict[str, str]:
    """The columns whose value the filters give, each with its value in SQL.

    Entries that are not facts use ``about_line_id``: a refusal is not an event of its line.
    """
    values = {
        column: next((f"%({name})s::text" for name in names if name in filters), None)
        for column, names in _FILTERS_OF.items()
    }
    if "no_fact" in filters:
        values["about_line_id"] = values.pop("line_id")
    return {column: value for column, value in values.items() if value is not None}


def _scan_by(
    walked: Sequence[str],
    filters: frozenset[str],
    columns: Mapping[str, str],
    always: str,
    backwards: bool,
) -> str:
    key, direction = _key(walked), way(backwards)
    return _SCAN.format(
        key=f"{key}, " if walked else "",
        value=f"{key_of(*(columns[c] for c in walked))}, " if walked else "",
        key_way=f"{key}{direction}, " if walked else "",
        way=direction,
        where=where(
            filters & _CONDITIONS.keys(),
            _CONDITIONS,
            always,
            *_gates(filters, columns),
            *_equations(walked, filters, columns),
        ),
        **_bounds(filters, backwards),
    )


def _gates(filters: frozenset[str], columns: Mapping[str, str]) -> list[str]:
    """Conditions on parameters alone, true if the filters allow any row."""
    gates = [
        f"%({named})s::text = %({own})s::text"
        for own, named in (OWNER, WORKSPACE)
        if {own, named} <= filters
    ]
    if "line_id" in columns:
        tenant = columns.keys() & {"organization_id", "workspace_id"}
        gates.append(_SEES_LINE)
        own = [f"e.{column} = {columns[column]}" for column in sorted(tenant)]
        gates += [_LINE_GATE.format(where=" AND ".join(own))] if own else []
    return gates


def _equations(
    walked: Sequence[str], filters: frozenset[str], columns: Mapping[str, str]
) -> list[str]:
    keys = [key for key in _KEYS[:-1] if set(key) <= columns.keys() and key != tuple(walked)]
    equations = [f"{_key(key)} = {key_of(*(columns[c] for c in key))}" for key in keys]
    if "type" in filters and "organization_id" in columns:
        equations.append(
            _OF_TYPES.format(
                key=key_of("e.organization_id", "e.type"),
                first=key_of(columns["organization_id"], "(%(type)s::text[])[1]"),
                number=key_of(columns["organization_id"], "wanted.type"),
            )
        )
    same = " AND ".join(f"e.{column} = {value}" for column, value in columns.items())
    # COALESCE hides the columns from the planner: the keys already count their part of the rows.
    return [*equations, f"COALESCE({same}, false)"] if same else equations


def _key(columns: Sequence[str]) -> str:
    return key_of(*(f"e.{column}" for column in columns))


def _bounds(filters: frozenset[str], backwards: bool) -> dict[str, str]:
    """The positions between which to scan. Bounds in time are not compared row by row."""
    after, ends = "%(after)s", ["p.position"]
    if "from" in filters:
        after = f"GREATEST(%(after)s, {_POSITION_FROM.format(name='from')} - 1)"
    if "to" in filters:
        ends.append(f"{_POSITION_FROM.format(name='to')} - 1")
    if backwards:
        ends.append("%(before)s - 1")
    return {"after": after, "until": f"LEAST({', '.join(ends)})" if ends[1:] else ends[0]}
