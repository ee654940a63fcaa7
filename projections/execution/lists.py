"""The statements behind lists of lines, present and past (contract, Reading).

The cost of a page grows with the size of the page only, however many lines there are and however
few of them match: the statement walks an index in the list's order, newest record id first, until
the page is full. If a request filters by state, by model or product line, by workspace or by
project, each requested value (or each combination of values) has a walk of its own, along an index
that begins with these columns. PostgreSQL merges the walks as far as the page goes, and a walk that
finds nothing ends at once. With a single walk for all values, PostgreSQL would read every line to
find the three lines that are blocked.

Other filters are compared line by line, such as a certain open cause among the lines that have open
causes. For a credential that is bound to no organization, and for a project with other filters,
PostgreSQL chooses by its statistics which filter is rare and comes first.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

from ledger.domain.values import EXECUTION_MODELS, PRODUCT_LINES
from ledger.postgres.scope import Planning
from ledger.views.statements import position_of
from projections.execution.statements import (
    CHANGING_FILTERS,
    ITEM_OF_PAST,
    METRICS,
    SHOWN_THEN,
    where_line,
)

_MOST_WALKS = 40
"""The most walks of a page: a walk takes some microseconds, even if it finds nothing."""

_PAIR = ("execution_model", "product_line")
"""Columns that are walked together: if only one has a filter, each value of the other is walked."""

_ALL: Mapping[str, Collection[str]] = {
    "execution_model": EXECUTION_MODELS,
    "product_line": PRODUCT_LINES,
}
_WIDE = ("workspace_id", "project_tag", "state", *_PAIR)
"""The filters that may have several values, and with which a walk may begin."""

_TENANTS = frozenset({"organization", "workspace", "workspace_id"})
_OF_TAGS = _TENANTS | {"project_tag", "after"}
"""The filters whose columns the table of tags has itself."""

_LIST = """
SELECT p.position, page.record_key, page.item
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, '{{' || l.head || ',' || l.counts {extra} || {metrics} || '}}' AS item
    FROM ({lines}) AS l ORDER BY l.record_key DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.record_key DESC
"""

_PAST_LIST = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT l.record_key, {item}
    FROM (SELECT * FROM ({lines}) AS l ORDER BY l.record_key DESC LIMIT %(limit)s) AS l {version}
) AS page ON true
ORDER BY page.record_key DESC
"""

_WALK = """
(SELECT {columns} FROM {table} AS l WHERE {where} ORDER BY l.record_key DESC LIMIT %(limit)s)
"""

# The lines of a page that is found in the table of tags. A line with two requested tags comes once.
_TAGGED = """
SELECT e.* FROM (
    SELECT DISTINCT ON (l.record_key) l.record_key, l.line_id FROM ({walks}) AS l
    ORDER BY l.record_key DESC LIMIT %(limit)s
) AS l JOIN ledger.execution AS e ON e.line_id = l.line_id
"""


def list_statement(filters: Mapping[str, Any], past: bool = False, whole: bool = False) -> str:
    """(position, record_key, item JSON) rows, of the past (position, record_key, ITEM_OF_PAST).

    If no line matches, a row whose columns after the position are null.

    ``filters`` maps each filter to its distinct values: the statement depends on their number, not
    on the values. The items are list rows, or details if ``whole``.
    """
    widths = {name: min(len(filters[name]), _MOST_WALKS + 1) for name in _WIDE if name in filters}
    return _statement(frozenset(filters), tuple(widths.items()), past, whole)


def planning_of(filters: Mapping[str, Any], past: bool = False) -> Planning:
    """The planning of a page: by its values if few lines or most lines may have these values.

    If few lines have the values, it is best to find these lines first; if most lines have them, it
    is best to walk the list.
    """
    names = frozenset(filters)
    if names.isdisjoint(_TENANTS):
        is_by_values = not names <= {"after"}
    else:
        is_in_tags = "project_tag" in names and _is_in_tags(names, len(filters["project_tag"]))
        is_by_values = "project_tag" in names and (past or not is_in_tags)
    return Planning.BY_VALUES if is_by_values else Planning.SHORT


def _is_in_tags(filters: frozenset[str], tags: int) -> bool:
    """Whether a page is found in the table of tags.

    Every requested tag has a walk there: the table has no column to filter by several tags at once.
    """
    return {"project_tag", "organization"} <= filters <= _OF_TAGS and tags <= _MOST_WALKS


