"""The statements of usage that read lines: those in scope, their time in each state.

Each statement reads what was known at a position, the parameter ``end``.
"""

from functools import cache

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.reads.filters import ORGANIZATION, WORKSPACE, Filter, conditions
from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES
from ledger.engine.views.statements import Read, position_of_page, read_of, where

SCOPE = (
    ORGANIZATION,
    WORKSPACE,
    Filter("service_line_id", "Line", "words", "l.line_id = ANY(%(service_line_id)s)"),
    Filter("execution_model", "Model", EXECUTION_MODELS),
    Filter("product_line", "Product line", PRODUCT_LINES),
    Filter("project_tag", "Project", "words", "known.project_tags && %(project_tag)s"),
)
"""The filters of usage and comparisons by lines, in the order of their parameters."""

_CONDITIONS = conditions(SCOPE, "l")

# The lines at the position, by key. A line's row is its latest interval at the position: one index
# look-up. A line closed before ``begun`` is left out, unless it was active later: a closing may
# have an earlier time than facts recorded before it.
_SCOPE = """
SELECT p.position, line.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_key, l.line_id, l.workspace_id, l.execution_model, l.product_line,
           known.project_tags
    FROM (
        SELECT l.line_key, l.line_id, l.workspace_id, l.execution_model, l.product_line
        FROM ledger.execution AS l
        WHERE l.activated <= p.position AND l.line_key > %(after)s AND {where}
        ORDER BY l.line_key
    ) AS l
    CROSS JOIN LATERAL (
        SELECT i.state, i.since, i.project_tags FROM ledger.execution_interval AS i
        WHERE i.line_key = l.line_key AND i.opened <= p.position
        ORDER BY i.opened DESC LIMIT 1
    ) AS known
    WHERE (known.state <> 'closed' OR known.since >= %(begun)s OR %(begun)s <= (
              SELECT s.last_activity_at FROM ledger.execution_step AS s
              WHERE s.line_key = l.line_key AND s.position <= p.position
              ORDER BY s.position DESC LIMIT 1
          )) AND {project}
    ORDER BY l.line_key LIMIT %(limit)s
) AS line ON true
ORDER BY line.line_key
"""

# Microseconds of lines by state and open causes, between two instants. Effective times never fall
# along a line's stream, so a state lasts until the next turning point.
_SECONDS = """
SELECT p.position, spent.line_key, spent.state, spent.causes, spent.micros
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT turn.line_key, turn.state, turn.causes,
           sum((extract(epoch FROM turn.until - turn.since) * 1000000)::bigint)::bigint AS micros
    FROM (
        SELECT asked.line_key, i.state, i.causes, greatest(i.since, %(from)s) AS since,
               least(lead(i.since) OVER (PARTITION BY asked.line_key ORDER BY i.opened),
                     %(until)s) AS until
        FROM unnest(%(lines)s::bigint[]) AS asked (line_key)
        CROSS JOIN LATERAL (
            SELECT i.since, i.opened, i.state, i.causes FROM ledger.execution_interval AS i
            WHERE i.line_key = asked.line_key AND i.turned AND i.opened <= p.position
              AND i.since < %(until)s
              AND i.since >= COALESCE((
                  SELECT first.since FROM ledger.execution_interval AS first
                  WHERE first.line_key = asked.line_key AND first.turned
                    AND first.opened <= p.position AND first.since <= %(from)s
                  ORDER BY first.since DESC LIMIT 1), '-infinity')
        ) AS i
    ) AS turn
    WHERE turn.until > turn.since
    GROUP BY 1, 2, 3
) AS spent ON true
"""


_NAMES = """
SELECT p.position, named.line_id, named.name
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.line_id, ('{{' || v.head || '}}')::json ->> 'name' AS name
    FROM ledger.execution AS l
    CROSS JOIN LATERAL (
        SELECT v.head FROM ledger.execution_version AS v
        WHERE v.line_key = l.line_key AND v.position <= p.position
        ORDER BY v.position DESC LIMIT 1
    ) AS v
    WHERE l.line_id = ANY(%(ids)s)
) AS named ON named.name IS NOT NULL
"""

# The state of lines at a position no later than the statement's own.
_STATES = """
SELECT p.position, known.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT asked.line_key, i.state, i.health_score, i.open_blockers, s.open_runs
    FROM unnest(%(lines)s::bigint[]) AS asked (line_key)
    CROSS JOIN LATERAL (
        SELECT i.state, i.health_score, i.open_blockers FROM ledger.execution_interval AS i
        WHERE i.line_key = asked.line_key AND i.opened <= least(%(at)s, p.position)
        ORDER BY i.opened DESC LIMIT 1
    ) AS i
    CROSS JOIN LATERAL (
        SELECT s.open_runs FROM ledger.execution_step AS s
        WHERE s.line_key = asked.line_key AND s.position <= least(%(at)s, p.position)
        ORDER BY s.position DESC LIMIT 1
    ) AS s
) AS known ON true
"""

_AT_END = position_of_page("execution", "run")
NAMES = read_of(_NAMES, "execution", "run", planning=Planning.LONG, position=_AT_END)
"""(position, line, name) rows of the lines ``ids`` at the position ``end``."""
STATES = read_of(_STATES, "execution", "run", planning=Planning.LONG, position=_AT_END)
"""(position, line key, state, health score, open blockers, open runs) rows as known ``at``."""


@cache
def scope_read(filters: frozenset[str]) -> Read:
    """(position, line key, line, workspace, model, product line, projects) rows by line key.

    Lines at the position ``end``; nulls if no line is in scope.
    """
    # Find a few chosen lines by their ids, and all lines of a tenant by its index.
    is_whole = filters <= {"organization", "workspace", "organization_id"}
    return read_of(
        _SCOPE,
        "execution",
        "run",
        planning=Planning.LONG if is_whole else Planning.BY_VALUES,
        position=_AT_END,
        where=where(filters - {"project_tag"}, _CONDITIONS),
        project=where(filters & {"project_tag"}, _CONDITIONS),
    )


SECONDS = read_of(_SECONDS, "execution", "run", planning=Planning.LONG, position=_AT_END)
"""(position, line key, state, causes, microseconds) rows of ``lines`` at the position ``end``."""
