"""The filters of lines, one row each, and the conditions on a line.

``l`` is a row of ``execution`` or ``execution_rank``; for the past, of ``execution_interval``.
"""

from ledger.engine.reads.filters import ORGANIZATION, WORKSPACE, Filter, conditions
from ledger.engine.values.values import CAUSES, EXECUTION_MODELS, PRODUCT_LINES, STATES
from ledger.engine.views.statements import where
from ledger.features.lines.model.health import LEAST
from projections.lines.rank import HEALTH, NO_STATUS

# The line's present projects: a semijoin, too.
_HAS_PROJECT = """EXISTS (
    SELECT FROM ledger.execution_tag AS t
    WHERE t.line_id = l.line_id AND t.project_tag = ANY(%(project_tag)s) AND t.present)"""

# The line's present resources. A semijoin: PostgreSQL may begin at either side.
_HAS_RESOURCE = """EXISTS (
    SELECT FROM ledger.execution_resource AS o
    WHERE o.line_id = l.line_id AND o.resource_id = ANY(%(resource_id)s) AND o.present)"""

# The line's unresolved alerts.
_HAS_ALERTS = """EXISTS (
    SELECT FROM ledger.alert AS a WHERE a.line_id = l.line_id AND a.resolved IS NULL)"""

# The health of a row of ``execution``.
_HAS_STATUS = """EXISTS (
        SELECT FROM ledger.execution_rank AS r
        WHERE r.line_id = l.line_id AND r.health_status = ANY(%(health)s))"""
_STATUS_THEN = f"""CASE
    {" ".join(f"WHEN l.health_score >= {least} THEN '{name}'" for name, least in LEAST.items())}
    ELSE '{NO_STATUS}' END"""

BY_ID = Filter("service_line_id", "Line", "words", "l.line_id = ANY(%(service_line_id)s)")
"""Not a filter of the list: requests about certain lines use it."""

OF_BLOCKERS = (
    Filter("assignee", "Assignee", "words",
           "l.assignees && %(assignee)s AND l.assignees <> '{}' AND l.causes <> '{}'", None,
           "The assignee of an open blocker."),
    Filter("unassigned", "nobody assigned", "flag", "l.unassigned AND l.causes <> '{}'", None,
           "An open blocker without an assignee."),
    Filter("overdue", "overdue", "flag", "l.due_at < %(overdue)s AND l.causes <> '{}'", None,
           "An open blocker whose `due_at` is in the past."),
)  # fmt: skip

# An interval has its own projects: below a policy PostgreSQL uses no index of arrays on lines.
LINES = (
    WORKSPACE,
    Filter("state", "State", STATES),
    Filter("execution_model", "Model", EXECUTION_MODELS),
    Filter("product_line", "Product line", PRODUCT_LINES),
    Filter("project_tag", "Project", "words", _HAS_PROJECT, "l.project_tags && %(project_tag)s"),
    Filter("blocked_cause", "Cause", CAUSES, "l.causes && %(blocked_cause)s AND l.causes <> '{}'",
           about="The cause of an open blocker."),
    Filter("health", "Health", HEALTH, _HAS_STATUS, f"{_STATUS_THEN} = ANY(%(health)s)",
           "The health status; `none` finds lines without signals."),
    Filter("resource_id", "Resource", "words", _HAS_RESOURCE, None,
           "A resource that is allocated now."),
    *OF_BLOCKERS,
    Filter("has_alerts", "with open alerts", "flag", _HAS_ALERTS, None,
           "An alert that is not resolved."),
    ORGANIZATION._replace(
        then=None, about="A single id. Another organization's finds nothing."),
)  # fmt: skip
"""The filters of the list, in the order of their parameters."""

BY_CLOCK = frozenset(each.name for each in LINES if each.takes == "flag" and "%(" in each.now)
"""The flags whose parameter is the instant of the answer's clock."""
TENANTS = frozenset({"organization", "workspace", "workspace_id"})
COMPARED = TENANTS.union(
    {"state", "execution_model", "product_line", "blocked_cause", "health", "after", "after_key"}
)
"""The filters that an index scan compares and the stored counts know. Lines with another filter are
few: PostgreSQL decides whether to find them first."""
ON_RANKS = frozenset({"health", *(each.name for each in OF_BLOCKERS)})
"""The filters for which lists scan the ranks."""

_NOW, _THEN = (conditions((*LINES, BY_ID), "l", past) for past in (False, True))
RANK_CONDITIONS = _NOW | {"health": "l.health_status = ANY(%(health)s)"}


def where_line(filters: frozenset[str], back: bool = False, past: bool = False) -> str:
    """The condition on a line ``l``, or on one of its intervals for the past.

    Intervals lack the filters that only the present has. With ``back``, the scan goes the other
    way: ``after`` means before.
    """
    after = {"after": f"l.record_key {'>' if back else '<'} %(after)s"}
    return where(filters, (_THEN if past else _NOW) | after)
