"""The statements behind lists of lines, present and past (contract, Reading).

The cost of a page grows with the size of the page only, however many lines there are and however
few of them match: the statement walks an index in the list's order, newest record id first, until
the page is full. If a request filters by state, by model or product line, by workspace or by
project, each requested value (or each combination of values) has a walk of its own, along an index
that begins with these columns. PostgreSQL merges the walks as far as the page goes, and a walk that
finds nothing ends at once. With a single walk for all values, PostgreSQL would read every line to
find the three lines that are blocked.

Other filters are compared line by line, such as a certain open cause among the lines that have open
causes. For a credential that is bound to no organization, and for a project or a resource with
other filters, PostgreSQL chooses by its statistics which filter is rare and comes first. Lists in
another order, by health and by who should act on a blocker by when are in ``orders.py``; of the
past they compare each line.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.views.statements import Read, position_of_page, read_of
from projections.lines.filters import COMPARED, ON_RANKS, TENANTS, where_line
from projections.lines.index_scans import ALL, MOST_SCANS, PAIR, WIDE, IndexScans, direction
from projections.lines.orders import Sort, ranked_read
from projections.lines.rank import NO_SCORE
from projections.lines.statements import item_parts

_MARKS: Mapping[str, str] = {
    "project_tag": "ledger.execution_tag",
    "resource_id": "ledger.execution_resource",
}
"""Filters by a mark that a line may have several of, with the tables of the marks.

Such a table has the columns of ``_OF_MARKS`` itself."""

_OF_MARKS = TENANTS | {"after"}

_LASTING = _OF_MARKS | {*PAIR, "service_line_id"}
"""Filters by what never changes in a line."""

_LIST = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (SELECT l.record_key, {item} FROM {page}) AS page ON true
ORDER BY {order}
"""
# The lines of a page. Of the past, these lines alone are looked up as they were.
_PAGE = "({lines}) AS l ORDER BY {order} LIMIT %(limit)s"

# The past has no index by these keys: a page reads each line that matches, as a summary does.
_SORTED = """
SELECT {then}, {key} AS key FROM ledger.execution_interval AS l
WHERE l.opened <= p.position AND l.ended > p.position AND {where} AND {place}
"""
_KEY_THEN: Mapping[Sort, str] = {
    "state_since": "l.state_since",
    "health_score": f"COALESCE(l.health_score, {NO_SCORE})",
}

# The record ids of a whole list. Its statement without a limit has the lines in their order, of
# which PostgreSQL makes no more than the ids.
_IDS = """
SELECT max(l.position) AS position,
    array_agg(l.record_key) FILTER (WHERE l.record_key IS NOT NULL) AS ids
FROM ({list}) AS l
"""

