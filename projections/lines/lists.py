"""The statements behind lists of lines, present and past (contract, Reading).

The cost of a page grows only with the size of the page, not with the number of lines, even if few
lines match. The statement scans an index in the list's order, newest record id first, until the
page is full. A filter by state, model or product line, workspace or project gets one scan per
requested value (or combination of values), along an index that begins with these columns.
PostgreSQL merges the scans only as far as the page goes; a scan that finds nothing ends at once. A
single scan for all values would read every line to find three blocked ones.

Other filters are compared line by line, such as one open cause among the lines with open causes.
For a credential without an organization, and for a project or resource with other filters,
PostgreSQL chooses by its statistics which filter is rare and comes first. Present lists in another
order, by health or by blocker are in ``orders.py``; for the past they compare each line.
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
"""Filters by a mark, and the tables of the marks. A line may have several marks.

Such a table repeats the columns of ``_OF_MARKS``."""

_OF_MARKS = TENANTS | {"after"}

_LASTING = _OF_MARKS | {*PAIR, "service_line_id"}
"""Filters by values of a line that never change."""

_LIST = """
SELECT p.position, page.*
FROM ({position}) AS p
LEFT JOIN LATERAL (SELECT l.record_key, {item} FROM {page}) AS page ON true
ORDER BY {order}
"""
# The lines of a page. For the past, only these lines are looked up at the position.
_PAGE = "({lines}) AS l ORDER BY {order} LIMIT %(limit)s"

# The past has no index by these keys: a page reads each matching line, as a summary does.
_SORTED = """
SELECT {then}, {key} AS key FROM ledger.execution_interval AS l
WHERE l.opened <= p.position AND l.ended > p.position AND {where} AND {place}
"""
_KEY_THEN: Mapping[Sort, str] = {
    "state_since": "l.state_since",
    "health_score": f"COALESCE(l.health_score, {NO_SCORE})",
}

# The record ids of a whole list. The statement without a limit has the lines in their order;
# PostgreSQL computes only their ids.
_IDS = """
SELECT max(l.position) AS position,
    array_agg(l.record_key) FILTER (WHERE l.record_key IS NOT NULL) AS ids
FROM ({list}) AS l
"""

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

# A page from a table of marks. A line with two requested marks appears once.
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

    A list with ``sort``, and any list of ``orders.py``, has the key of its order as last column. If
    no line matches, there is one row with nulls after the position.

    ``filters`` maps each filter to its distinct values. The statement depends on their number, not
    on the values, except those of ``health``. The items are list rows, or details if ``whole``.
    With ``back``, the page ends before the line ``after``, or at the list's end; its last row comes
    first.
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
    """(position, index, item of the past) rows for the lines with these record ids, at ``end``."""
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
    """Plan a page by its values if few lines, or most lines, may have these values.

    With few such lines it is best to find these first; with most lines, to scan the list.
    """
    if not filters <= COMPARED | _MARKS.keys():
        is_by_values = True
    elif filters.isdisjoint(TENANTS):
        is_by_values = not filters <= {"after"}
    else:
        is_by_values = not filters.isdisjoint(_MARKS) and (past or mark is None)
    return Planning.BY_VALUES if is_by_values else Planning.SHORT


def _mark(filters: frozenset[str], widths: Mapping[str, int]) -> str | None:
    """The filter whose table of marks finds the page; None if another table finds it.

    Each requested mark gets a scan there: no column filters by several marks at once.
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


_COLUMNS = "l.line_id, l.record_key, l.execution_model, l.head, l.extra, l.quiet"

# True for every line: with this condition, a request for one column uses the index of both.
_OF_SOME_PAIR = " AND ".join(f"l.{name} = ANY('{{{','.join(ALL[name])}}}')" for name in PAIR)


def _present(scans: IndexScans) -> str:
    is_pair_alone = scans.filters.isdisjoint(TENANTS) and not scans.filters.isdisjoint(PAIR)
    condition = _OF_SOME_PAIR if is_pair_alone else "true"
    is_of_few = not scans.filters <= COMPARED - {"blocked_cause"}
    groups = () if is_of_few else (PAIR, ("state",), ("workspace_id",))
    return scans.along("ledger.execution", _COLUMNS, groups, condition)


def _marked(scans: IndexScans, name: str) -> str:
    groups = ((name,), ("workspace_id",))
    found = scans.along(_MARKS[name], "l.line_id, l.record_key", groups, "l.present")
    return _MARKED.format(walks=found, direction=direction(scans.back))


_THEN = "l.line_key, l.record_key, l.execution_model"


def _activated(scans: IndexScans) -> str:
    """Past lines by filters that never change: the lines activated by the position."""
    condition = "l.activated <= p.position"
    return scans.along("ledger.execution", _THEN, (PAIR, ("workspace_id",)), condition)


def _intervals(scans: IndexScans) -> str:
    """Past lines by filters that change: by their intervals at the position."""
    condition = "l.opened <= p.position AND l.ended > p.position"
    # Health has no index: it is compared along the scans of all states.
    is_by_state = "state" in scans.filters or not scans.filters & {"project_tag", "blocked_cause"}
    groups = (("state",), ("workspace_id",)) if is_by_state else ()
    return scans.along(
        "ledger.execution_interval", _THEN, groups, condition, past=True, unasked=("state",)
    )


def _sorted(filters: frozenset[str], sort: Sort, back: bool) -> str:
    key = _KEY_THEN[sort]
    after = f"({key}, -l.record_key) {'<' if back else '>'} (%(after_key)s, -(%(after)s::bigint))"
    return _SORTED.format(
        then=_THEN,
        key=key,
        where=where_line(filters - {"after", "after_key"}, past=True),
        place=after if "after" in filters else "true",
    )
