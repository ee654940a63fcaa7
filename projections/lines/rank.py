"""The keys by which lists are ordered and filtered, and which move while a line lives.

These keys have a table of their own. So a check-in's update of the wide row of ``execution`` stays
within its page (HOT): it changes no indexed column. A row of this table is written only when the
line's interval changes, which is at its activation and when its state, causes, tags, open blockers
or health score change.
"""

from typing import NamedTuple

from ledger.engine.postgres.schema import table
from ledger.engine.values.values import LATEST, sort_key
from ledger.features.lines.model import health
from projections.lines.line import LineFold

NO_SCORE = 101
"""The score of a line without signals, which stands behind all others in the order by health."""

NO_STATUS = "none"
"""The health status of a line without signals, as filters name it."""


HEALTH = ("green", "amber", "red", NO_STATUS)
"""The words of the filter by health."""

NEVER_DUE = LATEST
"""The due time of a line whose open blockers have none, behind any that a blocker may have."""


class RankRow(NamedTuple):
    """The keys of a line."""

    line_id: table.Text
    newest: table.BigInt
    """The record id as a negative number: in ascending order the newest record is the first. So
    all keys ascend, and a page begins behind the last one by one comparison of rows."""
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
    """The distinct assignees of the open blockers."""
    unassigned: table.Bool
    """Whether an open blocker has no assignee."""
    due_at: table.Instant
    """The earliest of the open blockers; ``NEVER_DUE`` if there is none."""
    stretch_since: table.Instant
    """When the present stretch began, or that of paused or blocked: no watch of a state is due
    earlier (``Execution.stretches``)."""
    blocked_since: table.Instant | None
    """Since when at least one blocker is open without a break."""
    position: table.BigInt


# Each order has an index per tenant, and one for administrators. A page takes a walk for each
# state, since a state may be rare. The health status of an order by time is compared within the
# index. The administrators' indexes have an expression for the state, so that no plan for a tenant
# walks through the lines of all tenants because a state is rare among them. The indexes by due time
# and by assignee have only the lines with an open blocker, so that other lines cost nothing there.
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
    """The health status of a score as filters name it."""
    return health.status(score) or NO_STATUS
