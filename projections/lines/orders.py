"""The statement behind present lists that need a line's changing keys (contract, Reading).

These are lists in another order than by record id, and lists by health or by blocker. A page scans
the indexes of ``execution_rank``, one scan per state, and PostgreSQL merges the scans as far as the
page goes. So a page of the longest blocked lines reads as few rows as a page of the newest lines.
Then the page's lines are read from ``execution``.

Model, product line and cause are compared row by row. For a project, a resource or an assignee,
PostgreSQL decides by its statistics: look them up line by line, or sort their few lines.

The indexes by due time have only lines with an open blocker, which are few. So a page by due time
has two parts: lines with a due time, by such an index; then all others by record id.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from functools import lru_cache
from typing import Literal, NamedTuple

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, read_of, where
from ledger.features.lines.model import health
from projections.lines.filters import BY_CLOCK, COMPARED, OF_BLOCKERS, RANK_CONDITIONS, TENANTS
from projections.lines.index_scans import ALL, IndexScans
from projections.lines.rank import HEALTH, NEVER_DUE, NO_SCORE, NO_STATUS
from projections.lines.statements import item_parts

Sort = Literal["state_since", "health_score", "due_at"]
"""The orders of present lists, besides the one by record id."""

_PAGE = """
SELECT p.position, page.record_key, page.item, page.key
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, r.key, r.newest, {item}
    FROM ({found}) AS r
    JOIN ledger.execution AS l ON l.line_id = r.line_id
) AS page ON true
ORDER BY page.key {direction}, page.newest {direction}
"""

_FOUND = """
SELECT * FROM ({walks}) AS r ORDER BY {order} LIMIT {limit}
"""

# The second part is scanned only if the first does not fill the page.
_IN_PARTS = """
WITH first AS MATERIALIZED ({first}) SELECT * FROM first UNION ALL ({second})
"""

_BY_KEY, _BY_RECORD = ("key", "newest"), ("newest",)
_LEFT = "%(limit)s::bigint - (SELECT count(*) FROM first)"

_NEVER = f"'{NEVER_DUE}'::timestamptz"

# The condition after a line, or before it: its key, then its record id. Lines with a due time sort
# before lines without one.
_AFTER = {
    "newest": "l.newest {op} -(%(after)s::bigint)",
    "state_since": "(l.state_since, l.newest) {op} (%(after_key)s, -(%(after)s::bigint))",
    "health_score": "(l.health_score, l.newest) {op} (%(after_key)s::int, -(%(after)s::bigint))",
    "due_at": "(l.due_at, l.newest) {op} (%(after_key)s, -(%(after)s::bigint))",
    "never_due": f"l.newest {{op}} CASE %(after_key)s::timestamptz WHEN {_NEVER}"
    f" THEN -(%(after)s::bigint) ELSE {-(2**63)} END",
}

_STUCK = {"state": ("blocked", "paused")}
"""The states of lines with an open blocker (contract, State)."""
_FREE = {"state": [state for state in ALL["state"] if state != "blocked"]}


class _Index(NamedTuple):
    """The indexes of the ranks that scans use (``rank.py``), and how PostgreSQL is led to them."""

    columns: Mapping[str, str]
    """Leading columns that these indexes have as expressions."""
    conditions: Mapping[str, str]
    """Filters, written so that PostgreSQL can use no other index."""


_OF_ALL = _Index({"state": "l.state || ''"}, {})
"""For administrators: no plan for a tenant may scan the lines of all tenants."""
_OF_TENANT = _Index({}, {})
"""PostgreSQL chooses by its statistics if the workspace is requested too."""
_OF_WORKSPACE = _Index({}, {"organization": "l.organization_id || '' = %(organization)s"})
"""Otherwise a generic plan would scan the index of the organization."""

_OF_STUCK = frozenset({"blocked_cause", *(each.name for each in OF_BLOCKERS)})
"""The filters that only lines with an open blocker match."""

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

    ``key`` is the value of the order's column, null without an order. ``statuses`` are the
    requested health statuses. With ``back``, the last row comes first.
    """
    page = _RequestedPage(filters, widths, _planning(filters, sort), "DESC" if back else "ASC")
    by_status = [f"l.health_status = '{status}'" for status in statuses or HEALTH]
    if not statuses and page.planning is Planning.BY_VALUES:
        by_status = ["true"]  # sort the few lines instead of comparing many along these scans
    if sort == "due_at":
        found = page.by_due_time(by_status, back)
    elif sort is None:
        scans = page.scans("newest", by_status, None, "NULL::int", {"health"})
        found = page.merged(scans, _BY_RECORD)
    elif sort == "health_score" and statuses:
        by_score = [_scores(status) for status in statuses]
        found = page.merged(page.scans(sort, by_score, walked={"health"}), _BY_KEY)
    else:
        found = page.merged(page.scans(sort, ["true"]), _BY_KEY)
    return read_of(
        _PAGE,
        "execution",
        "watch",
        planning=page.planning,
        is_pure=filters.isdisjoint(BY_CLOCK),
        direction=page.direction,
        found=found,
        **item_parts(past=False, whole=whole),
    )


