"""The statements that read lines and runs, as they are and as they were. (Lists: ``lists.py``.)

Each answers in one round trip, position and rows together, and its bytes come out as stored:
nothing is parsed on the way. Every one is scoped by the credential's tenant through the filters
below; lists are walked by key, never by offset.

A statement of the past is given an instant. It finds the last position recorded by then, and for
each row of its page the latest version and step at or before it. Its position is null where that
cannot be told yet: an append may be in flight, or the view is not so far (``await`` and repeat).
"""

from collections.abc import Mapping
from functools import cache

_STATIC_FILTERS: Mapping[str, str] = {
    "organization": "l.organization_id = %(organization)s",
    "workspace": "l.workspace_id = %(workspace)s",
    "workspace_id": "l.workspace_id = ANY(%(workspace_id)s)",
    "execution_model": "l.execution_model = ANY(%(execution_model)s)",
    "product_line": "l.product_line = ANY(%(product_line)s)",
    "after": "l.record_key < %(after)s",
}
CHANGING_FILTERS: Mapping[str, str] = {
    "state": "l.state = ANY(%(state)s)",
    "project_tag": "l.project_tags && %(project_tag)s",
    "blocked_cause": "l.causes && %(blocked_cause)s AND l.causes <> '{}'",
}
_RUN_FILTERS: Mapping[str, str] = {
    "status": "{changing}.status = ANY(%(status)s)",
    "not_completed": "{changing}.status <> 'completed'",
    "triggered_by": "{changing}.triggered_by = ANY(%(triggered_by)s)",
    "from": "r.requested_at >= %(from)s",
    "to": "r.requested_at < %(to)s",
    "after": "(r.requested_at, r.run_key) < (%(after_at)s, %(after)s)",
}

# Where the views that a statement reads stand.
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

# The same without a view, once the append in flight has ended; and how far the log's clock is.
INSTANT = f"""
SELECT {POSITION_THEN},
       (SELECT recorded_at FROM ledger.ledger_events ORDER BY recorded_at DESC LIMIT 1)
"""
RECORDED_AT = "SELECT recorded_at FROM ledger.ledger_events WHERE notification_id = %(position)s"
AWAIT_APPEND = "SELECT ledger.await_append()"

# The metrics of the clock's own period: week or day, whichever the model counts by.
METRICS = """
',"metrics":{{' ||
CASE CASE l.execution_model WHEN 'agent_runtime' THEN %(today)s ELSE %(week)s END
WHEN {s}.period_1 THEN {s}.now_1 WHEN {s}.period_2 THEN {s}.now_2 ELSE {s}.quiet END
|| {s}.metrics || '}}'
"""

# What a line showed at the position: its latest version and step at or before it.
VERSION = """
CROSS JOIN LATERAL (
    SELECT head, extra FROM ledger.execution_version AS v
    WHERE v.line_id = l.line_id AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
) AS v
CROSS JOIN LATERAL (
    SELECT counts, metrics, quiet, period_1, now_1, period_2, now_2
    FROM ledger.execution_step AS s
    WHERE s.line_id = l.line_id AND s.position <= p.position ORDER BY s.position DESC LIMIT 1
) AS s
"""

_DETAIL = """
SELECT p.position, line.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT '{{' || l.head || ',' || l.counts || ',' || l.extra || {metrics} || '}}' AS item
    FROM ledger.execution AS l WHERE l.line_id = %(line_id)s AND {where}
) AS line ON true
"""

_PAST_DETAIL = """
SELECT p.position, line.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT '{{' || v.head || ',' || s.counts || ',' || v.extra || {metrics} || '}}' AS item
    FROM ledger.execution AS l {version}
    WHERE l.line_id = %(line_id)s AND l.activated <= p.position AND {where}
) AS line ON true
"""

# How many lines are in which state, of which model and product line, with which causes open.
_SUMMARY = """
SELECT p.position, l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ({position}) AS p LEFT JOIN LATERAL ({lines}) AS l ON true
"""

# Lines that are counted already: per workspace where one is asked for, else per organization.
_COUNTED = """
SELECT l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ledger.execution_count AS l WHERE l.per = '{per}' AND l.lines > 0 AND {where}
"""

# Lines by tags: the sum of the tags' counts, less the lines that an earlier tag has counted
# already. The lines with several of the tags are found in the index of tags.
_COUNTED_BY_TAGS = """
SELECT l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ledger.execution_count AS l
WHERE l.per = 'project_tag' AND l.project_tag = ANY(%(project_tag)s) AND l.lines > 0 AND {where}
UNION ALL
SELECT l.state, l.execution_model, l.product_line, l.causes, -1
FROM unnest(%(project_tag)s::text[]) WITH ORDINALITY AS asked (tag, place)
CROSS JOIN LATERAL (
    SELECT l.state, l.execution_model, l.product_line, l.causes FROM ledger.execution AS l
    WHERE l.project_tags @> ARRAY[asked.tag]
      AND l.project_tags && (%(project_tag)s::text[])[:asked.place - 1] AND {where}
) AS l
WHERE asked.place > 1
"""

# In the past they are counted one by one: of each line, the one interval that held then.
_THEN_COUNTED = """
SELECT l.state, l.execution_model, l.product_line, l.causes, count(*) AS lines
FROM ledger.execution_interval AS l
WHERE l.opened <= p.position AND l.ended > p.position AND {where}
GROUP BY l.state, l.execution_model, l.product_line, l.causes
"""