@lru_cache(1000)
def _statement(
    filters: frozenset[str], widths: tuple[tuple[str, int], ...], past: bool, whole: bool
) -> str:
    walks = _Walks(filters, dict(widths))
    if not past:
        is_in_tags = _is_in_tags(filters, dict(widths).get("project_tag", 0))
        lines = _tagged(walks) if is_in_tags else _present(walks)
    elif filters & CHANGING_FILTERS.keys():
        lines = _intervals(walks)
    else:
        lines = _activated(walks)
    return (_PAST_LIST if past else _LIST).format(
        position=position_of(past, "execution"),
        extra="|| ',' || l.extra" if whole else "",
        metrics=METRICS,
        item=ITEM_OF_PAST.format(extra="v.extra" if whole else "NULL::text"),
        lines=lines,
        version=SHOWN_THEN,
    )


_SHOWN = """
l.record_key, l.execution_model, l.head, l.extra, l.counts, l.metrics, l.quiet, l.period_1, l.now_1,
l.period_2, l.now_2
"""

# A condition that is true of every line: with it, the index that begins with both columns serves a
# request for one of them.
_OF_SOME_PAIR = " AND ".join(f"l.{name} = ANY('{{{','.join(_ALL[name])}}}')" for name in _PAIR)


def _present(walks: "_Walks") -> str:
    """Present lines."""
    is_pair_alone = walks.filters.isdisjoint(_TENANTS) and not walks.filters.isdisjoint(_PAIR)
    known = _OF_SOME_PAIR if is_pair_alone else "true"
    is_of_few = walks.filters & {"project_tag", "blocked_cause"}
    groups = () if is_of_few else (_PAIR, ("state",), ("workspace_id",))
    return walks.along("ledger.execution", _SHOWN, groups, known)


def _tagged(walks: "_Walks") -> str:
    """Present lines with one of the requested tags, if no other filter is given."""
    columns = "l.line_id, l.record_key"
    groups = (("project_tag",), ("workspace_id",))
    found = walks.along("ledger.execution_tag", columns, groups, "l.present")
    return _TAGGED.format(walks=found)


_THEN = "l.line_key, l.record_key, l.execution_model"


def _activated(walks: "_Walks") -> str:
    """Past lines without filters on changing columns: the lines activated by the position."""
    known = "l.activated <= p.position"
    return walks.along("ledger.execution", _THEN, (_PAIR, ("workspace_id",)), known)


def _intervals(walks: "_Walks") -> str:
    """Past lines with filters on changing columns: by the intervals that held at the position."""
    known = "l.opened <= p.position AND l.ended > p.position"
    groups = (("state",), ("workspace_id",)) if "state" in walks.filters else ()
    return walks.along("ledger.execution_interval", _THEN, groups, known)


class _Walks:
    """The filters of a request, and the walks that find its lines."""

    def __init__(self, filters: frozenset[str], widths: Mapping[str, int]) -> None:
        self.filters = filters
        self._widths = widths

    def along(
        self,
        table: str,
        columns: str,
        groups: Collection[Collection[str]],
        known: str = "true",
    ) -> str:
        """The walks along a table's indexes that begin with these groups of filters.

        The most useful groups come first; a group that would make too many walks is left out. If no
        tenant is given, there is only one walk: across tenants, no index has the list's order.
        """
        led: list[str] = []
        for group in groups if self.filters & _TENANTS else ():
            if self.filters.isdisjoint(group):
                continue
            if prod(len(self._values(name)) for name in (*led, *group)) <= _MOST_WALKS:
                led += group
        rest = where_line(self.filters - frozenset(led))
        walks = product(*map(self._values, led))
        return " UNION ALL ".join(
            _WALK.format(columns=columns, table=table, where=" AND ".join((*values, known, rest)))
            for values in walks
        )

    def _values(self, name: str) -> list[str]:
        """The conditions for the requested values of a filter, or else for all its values."""
        if name in self.filters:
            return [f"l.{name} = (%({name})s::text[])[{n + 1}]" for n in range(self._widths[name])]
        return [f"l.{name} = '{value}'" for value in _ALL[name]]
