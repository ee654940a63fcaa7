"""The statements that read single lines and count lines, present and past (contract, Reading).

``lists.py`` has the statements of lists.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.filters import WORKSPACE, conditions
from ledger.engine.views.statements import Read, json_of_instant, read_of, where
from projections.lines.filters import BY_CLOCK, COMPARED, RANK_CONDITIONS, where_line

_UNRESOLVED_THEN = "a.opened <= p.position AND (a.resolved IS NULL OR a.resolved > p.position)"

# The id of a line from its key, and the key of an alert's line from its id.
_ID_OF_KEY = """'LIN-' || to_char(l.line_key / 1000000000000, 'FM00') || '-'
    || to_char(mod(l.line_key, 1000000000000), 'FM999999000000')"""
_KEY_OF_ALERT = """substr(a.line_id, 5, 2)::bigint * 1000000000000 + substr(a.line_id, 8)::bigint"""

_OPEN_ALERTS_THEN = f"""(
    SELECT count(*) FROM ledger.alert AS a
    WHERE a.line_id = {_ID_OF_KEY} AND {_UNRESOLVED_THEN})"""

_TENANT = conditions([WORKSPACE], "t")

_PERIOD = "CASE l.execution_model WHEN 'agent_runtime' THEN %(today)s ELSE %(week)s END"

# The JSON of a present list row, or of a detail: with ``extra``. A subquery, not a join, so that
# PostgreSQL reads no row of activity where only ids are wanted.
_ITEM_NOW = f"""(
SELECT '{{{{' || l.head || ',' || c.counts || ',"open_alerts":' || (
    SELECT count(*) FROM ledger.alert AS a WHERE a.line_id = l.line_id AND a.resolved IS NULL)
{{extra}} || ',"metrics":{{{{' ||
CASE {_PERIOD} WHEN c.period_1 THEN c.now_1 WHEN c.period_2 THEN c.now_2 ELSE l.quiet END
|| c.metrics || '}}}}}}}}'
FROM ledger.execution_activity AS c WHERE c.line_id = l.line_id
) AS item"""

# The columns from which ``shown.item_of_past`` makes a list row, or a detail: with ``extra``.
_ITEM_THEN = f"""
v.head, {{extra}}, l.execution_model, v.health_score,
{json_of_instant("s.last_activity_at")}, s.open_runs, {_OPEN_ALERTS_THEN},
CASE {_PERIOD} WHEN s.period_1 THEN s.amount_1 WHEN s.period_2 THEN s.amount_2 END,
s.hours_total, s.started_runs, s.completed_runs, s.last_run_duration_ms
"""

# The line as it was at the position: the latest version and step at or before the position.
_VERSION_THEN = """
CROSS JOIN LATERAL (
    SELECT health_score, head, extra FROM ledger.execution_version AS v
    WHERE v.line_key = l.line_key AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
) AS v
CROSS JOIN LATERAL (
    SELECT * FROM ledger.execution_step AS s
    WHERE s.line_key = l.line_key AND s.position <= p.position ORDER BY s.position DESC LIMIT 1
) AS s
"""

_DETAIL = """
SELECT p.position, line.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT {item}
    FROM ledger.execution AS l {version}
    WHERE l.line_id = %(line_id)s AND {where}
) AS line ON true
"""

# The unresolved alerts of these lines, and the lines by state, model, product line and causes.
_SUMMARY = """
SELECT p.position, unresolved.alerts, l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ({position}) AS p
CROSS JOIN LATERAL (SELECT count(*) AS alerts FROM {alerts}) AS unresolved
LEFT JOIN LATERAL ({lines}) AS l ON true
"""

# The stored counts: per workspace if a workspace is requested, else per organization.
_COUNTED = """
SELECT l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ledger.execution_count AS l WHERE l.per = '{per}' AND l.lines > 0 AND {where}
"""

# Counts by tags follow inclusion-exclusion: add the counts of the requested tags, then subtract a
# line with several of these tags once for each of them except the first. The index of tags finds
# the lines with such a tag, and only lines with several requested tags are read.
_COUNTED_BY_TAGS = """
SELECT l.state, l.execution_model, l.product_line, l.causes, l.lines
FROM ledger.execution_count AS l
WHERE l.per = 'project_tag' AND l.project_tag = ANY(%(project_tag)s) AND l.lines > 0 AND {counted}
UNION ALL
SELECT l.state, l.execution_model, l.product_line, l.causes, -1
FROM unnest(%(project_tag)s::text[]) WITH ORDINALITY AS asked (tag, place)
CROSS JOIN LATERAL (
    SELECT l.state, l.execution_model, l.product_line, l.causes
    FROM ledger.execution_tag AS t JOIN ledger.execution AS l ON l.line_id = t.line_id
    WHERE t.project_tag = asked.tag AND t.present AND {marked} AND EXISTS (
        SELECT FROM ledger.execution_tag AS o
        WHERE o.line_id = t.line_id AND o.present
          AND o.project_tag = ANY((%(project_tag)s::text[])[:asked.place - 1])
    ) AND {where}
) AS l
WHERE asked.place > 1
"""

# Other filters, such as open blockers of some kind, match few lines: count them one by one.
_COUNTED_ONE_BY_ONE = """
SELECT l.state, l.execution_model, l.product_line, l.causes, count(*) AS lines
FROM ledger.execution_rank AS l WHERE {where}
GROUP BY l.state, l.execution_model, l.product_line, l.causes
"""

# The unresolved alerts of a tenant, and of lines with other filters. Few alerts are unresolved.
_OF_TENANT = "ledger.alert AS a WHERE a.line_id IS NOT NULL AND {unresolved} AND {where}"
_OF_RANKED = """
ledger.alert AS a JOIN ledger.execution_rank AS l ON l.line_id = a.line_id
WHERE a.resolved IS NULL AND {where}
"""
_OF_INTERVALS = """
(SELECT a.line_id FROM ledger.alert AS a WHERE {unresolved} OFFSET 0) AS a
CROSS JOIN LATERAL (
    SELECT * FROM ledger.execution_interval AS i
    WHERE i.line_key = {key} AND i.opened <= p.position
    ORDER BY i.opened DESC LIMIT 1
) AS l
WHERE {where}
"""
_ALERTS_OF_TENANT = conditions([WORKSPACE], "a")


# Count past lines one by one, each by its interval at the position.
_THEN_COUNTED = """
SELECT l.state, l.execution_model, l.product_line, l.causes, count(*) AS lines
FROM ledger.execution_interval AS l
WHERE l.opened <= p.position AND l.ended > p.position AND {where}
GROUP BY l.state, l.execution_model, l.product_line, l.causes
"""

# The line, if the credential sees it and its activation is at or before the position.
_LINE = """
LEFT JOIN LATERAL (
    SELECT l.line_id, l.line_key FROM ledger.execution AS l
    WHERE l.line_id = %(line_id)s AND l.activated <= p.position AND {where}
) AS line ON true
"""

# The turning points of a line by effective time, from the one that holds at ``from``. Effective
# times never fall along a line's stream, so positions and times have the same order. Only the last
# of several turning points at one instant has a duration.
_TIMELINE = """
SELECT p.position, line.line_id, turn.since, turn.state, turn.causes
FROM ({position}) AS p
{line}
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (i.since) i.since, i.state, i.causes
    FROM ledger.execution_interval AS i
    WHERE i.line_key = line.line_key AND i.turned AND i.opened <= p.position
      AND i.since < %(to)s
      AND i.since >= COALESCE((
          SELECT first.since FROM ledger.execution_interval AS first
          WHERE first.line_key = line.line_key AND first.turned AND first.opened <= p.position
            AND first.since <= %(from)s
          ORDER BY first.since DESC LIMIT 1), '-infinity')
    ORDER BY i.since, i.opened DESC LIMIT %(limit)s
) AS turn ON true
ORDER BY turn.since
"""

# Lines that look idle: the index finds them by the minute, then the exact instants are compared.
# The decision itself is made under the append lock.
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

# Lines whose hold is due to be lifted, the longest overdue first.
DUE_HOLDS = """
SELECT line_id FROM ledger.execution_quiet
WHERE held_until <= %(now)s ORDER BY held_until LIMIT %(limit)s
"""

# The names of lines, for pages other than a line's own.
_NAMES = """
SELECT p.position, line.line_id, ('{{' || line.head || '}}')::json ->> 'name', line.organization_id
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, l.organization_id, {head} AS head FROM ledger.execution AS l
    WHERE l.line_id = ANY(%(ids)s) AND {where}
) AS line ON true
"""

# Organizations with lines or keys; each is found from the previous one. The keys are those at the
# log's end. The newest activity is looked up line by line, so that no fact has to write a row for
# it.
_ORGANIZATIONS = """
WITH RECURSIVE organization (id) AS (
    SELECT %(after)s::text
    UNION ALL
    SELECT least(
        (SELECT min(c.organization_id) FROM ledger.execution_count AS c
         WHERE c.per = 'organization' AND c.project_tag = '' AND c.workspace_id = ''
           AND c.organization_id > o.id),
        (SELECT min(k.organization_id) FROM ledger.api_key AS k WHERE k.organization_id > o.id))
    FROM organization AS o WHERE o.id IS NOT NULL
)
SELECT p.position, o.id, l.lines, k.keys, a.at
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT id FROM organization WHERE id <> %(after)s LIMIT %(limit)s
) AS o ON true
CROSS JOIN LATERAL (
    SELECT COALESCE(sum(c.lines), 0)::bigint AS lines FROM ledger.execution_count AS c
    WHERE c.per = 'organization' AND c.project_tag = '' AND c.workspace_id = ''
      AND c.organization_id = o.id
) AS l
CROSS JOIN LATERAL (
    SELECT count(*) AS keys FROM ledger.api_key AS k
    WHERE k.organization_id = o.id AND k.revoked_at IS NULL
      AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
) AS k
CROSS JOIN LATERAL (
    SELECT max(s.last_activity_at) AS at FROM ledger.execution AS e
    CROSS JOIN LATERAL (
        SELECT s.last_activity_at FROM ledger.execution_step AS s
        WHERE s.line_key = e.line_key ORDER BY s.position DESC LIMIT 1
    ) AS s
    WHERE e.organization_id = o.id
) AS a
ORDER BY o.id
"""

# Assignees of open blockers; those with most lines first.
_ASSIGNEES = """
SELECT p.position, a.name, a.lines
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT name, count(*) AS lines
    FROM ledger.execution_rank AS l CROSS JOIN unnest(l.assignees) AS name
    WHERE l.causes <> '{{}}' AND {where}
    GROUP BY name ORDER BY lines DESC, name LIMIT %(limit)s
) AS a ON true
"""

# The head at the position; the subquery is empty if the line was unknown then.
_HEAD_THEN = """(
    SELECT v.head FROM ledger.execution_version AS v
    WHERE v.line_key = l.line_key AND v.position <= p.position ORDER BY v.position DESC LIMIT 1
)"""


def item_parts(past: bool, whole: bool) -> Mapping[str, Any]:
    """The parts of a statement that show lines ``l``: as details if ``whole``.

    ``item`` is ready JSON, or for the past the columns for ``shown.item_of_past``. ``version``
    joins the line at the position.
    """
    if past:
        extra = "v.extra" if whole else "NULL::text"
        return {"item": _ITEM_THEN.format(extra=extra), "version": _VERSION_THEN}
    extra = "|| ',' || l.extra" if whole else ""
    return {"item": _ITEM_NOW.format(extra=extra), "version": ""}


@cache
def detail_read(filters: frozenset[str], past: bool = False) -> Read:
    """A single row: the position, and the ``item`` of ``item_parts`` or nulls."""
    condition = " AND l.activated <= p.position" if past else ""
    return read_of(
        _DETAIL,
        "execution",
        "watch",
        past=past,
        is_pure=True,
        where=where_line(filters) + condition,
        **item_parts(past, whole=True),
    )


@cache
def summary_read(filters: frozenset[str], past: bool = False) -> Read:
    """(position, alerts, state, model, product line, causes, lines) rows.

    ``alerts`` counts the unresolved alerts of all these lines. The next columns are null if no line
    matches. Rows may differ only in ``lines``: add these up. The requested tags must be distinct.
    """
    # Depending on the values, few or many lines are counted one by one.
    planning = Planning.BY_VALUES
    if past:
        lines = _THEN_COUNTED.format(where=where_line(filters, past=True))
    elif not filters <= COMPARED | {"project_tag"}:
        lines = _COUNTED_ONE_BY_ONE.format(where=where(filters, RANK_CONDITIONS))
    elif "project_tag" in filters:
        others = filters - {"project_tag"}
        lines = _COUNTED_BY_TAGS.format(
            counted=where(others, RANK_CONDITIONS),
            where=where_line(others),
            marked=where(others & _TENANT.keys(), _TENANT),
        )
    else:
        per = "workspace" if filters & {"workspace", "workspace_id"} else "organization"
        lines = _COUNTED.format(per=per, where=where(filters, RANK_CONDITIONS))
        planning = Planning.SHORT
    return read_of(
        _SUMMARY,
        "execution",
        "watch",
        past=past,
        planning=planning,
        is_pure=filters.isdisjoint(BY_CLOCK),
        alerts=_alerts(filters, past),
        lines=lines,
    )


def _alerts(filters: frozenset[str], past: bool) -> str:
    unresolved = _UNRESOLVED_THEN if past else "a.resolved IS NULL"
    if filters <= _ALERTS_OF_TENANT.keys():
        return _OF_TENANT.format(unresolved=unresolved, where=where(filters, _ALERTS_OF_TENANT))
    if not past:
        return _OF_RANKED.format(where=where(filters, RANK_CONDITIONS))
    always = ("a.line_id IS NOT NULL", unresolved)
    own = where(filters & _ALERTS_OF_TENANT.keys(), _ALERTS_OF_TENANT, *always)
    return _OF_INTERVALS.format(
        unresolved=own, key=_KEY_OF_ALERT, where=where_line(filters, past=True)
    )


@cache
def timeline_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, line or null, since, state, causes) rows."""
    line, planning = _line_then(tenant), Planning.LONG
    return read_of(_TIMELINE, "execution", past=past, planning=planning, line=line)


def _line_then(tenant: frozenset[str]) -> str:
    """SQL: join the line, if the tenant has a line with this id at the position."""
    return _LINE.format(where=where_line(tenant))


@cache
def names_read(tenant: frozenset[str], past: bool = False) -> Read:
    """(position, line, name, organization) rows; nulls for unknown lines and missing names."""
    return read_of(
        _NAMES,
        "execution",
        past=past,
        is_pure=True,
        head=_HEAD_THEN if past else "l.head",
        where=where_line(tenant),
    )


@cache
def organizations_read() -> Read:
    """(position, organization, lines, keys, instant or null) rows; without id if there is none."""
    return read_of(_ORGANIZATIONS, "execution", planning=Planning.LONG)


@cache
def assignees_read(tenant: frozenset[str]) -> Read:
    """(position, assignee, lines) rows; nulls if no open blocker has an assignee."""
    conditions = where(tenant, RANK_CONDITIONS)
    return read_of(_ASSIGNEES, "execution", planning=Planning.LONG, is_pure=True, where=conditions)
