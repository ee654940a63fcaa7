"""The index scans that find the lines of a page (see ``lists.py``)."""

from collections.abc import Collection, Mapping
from itertools import product
from math import prod
from types import MappingProxyType

from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES, STATES
from projections.lines.filters import TENANTS, where_line

MOST_SCANS = 40
"""A page makes at most this many scans. One takes microseconds, even if it finds nothing."""

PAIR = ("execution_model", "product_line")
"""Columns of one index: if only one has a filter, each value of the other gets a scan."""

ALL: Mapping[str, Collection[str]] = {
    "execution_model": EXECUTION_MODELS,
    "product_line": PRODUCT_LINES,
    "state": STATES,
}
WIDE = ("workspace_id", "project_tag", "resource_id", "state", *PAIR)
"""The filters that may have several values, and that an index may begin with."""

_SCAN = """
(SELECT {columns} FROM {table} AS l WHERE {where} ORDER BY {order} LIMIT %(limit)s)
"""


def direction(back: bool) -> str:
    return "ASC" if back else "DESC"


_PLAIN: Mapping[str, str] = MappingProxyType({})


class IndexScans:
    """The filters of a request, and the index scans that find its lines."""

    def __init__(
        self,
        filters: frozenset[str],
        widths: Mapping[str, int],
        every: Mapping[str, Collection[str]] = ALL,
        back: bool = False,
    ) -> None:
        """``widths`` maps each requested filter of ``WIDE`` to the number of its values.

        ``every`` has all possible values of filters that are not requested. ``back`` scans lists by
        record id from their ends.
        """
        self.filters = filters
        self.back = back
        self._widths, self._every = widths, every

    def along(
        self,
        table: str,
        columns: str,
        groups: Collection[Collection[str]],
        condition: str = "true",
        *,
        past: bool = False,
        unasked: Collection[str] = (),
    ) -> str:
        """SQL: scans of a table's indexes that begin with these groups of filters.

        Put the most useful groups first: a group that needs too many scans is left out. Without a
        tenant there is a single scan: across tenants, no index has the list's order. ``past``: the
        table has intervals. Filters ``unasked`` get a scan per possible value if not requested.
        """
        filters = {*self.filters, *unasked}
        useful = [group for group in groups if not filters.isdisjoint(group)]
        led = self.leading(useful if self.filters & TENANTS else ())
        rest = where_line(self.filters - frozenset(led), self.back, past)
        order = f"l.record_key {direction(self.back)}"
        return self.walked(table, columns, order, led, f"{condition} AND {rest}")

    def leading(self, groups: Collection[Collection[str]], each: int = 1) -> list[str]:
        """The filters of groups that fit into ``MOST_SCANS``; each scan counts ``each`` times."""
        led: list[str] = []
        for group in groups:
            if each * prod(len(self._values(name)) for name in (*led, *group)) <= MOST_SCANS:
                led += group
        return led

    def walked(
        self,
        table: str,
        columns: str,
        order: str,
        led: Collection[str],
        rest: str,
        indexed: Mapping[str, str] = _PLAIN,
    ) -> str:
        """SQL: a scan for each combination of the values of ``led``, as one subquery.

        ``indexed`` maps columns to the expressions that the index has instead.
        """
        return " UNION ALL ".join(
            _SCAN.format(
                columns=columns, table=table, order=order, where=" AND ".join((*values, rest))
            )
            for values in product(*(self._values(name, indexed) for name in led))
        )

    def _values(self, name: str, indexed: Mapping[str, str] = _PLAIN) -> list[str]:
        """A condition for each requested value of a filter, or for each possible value."""
        column = indexed.get(name, f"l.{name}")
        if name in self.filters:
            return [f"{column} = (%({name})s::text[])[{n + 1}]" for n in range(self._widths[name])]
        return [f"{column} = '{value}'" for value in self._every[name]]