# Input, output and error, each as the latest event brought it.
_PAYLOADS = """
LEFT JOIN LATERAL (
    SELECT (array_agg(b.input ORDER BY b.position DESC) FILTER (WHERE b.input IS NOT NULL))[1],
        (array_agg(b.output ORDER BY b.position DESC) FILTER (WHERE b.output IS NOT NULL))[1],
        (array_agg(b.error ORDER BY b.position DESC) FILTER (WHERE b.error IS NOT NULL))[1]
    FROM ledger.run_version AS b WHERE b.run_id = r.run_id {until}
) AS b (input, output, error) ON true
LEFT JOIN ledger.run_key AS k ON k.run_id = r.run_id
"""

# A list that shows none of them reads none of them: each may be as large as a fact.
_NO_PAYLOADS = """
CROSS JOIN (SELECT NULL::bytea, NULL::bytea, NULL::bytea) AS b (input, output, error)
CROSS JOIN (SELECT NULL::bytea, NULL::timestamptz) AS k (wrapped, destroyed_at)
"""

# An erasure is shown of the past too, and before the view has come to it: the key is gone already.
_RUN_COLUMNS = """
r.run_id, r.run_key, r.requested_at, r.organization_id, {changing}.head, {changing}.tail,
COALESCE(r.erased_at, k.destroyed_at), b.input, b.output, b.error, k.wrapped
"""

# What a run was at the position.
_RUN_VERSION = """
CROSS JOIN LATERAL (
    SELECT status, triggered_by, head, tail FROM ledger.run_version AS v
    WHERE v.run_id = r.run_id AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
) AS v
"""

# A line's runs: whether the line is visible and has runs at all comes with the page.
_RUNS = """
SELECT p.position, line.execution_model, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.execution_model FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND {line_where}
) AS line ON true
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r {version} {payloads}
    WHERE r.line_id = line.line_id AND {where}
    ORDER BY r.requested_at DESC, r.run_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.requested_at DESC, page.run_key DESC
"""

_RUN = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r {version} {payloads}
    WHERE r.run_id = %(run_id)s AND {where}
) AS page ON true
"""

# No run that was known by then was asked for later than this: facts are at most 5 minutes early.
_REQUESTED_BY_THEN = "r.requested_at <= %(as_of)s + interval '5 minutes'"

# Lines that look idle: by the minute in the index, then by the instant. The decision itself is made
# under the append lock.
IDLE_CANDIDATES = """
SELECT q.line_id
FROM ledger.execution_quiet AS q
CROSS JOIN LATERAL (
    SELECT CASE q.execution_model WHEN 'agent_runtime' THEN %(agent_runtime)s ELSE %(default)s END
) AS deadline (at)
WHERE (q.execution_model = 'agent_runtime' AND q.quiet_since <= %(agent_runtime)s
       OR q.execution_model <> 'agent_runtime' AND q.quiet_since <= %(default)s)
  AND q.changed_at <= deadline.at
  AND EXISTS (SELECT FROM ledger.line_activity AS a
              WHERE a.line_id = q.line_id AND a.last_activity_at <= deadline.at)
LIMIT %(limit)s
"""

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


def where_line(filters: frozenset[str]) -> str:
    """The condition on a line ``l``, or on one of its intervals."""
    return _where(filters, {**_STATIC_FILTERS, **CHANGING_FILTERS})


def _where(filters: frozenset[str], fragments: Mapping[str, str]) -> str:
    return " AND ".join(fragments[name] for name in sorted(filters)) or "true"


@cache
def detail_statement(filters: frozenset[str], past: bool = False) -> str:
    """One (position, detail JSON or null) row."""
    return (_PAST_DETAIL if past else _DETAIL).format(
        position=position_of(past, "execution"),
        metrics=METRICS.format(s="s" if past else "l"),
        where=where_line(filters),
        version=VERSION,
    )


@cache
def summary_statement(filters: frozenset[str], past: bool = False) -> str:
    """(position, state, model, product line, causes, lines) rows; one of nulls where nothing is.

    Several rows may be alike in all but their lines, which are to be added up. Tags that are asked
    for must be given once each.
    """
    if past:
        lines = _THEN_COUNTED.format(where=where_line(filters))
    elif "project_tag" in filters:
        lines = _COUNTED_BY_TAGS.format(where=where_line(filters - {"project_tag"}))
    else:
        per = "workspace" if filters & {"workspace", "workspace_id"} else "organization"
        lines = _COUNTED.format(per=per, where=where_line(filters))
    return _SUMMARY.format(position=position_of(past, "execution"), lines=lines)


@cache
def runs_statement(
    tenant: frozenset[str], filters: frozenset[str], past: bool = False, bare: bool = False
) -> str:
    """(position, model or null, run columns or nulls) rows; ``bare`` ones without payloads."""
    line_where, changing = where_line(tenant), "v" if past else "r"
    fragments = {name: text.format(changing=changing) for name, text in _RUN_FILTERS.items()}
    where = _where(filters, fragments)
    if past:
        line_where += " AND l.activated <= p.position"
        where += f" AND r.opened <= p.position AND {_REQUESTED_BY_THEN}"
    return _RUNS.format(
        position=position_of(past, "execution", "run"),
        line_where=line_where,
        where=where,
        **_run_parts(past, bare),
    )


@cache
def run_statement(tenant: frozenset[str], past: bool = False) -> str:
    """One (position, run columns or nulls) row."""
    fragments = {name: _STATIC_FILTERS[name].replace("l.", "r.", 1) for name in tenant}
    return _RUN.format(
        position=position_of(past, "run"), where=_where(tenant, fragments), **_run_parts(past)
    )


def _run_parts(past: bool, bare: bool = False) -> dict[str, str]:
    payloads = _PAYLOADS.format(until="AND b.position <= p.position" if past else "")
    return {
        "columns": _RUN_COLUMNS.format(changing="v" if past else "r"),
        "version": _RUN_VERSION if past else "",
        "payloads": _NO_PAYLOADS if bare else payloads,
    }
