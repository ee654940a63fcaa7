"""The statements that read the views. Each answers in one round trip, position and rows together.

Every statement is scoped by the credential's tenant through the ``FILTERS`` below; lists are
walked by key, never by offset. Bytes come out as stored: nothing is parsed on the way.
"""

from collections.abc import Mapping
from functools import cache

EXECUTION_FILTERS: Mapping[str, str] = {
    "organization": "organization_id = %(organization)s",
    "workspace": "workspace_id = %(workspace)s",
    "workspace_id": "workspace_id = ANY(%(workspace_id)s)",
    "state": "state = ANY(%(state)s)",
    "execution_model": "execution_model = ANY(%(execution_model)s)",
    "product_line": "product_line = ANY(%(product_line)s)",
    "project_tag": "project_tags && %(project_tag)s",
    "blocked_cause": "causes && %(blocked_cause)s",
    "after": "record_key < %(after)s",
}
RUN_FILTERS: Mapping[str, str] = {
    "status": "r.status = ANY(%(status)s)",
    "triggered_by": "r.triggered_by = ANY(%(triggered_by)s)",
    "from": "r.requested_at >= %(from)s",
    "to": "r.requested_at < %(to)s",
    "after": "(r.requested_at, r.run_key) < (%(after_at)s, %(after)s)",
}

# The metrics of the clock's own period: week or day, whichever the model counts by.
_METRICS = """
CASE CASE execution_model WHEN 'agent_runtime' THEN %(today)s ELSE %(week)s END
WHEN period_1 THEN metrics_1 WHEN period_2 THEN metrics_2 ELSE metrics END
"""

_LIST = """
SELECT p.position, page.record_key, page.item
FROM (SELECT position FROM ledger.projection WHERE name = 'execution') AS p
LEFT JOIN LATERAL (
    SELECT record_key, '{{' || head || ',"metrics":' || {metrics} || '}}' AS item
    FROM ledger.execution WHERE {where} ORDER BY record_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.record_key DESC
"""

_DETAIL = """
SELECT p.position, line.item
FROM (SELECT position FROM ledger.projection WHERE name = 'execution') AS p
LEFT JOIN LATERAL (
    SELECT '{{' || head || ',' || extra || ',"metrics":' || {metrics} || '}}' AS item
    FROM ledger.execution WHERE line_id = %(line_id)s AND {where}
) AS line ON true
"""

# Counts: a line once under its state, model and product line, and under each cause it has open.
_SUMMARY = """
WITH line AS MATERIALIZED (
    SELECT state, execution_model, product_line, causes FROM ledger.execution WHERE {where}
), counted AS (
    SELECT 'state' AS kind, state AS name, count(*) AS lines FROM line GROUP BY state
    UNION ALL SELECT 'model', execution_model, count(*) FROM line GROUP BY execution_model
    UNION ALL SELECT 'product', product_line, count(*) FROM line GROUP BY product_line
    UNION ALL SELECT 'cause', cause, count(*) FROM line, unnest(causes) AS cause GROUP BY cause
)
SELECT p.position, counted.kind, counted.name, counted.lines
FROM (SELECT position FROM ledger.projection WHERE name = 'execution') AS p
LEFT JOIN counted ON true
"""

_RUN_COLUMNS = """
r.run_id, r.run_key, r.requested_at, r.organization_id, r.head, r.tail, r.input, r.output,
r.error, k.wrapped
"""

# A line's runs: whether the line is visible and has runs at all comes with the page.
_RUNS = """
SELECT p.position, line.execution_model, page.*
FROM (SELECT min(position) AS position FROM ledger.projection
      WHERE name IN ('execution', 'run')) AS p
LEFT JOIN LATERAL (
    SELECT line_id, execution_model FROM ledger.execution
    WHERE line_id = %(line_id)s AND {line_where}
) AS line ON true
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r LEFT JOIN ledger.run_key AS k USING (run_id)
    WHERE r.line_id = line.line_id AND {where}
    ORDER BY r.requested_at DESC, r.run_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.requested_at DESC, page.run_key DESC
"""

_RUN = """
SELECT p.position, page.*
FROM (SELECT position FROM ledger.projection WHERE name = 'run') AS p
LEFT JOIN LATERAL (
    SELECT {columns} FROM ledger.run AS r LEFT JOIN ledger.run_key AS k USING (run_id)
    WHERE r.run_id = %(run_id)s AND {where}
) AS page ON true
"""

# Lines that look idle. The decision itself is made under the append lock.
IDLE_CANDIDATES = """
SELECT line_id FROM ledger.execution
WHERE state = 'running' AND open_runs = 0
  AND ((execution_model = 'agent_runtime' AND quiet_since <= %(agent_runtime)s)
    OR (execution_model <> 'agent_runtime' AND quiet_since <= %(default)s))
LIMIT %(limit)s
"""

# How far each view is behind the log.
LAG = """
SELECT p.name, p.version, p.generation, p.position,
       COALESCE((SELECT max(notification_id) FROM ledger.ledger_events), 0) AS head,
       p.stopped_at, p.error
FROM ledger.projection AS p ORDER BY p.name
"""


def _where(filters: frozenset[str], fragments: Mapping[str, str]) -> str:
    return " AND ".join(fragments[name] for name in sorted(filters)) or "true"


@cache
def list_statement(filters: frozenset[str]) -> str:
    """(position, record_key, item JSON) rows; one row of nulls where nothing matches."""
    return _LIST.format(metrics=_METRICS, where=_where(filters, EXECUTION_FILTERS))


@cache
def detail_statement(filters: frozenset[str]) -> str:
    """One (position, detail JSON or null) row."""
    return _DETAIL.format(metrics=_METRICS, where=_where(filters, EXECUTION_FILTERS))


@cache
def summary_statement(filters: frozenset[str]) -> str:
    """(position, kind, name, lines) rows."""
    return _SUMMARY.format(where=_where(filters, EXECUTION_FILTERS))


@cache
def runs_statement(tenant: frozenset[str], filters: frozenset[str]) -> str:
    """(position, model or null, run columns or nulls) rows."""
    return _RUNS.format(
        columns=_RUN_COLUMNS,
        line_where=_where(tenant, EXECUTION_FILTERS),
        where=_where(filters, RUN_FILTERS),
    )


@cache
def run_statement(tenant: frozenset[str]) -> str:
    """One (position, run columns or nulls) row."""
    fragments = {name: f"r.{EXECUTION_FILTERS[name]}" for name in ("organization", "workspace")}
    return _RUN.format(columns=_RUN_COLUMNS, where=_where(tenant, fragments))
