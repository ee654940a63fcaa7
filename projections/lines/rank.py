"""The changing keys by which lists are ordered and filtered.

They have a table of their own. So an update of the wide row of ``execution`` stays within its page
(HOT) as a rule: it changes few indexed columns. A row here changes only with the line's interval:
at the activation, and when state, causes, tags, open blockers or health score change.
"""

from typing import NamedTuple

from ledger.engine.postgres.schema import table
from ledger.engine.values.values import LATEST, sort_key
from ledger.features.lines.model import health
from projections.lines.line import LineFold

NO_SCORE = 101
"""The score of a line without signals, which sorts after all others."""

NO_STATUS = "none"
"""The health status of a line without signals, in filters."""


HEALTH = ("green", "amber", "red", NO_STATUS)

NEVER_DUE = LATEST
"""The due time of a line without one; it sorts after any real due time."""


class RankRow(NamedTuple):
    """The keys of a line."""

    line_id: table.Text
    newest: table.BigInt
    """The record id, negated: ascending order puts the newest first. So all keys ascend, and one
    comparison of rows finds the next page."""
    organization_id: table.Text
    workspace_id: table.Text
    execution_model: table.Text
    product_line: table.Text
    state: table.Text
    causes: table.Texts
    state_since: table.Instant
    health_score: table.Int
    """``NO_SCORE`` if there is none."""
    health_status: table.Text
    """``NO_STATUS`` if there is none."""
    assignees: table.Texts
    unassigned: table.Bool
    due_at: table.Instant
    """The earliest due time of the open blockers, or ``NEVER_DUE``."""
    stretch_since: table.Instant
    """When the present state span began, or the longer one of paused or blocked
    (``Execution.spans``). No watch of a state is due earlier."""
    blocked_since: table.Instant | None
    position: table.BigInt


# Each order has an index per tenant, and one for administrators. A page makes a scan per state,
# since a state may be rare. In orders by time, the health status is compared within the index. The
# administrators' indexes have an expression for the state, so that no plan for a tenant scans the
# lines of all tenants because a state is rare among them. The indexes by due time and by assignee
# have only lines with an open blocker: other lines cost nothing there.
RANK = table.Table(
    "execution_rank",
    RankRow,
    key=("line_id",),
    tenant=("organization_id", "workspace_id"),
    is_filtered_by_view=True,  # an administrator's lists: an index of a concatenation
    replaces=True,
    options="fillfactor = 80",
    indexes=(
        *(
            table.Index(f"{leading}, {keys}", where)
            for leading in ("organization_id, state", "workspace_id, state", "(state || '')")
            for keys, where in (
                ("state_since, newest, health_status", None),
                ("health_score, newest", None),
                ("health_status, newest", None),
                ("due_at, newest, health_status", "causes <> '{}'"),
            )
        ),
        table.Index("assignees", "assignees <> '{}'", using="gin"),
    ),
)


def rank_of(line: LineFold) -> RankRow:
    execution, interval = line.execution, line.interval
    assert interval is not None, "a line has an interval from its activation on"
    assert execution.state_since is not None, "a line has a state from its activation on"
    score, blockers = interval.health_score, execution.blockers.values()
    return RankRow(
        line_id=execution.id,
        newest=-sort_key(execution.execution_id),
        organization_id=execution.organization_id,
        workspace_id=execution.workspace_id,
        execution_model=execution.execution_model,
        product_line=execution.product_line,
        state=interval.state,
        causes=interval.causes,
        state_since=execution.state_since,
        health_score=NO_SCORE if score is None else score,
        health_status=status_of(score),
        assignees=sorted({b.assignee for b in blockers if b.assignee is not None}),
        unassigned=any(b.assignee is None for b in blockers),
        due_at=min((b.due_at for b in blockers if b.due_at is not None), default=NEVER_DUE),
        stretch_since=min(began.since for began in execution.spans.values()),
        blocked_since=execution.blocked_since,
        position=interval.opened,
    )


def status_of(score: int | None) -> str:
    return health.status(score) or NO_STATUS