class _RequestedPage(NamedTuple):
    filters: frozenset[str]
    widths: tuple[tuple[str, int], ...]
    planning: Planning
    direction: str

    def by_due_time(self, by_status: Sequence[str], back: bool) -> str:
        """Lines with a due time, then the others; with ``back`` the other way round."""
        due = self.scans("due_at", [f"l.causes <> '{{}}' AND l.due_at < {_NEVER}"], _STUCK)
        rest = f"l.causes <> '{{}}' AND l.due_at = {_NEVER}"
        others = self.scans("never_due", [rest], _STUCK, _NEVER)
        if self.filters.isdisjoint(_OF_STUCK):
            free = [f"{status} AND l.causes = '{{}}'" for status in by_status]
            others += self.scans("never_due", free, _FREE, _NEVER)
        parts = [(due, _BY_KEY), (others, _BY_RECORD)]
        first, second = reversed(parts) if back else parts
        return _IN_PARTS.format(first=self.merged(*first), second=self.merged(*second, _LEFT))

    def merged(self, scans: Sequence[str], keys: Sequence[str], limit: str = "%(limit)s") -> str:
        order = ", ".join(f"r.{key} {self.direction}" for key in keys)
        return _FOUND.format(walks=" UNION ALL ".join(scans), order=order, limit=limit)

    def scans(
        self,
        order: str,
        choices: Sequence[str],
        every: Mapping[str, Collection[str]] | None = None,
        key: str | None = None,
        walked: Set[str] = frozenset(),
    ) -> list[str]:
        """The scans for these choices, in an order of ``_AFTER``.

        The choices already contain the conditions of the filters ``walked``. The order is by its
        column, then by record; or by record alone, with a constant ``key``. ``every`` has the
        possible states of the lines, unless the filters name them.
        """
        filters = self.filters
        if every is None:
            every = ALL if filters.isdisjoint(_OF_STUCK) else _STUCK
        scans = IndexScans(filters, dict(self.widths), every)
        groups = [("state",), *((name,) for name in ("workspace_id",) if name in filters)]
        led = scans.leading(groups, len(choices))
        index = _index({*filters - {"workspace_id"}, *led}, self.planning)
        after = _AFTER[order].format(op="<" if self.direction == "DESC" else ">")
        rest = where(
            filters - {*led, *walked, "after", "after_key"},
            {**RANK_CONDITIONS, **index.conditions},
            *([after] if "after" in filters else ()),
        )
        columns = [f"l.{order}", "l.newest"] if key is None else ["l.newest"]
        return [
            scans.walked(
                "ledger.execution_rank",
                f"l.line_id, l.newest, {key or columns[0]} AS key",
                ", ".join(f"{column} {self.direction}" for column in columns),
                led,
                f"{choice} AND {rest}",
                index.columns,
            )
            for choice in choices
        ]


def _planning(filters: frozenset[str], sort: Sort | None) -> Planning:
    if not filters <= COMPARED or (sort == "state_since" and "health" in filters):
        return Planning.BY_VALUES
    return Planning.SHORT if filters <= _WALKED else Planning.LONG


def _index(named: Set[str], planning: Planning) -> _Index:
    if named & {"workspace", "workspace_id"} and planning is not Planning.BY_VALUES:
        return _OF_WORKSPACE
    return _OF_TENANT if named & {"organization", "workspace", "workspace_id"} else _OF_ALL
