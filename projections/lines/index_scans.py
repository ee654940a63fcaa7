"""The walks along indexes that find the lines of a page (see ``lists.py``)."""

from collections.abc import Collection, Mapping
from itertools import product
from math import prod
from types import MappingProxyType

from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES, STATES
from projections.lines.filters import TENANTS, where_line

MOST_SCANS = 40
"""The most walks of a page: a walk takes some microseconds, even if it finds nothing."""

PAIR = ("execution_model", "product_line")
"""Columns that are walked together: if only one has a filter, each value of the other is walked."""

ALL: Mapping[str, Collection[str]] = {
    "execution_model": EXECUTION_MODELS,
    "product_line": PRODUCT_LINES,
    "state": STATES,
}
WIDE = ("workspace_id", "project_tag", "resource_id", "state", *PAIR)
"""The filters that may have several values, and with which a walk may begin."""

_SCAN = """
(SELECT {columns} FROM {table} AS l WHERE {where} ORDER BY {order} LIMIT %(limit)s)
"""


def direction(back: bool) -> str:
    """The direction of lists by record id: newest first, or back from the oldest."""
    return "ASC" if back else "DESC"


_PLAIN: Mapping[str, str] = MappingProxyType({})


class IndexScans:
    """The filters of a request, and the walks that find its lines."""

    def __init__(
        self,
        filters: frozenset[str],
        widths: Mapping[str, int],
        every: Mapping[str, Collection[str]] = ALL,
        back: bool = False,
    ) -> None:
        """``widths`` has the number of the values of each filter of ``WIDE`` that is given.

        ``every`` has the values that lines may have of filters that are not given. ``back`` walks
        lists by record id from their ends.
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
        """The walks along a table's indexes that begin with these groups of filters.

        The most useful groups come first; a group that would make too many walks is left out. If no
        tenant is given, there is only one walk: across tenants, no index has the list's order.
        ``past`` tells that the table is that of intervals, and ``unasked`` has filters all of whose
        values are walked if they are not given.
        """
        filters = {*self.filters, *unasked}
        useful = [group for group in groups if not filters.isdisjoint(group)]
        led = self.leading(useful if self.filters & TENANTS else ())
        rest = where_line(self.filters - frozenset(led), self.back, past)
        order = f"l.record_key {direction(self.back)}"
        return self.walked(table, columns, order, led, f"{condition} AND {rest}")

    def leading(self, groups: Collection[Collection[str]], each: int = 1) -> list[str]:
        """The filters of those groups that do not make too many walks, of which there are ``each``
        already."""
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
        """A walk for each combination of the values of ``led``, as one subquery.

        ``indexed`` has the expressions that stand in the index in place of columns.
        """
        return " UNION ALL ".join(
            _SCAN.format(
                columns=columns, table=table, order=order, where=" AND ".join((*values, rest))
            )
            for values in product(*(self._values(name, indexed) for name in led))
        )

    def _values(self, name: str, indexed: Mapping[str, str] = _PLAIN) -> list[str]:
        """The conditions for the requested values of a filter, or else for all its values."""
        column = indexed.get(name, f"l.{name}")
        if name in self.filters:
            return [f"{column} = (%({name})s::text[])[{n + 1}]" for n in range(self._widths[name])]
        return [f"{column} = '{value}'" for value in self._every[name]]