# The lines of an export's page, as they were at its position.
_EXPORTED = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (
    SELECT asked.place, {item}
    FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS asked (record_key, place)
    JOIN ledger.execution AS l ON l.record_key = asked.record_key AND {where} {version}
) AS page ON true
ORDER BY page.place
"""

# The lines of a page that is found in a table of marks. A line with two requested marks comes once.
_MARKED = """
SELECT e.* FROM (
    SELECT DISTINCT ON (l.record_key) l.record_key, l.line_id FROM ({walks}) AS l
    ORDER BY l.record_key {direction} LIMIT %(limit)s
) AS l JOIN ledger.execution AS e ON e.line_id = l.line_id
"""


def list_read(
    filters: Mapping[str, Any],
    past: bool = False,
    whole: bool = False,
    sort: Sort | None = None,
    back: bool = False,
) -> Read:
    """(position, record_key, item) rows, with the item of ``statements.item_parts``.

    A list in an order ``sort``, and any of ``orders.py``, has the key of its order as last column.
    If no line matches, a row whose columns after the position are null.

    ``filters`` maps each filter to its distinct values: the statement depends on their number, not
    on the values, except those of ``health``. The items are list rows, or details if ``whole``.
    Walked ``back``, the page ends before the place ``after``, or at the end of the list, and its
    last row comes first.
    """
    widths = {name: min(len(filters[name]), MOST_SCANS + 1) for name in WIDE if name in filters}
    names, counted = frozenset(filters), tuple(widths.items())
    if not past and (sort is not None or names & ON_RANKS):
        return ranked_read(names, counted, tuple(filters.get("health", ())), sort, whole, back)
    return _read(names, counted, past, whole, sort, back)


def ids_read(filters: Mapping[str, Any], past: bool, sort: Sort | None) -> Read:
    """A single (position, record ids or null) row: all lines of a list, in its order.

    The parameter ``limit`` is null.
    """
    page = list_read(filters, past, sort=sort)
    sql = _IDS.format(list=page.sql)
    return page._replace(sql=sql, planning=Planning.SCAN, is_pure=False)


def exported_read(tenant: frozenset[str]) -> Read:
    """(position, place, item of the past) rows of the lines of these record ids, at ``end``."""
    return read_of(
        _EXPORTED,
        "execution",
        "watch",
        planning=Planning.SCAN,
        position=position_of_page("execution", "watch"),
        where=where_line(tenant),
        **item_parts(past=True, whole=False),
    )


def _planning(filters: frozenset[str], past: bool, mark: str | None) -> Planning:
    """The planning of a page: by its values if few lines or most lines may have these values.

    If few lines have the values, it is best to find these lines first; if most lines have them, it
    is best to walk the list.
    """
    if not filters <= COMPARED | _MARKS.keys():
        is_by_values = True
    elif filters.isdisjoint(TENANTS):
        is_by_values = not filters <= {"after"}
    else:
        is_by_values = not filters.isdisjoint(_MARKS) and (past or mark is None)
    return Planning.BY_VALUES if is_by_values else Planning.SHORT


def _mark(filters: frozenset[str], widths: Mapping[str, int]) -> str | None:
    """The filter in whose table of marks the page is found; None: the page is found elsewhere.

    Every requested mark has a walk there: the table has no column to filter by several at once.
    """
    for name in _MARKS:
        is_there = {name, "organization"} <= filters <= _OF_MARKS | {name}
        if is_there and widths[name] <= MOST_SCANS:
            return name
    return None


@lru_cache(1000)
def _read(
    filters: frozenset[str],
    widths: tuple[tuple[str, int], ...],
    past: bool,
    whole: bool,
    sort: Sort | None,
    back: bool,
) -> Read:
    scans, mark = IndexScans(filters, dict(widths), back=back), _mark(filters, dict(widths))
    parts, order = item_parts(past, whole), f"record_key {direction(back)}"
    item, planning = parts["item"], _planning(filters, past, mark)
    if sort is not None:
        lines, planning = _sorted(filters, sort, back), Planning.BY_VALUES
        item, order = f"{item}, l.key", f"key {'DESC' if back else 'ASC'}, {order}"
    elif not past:
        lines = _present(scans) if mark is None else _marked(scans, mark)
    elif filters <= _LASTING:
        lines = _activated(scans)
    else:
        lines = _intervals(scans)
    page = _PAGE.format(lines=lines, order=order)
    return read_of(
        _LIST,
        "execution",
        "watch",
        past=past,
        planning=planning,
        is_pure=True,
        item=item,
        page=f"(SELECT * FROM {page}) AS l {parts['version']}" if past else page,
        order=order,
    )


_COLUMNS = """
l.line_id, l.record_key, l.execution_model, l.head, l.extra, l.counts, l.metrics, l.quiet,
l.period_1, l.now_1, l.period_2, l.now_2
"""

# A condition that is true of every line: with it, the index that begins with both columns serves a
# request for one of them.
_OF_SOME_PAIR = " AND ".join(f"l.{name} = ANY('{{{','.join(ALL[name])}}}')" for name in PAIR)


def _present(scans: IndexScans) -> str:
    is_pair_alone = scans.filters.isdisjoint(TENANTS) and not scans.filters.isdisjoint(PAIR)
    condition = _OF_SOME_PAIR if is_pair_alone else "true"
    is_of_few = not scans.filters <= COMPARED - {"blocked_cause"}
    groups = () if is_of_few else (PAIR, ("state",), ("workspace_id",))
    return scans.along("ledger.execution", _COLUMNS, groups, condition)


def _marked(scans: IndexScans, name: str) -> str:
    """Present lines with one of the requested marks, if no other filter is given."""
    groups = ((name,), ("workspace_id",))
    found = scans.along(_MARKS[name], "l.line_id, l.record_key", groups, "l.present")
    return _MARKED.format(walks=found, direction=direction(scans.back))


_THEN = "l.line_key, l.record_key, l.execution_model"


def _activated(scans: IndexScans) -> str:
    """Past lines without filters on changing columns: the lines activated by the position."""
    condition = "l.activated <= p.position"
    return scans.along("ledger.execution", _THEN, (PAIR, ("workspace_id",)), condition)


def _intervals(scans: IndexScans) -> str:
    """Past lines with filters on changing columns: by the intervals that held at the position."""
    condition = "l.opened <= p.position AND l.ended > p.position"
    # Health has no index: it is compared along the walks of all states.
    is_by_state = "state" in scans.filters or not scans.filters & {"project_tag", "blocked_cause"}
    groups = (("state",), ("workspace_id",)) if is_by_state else ()
    return scans.along(
        "ledger.execution_interval", _THEN, groups, condition, past=True, unasked=("state",)
    )


def _sorted(filters: frozenset[str], sort: Sort, back: bool) -> str:
    """Past lines in an order of their own, each of them with its key."""
    key = _KEY_THEN[sort]
    after = f"({key}, -l.record_key) {'<' if back else '>'} (%(after_key)s, -(%(after)s::bigint))"
    return _SORTED.format(
        then=_THEN,
        key=key,
        where=where_line(filters - {"after", "after_key"}, past=True),
        place=after if "after" in filters else "true",
    )
