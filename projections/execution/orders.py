"""The statement behind present lists that need a line's moving keys (contract, Reading).

These are lists in an order of their own, and lists by health. A page walks the indexes of
``execution_rank``: a walk for each state, which PostgreSQL merges as far as the page goes. So a
page of the longest blocked lines reads as few rows as a page of the newest lines. Then the page's
lines are read from ``execution``.

Model, product line and cause are compared row by row. A project or a resource is looked up line by
line, or its few lines are sorted: PostgreSQL decides by its statistics.
"""

from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import Literal, NamedTuple

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


class _Index(NamedTuple):
    """The indexes of the ranks that walks may go along (``rank.py``), and what leads them there."""

    columns: Mapping[str, str]
    """Leading columns that these indexes have as expressions."""
    conditions: Mapping[str, str]
    """Filters, as conditions by which PostgreSQL takes no other index."""


_OF_ALL = _Index({"state": "l.state || ''"}, {})
"""For administrators: no plan for a tenant may walk through the lines of all tenants."""
_OF_TENANT = _Index({}, {})
"""PostgreSQL chooses by its statistics, if the workspace is given too."""
_OF_WORKSPACE = _Index({}, {"organization": "l.organization_id || '' = %(organization)s"})
"""A generic plan would else walk the index of the organization."""

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
    planning = _planning(filters, sort)
    index = _index({*filters - {"workspace_id"}, *led}, planning)
    place = _PLACE[sort].format(op="<" if back else ">")
    conditions = {**RANK_FILTERS, **index.conditions}
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
                "ledger.execution_rank", columns, order, led, f"{choice} AND {rest}", index.columns
            )
            for choice in choices
        ),
    )


def _planning(filters: frozenset[str], sort: Sort | None) -> Planning:
    """The planning of a page: by its values if few lines or most lines may have these values."""
    if filters & {"project_tag", "resource_id"} or (sort == "state_since" and "health" in filters):
        return Planning.BY_VALUES
    return Planning.SHORT if filters <= _WALKED else Planning.LONG


def _index(named: Set[str], planning: Planning) -> _Index:
    """The indexes for a page by these filters and leading columns."""
    if named & {"workspace", "workspace_id"} and planning is not Planning.BY_VALUES:
        return _OF_WORKSPACE
    return _OF_TENANT if named & {"organization", "workspace", "workspace_id"} else _OF_ALL
