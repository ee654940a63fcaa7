"""The statement behind present lists that need a line's moving keys (contract, Reading).

These are lists in an order of their own, and lists by health. A page walks the indexes of
``execution_rank``: a walk for each state, which PostgreSQL merges as far as the page goes. So a
page of the longest blocked lines reads as few rows as a page of the newest lines. Then the page's
lines are read from ``execution``.

Model, product line and cause are compared row by row. A project or a resource is looked up line by
line, or its few lines are sorted: PostgreSQL decides by its statistics.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from ledger.domain import health
from ledger.postgres.scope import Planning
from ledger.views.statements import Read, read_of, where
from projections.execution.rank import NO_SCORE, NO_STATUS
from projections.execution.statements import METRICS, RANK_FILTERS
from projections.execution.walks import ALL, TENANTS, Walks

Sort = Literal["state_since", "health_score"]
"""The orders of present lists, beside that by record id."""

_PAGE = """
SELECT p.position, page.record_key, page.item, page.key
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, r.key, r.newest,
           '{{' || l.head || ',' || l.counts {extra} || {metrics} || '}}' AS item
    FROM (
        SELECT * FROM ({walks}) AS r
        ORDER BY r.key {direction}, r.newest {direction} LIMIT %(limit)s
    ) AS r
    JOIN ledger.execution AS l ON l.line_id = r.line_id
) AS page ON true
ORDER BY page.key {direction}, page.newest {direction}
"""

# The place behind a line, or before it: its key, then its record id.
_PLACE: Mapping[Sort | None, str] = {
    None: "l.newest {op} -(%(after)s::bigint)",
    "state_since": "(l.state_since, l.newest) {op} (%(after_key)s, -(%(after)s::bigint))",
    "health_score": "(l.health_score, l.newest) {op} (%(after_key)s::int, -(%(after)s::bigint))",
}

_STUCK = {"state": ("blocked", "paused")}
"""The states of lines with an open blocker (contract, State)."""

_OWN = frozenset({"organization", "workspace"})
"""The filters of a credential that is bound to a tenant."""

_WALKED = TENANTS | {"state", "health", "after", "after_key"}


def _scores(status: str) -> str:
    if status == NO_STATUS:
        return f"l.health_score = {NO_SCORE}"
    scores = [score for score in range(101) if health.status(score) == status]
    return f"l.health_score BETWEEN {scores[0]} AND {scores[-1]}"


@lru_cache(1000)
def ranked_read(
    filters: frozenset[str],
    widths: tuple[tuple[str, int], ...],
    statuses: tuple[str, ...],
    sort: Sort | None,
    whole: bool,
    back: bool,
) -> Read:
    """(position, record_key, item JSON, key) rows in the order; a row of nulls if no line matches.

    ``key`` is the value of the order's column, null without an order. ``statuses`` are the health
    statuses that the filter names. Walked ``back``, the last row comes first.
    """
    walks = Walks(filters, dict(widths), _STUCK if "blocked_cause" in filters else ALL)
    if sort == "state_since" or not statuses:
        choices: Sequence[str] = ["true"]
    elif sort == "health_score":
        choices = [_scores(status) for status in statuses]
    else:
        choices = [f"l.health_status = '{status}'" for status in statuses]
    groups = [("state",), *((name,) for name in ("workspace_id",) if name in filters)]
    led = walks.leading(groups, len(choices))
    walked = {*led, "after", "after_key"} | (set() if sort == "state_since" else {"health"})
    is_bound = bool(filters & _OWN) or "workspace_id" in led
    indexed = {} if is_bound else {"state": "l.state || ''"}
    conditions, planning = dict(RANK_FILTERS), _planning(filters, sort)
    is_of_workspace = "workspace" in filters or "workspace_id" in led
    if is_of_workspace and planning is not Planning.BY_VALUES:
        # No index condition, so that a generic plan walks the index of the workspace.
        conditions["organization"] = "l.organization_id || '' = %(organization)s"
    place = _PLACE[sort].format(op="<" if back else ">")
    rest = where(filters - walked, conditions, *([place] if "after" in filters else ()))
    direction = "DESC" if back else "ASC"
    key = f"l.{sort}" if sort else "NULL::int"
    keys = [f"l.{sort}", "l.newest"] if sort else ["l.newest"]
    order = ", ".join(f"{each} {direction}" for each in keys)
    columns = f"l.line_id, l.newest, {key} AS key"
    return read_of(
        _PAGE,
        "execution",
        planning=planning,
        is_kept=True,
        extra="|| ',' || l.extra" if whole else "",
        metrics=METRICS,
        direction=direction,
        walks=" UNION ALL ".join(
            walks.walked(
                "ledger.execution_rank", columns, order, led, f"{choice} AND {rest}", indexed
            )
            for choice in choices
        ),
    )


def _planning(filters: frozenset[str], sort: Sort | None) -> Planning:
    """The planning of a page: by its values if few lines or most lines may have these values."""
    if filters & {"project_tag", "resource_id"} or (sort == "state_since" and "health" in filters):
        return Planning.BY_VALUES
    return Planning.SHORT if filters <= _WALKED else Planning.LONG
