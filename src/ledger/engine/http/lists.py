"""Lists with a cursor: the order of a list, the cursor of a row, and the pages."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.reading import SUBJECTS, Page, ReadRequest
from ledger.engine.http.replies import Reply, page
from ledger.engine.reads.question import Answer
from ledger.engine.values.values import format_instant, id_of_key, parse_instant, sort_key
from ledger.engine.views.statements import Read

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SortColumn(NamedTuple):
    """A column by which a list is ordered."""

    name: str
    column: int
    parameter: str
    """The parameter of the statement for the rows after the cursor."""
    encode: Callable[[Any], Any]
    """Returns the column's value for the cursor."""
    parsed: Callable[[Any], Any]
    """Returns the parameter's value. Raises ValueError for a value that no cursor has."""


def instant(name: str, column: int, parameter: str) -> SortColumn:
    return SortColumn(
        name, column, parameter, format_instant, lambda value: parse_instant(str(value))
    )


def text(name: str, column: int, parameter: str) -> SortColumn:
    return SortColumn(name, column, parameter, lambda value: value, _text)


def number(name: str, column: int, parameter: str, most: int = 2**63 - 1) -> SortColumn:
    """A whole number from 0 to ``most``."""

    def parsed(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise ValueError
        return value

    return SortColumn(name, column, parameter, lambda value: value, parsed)


def identifier(prefix: str, pattern: str, column: int = 1) -> SortColumn:
    """An id; the statement and most rows have it as a number (``sort_key``)."""

    def encode(key: int | str) -> str:
        return key if isinstance(key, str) else id_of_key(prefix, key)

    def parsed(value: Any) -> int:
        if not re.fullmatch(pattern, str(value)):
            raise ValueError
        return sort_key(value)

    return SortColumn("id", column, "after", encode, parsed)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


class Order:
    """The order of a list, by its columns."""

    def __init__(self, *columns: SortColumn) -> None:
        self._columns = columns

    def cursor(self, row: Sequence[Any], bound_to: Mapping[str, Any]) -> str:
        key = {each.name: each.encode(row[each.column]) for each in self._columns}
        return encode_cursor(key, bound_to)

    def after(self, cursor: str | None, bound_to: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters for the rows after a cursor, or none. Raises InvalidCursor."""
        if cursor is None:
            return {}
        found = decode_cursor(cursor, bound_to)
        try:
            return {each.parameter: each.parsed(found.get(each.name)) for each in self._columns}
        except ValueError as error:
            raise InvalidCursor from error

    def page(
        self,
        rows: Answer,
        limit: int,
        bound_to: Mapping[str, Any],
        item: Callable[[Any], str] | None = None,
        *,
        key: int = 1,
        cursor: str | None = None,
        tagged: bool = False,
    ) -> Reply:
        """Return a page; the statement reads one row more than ``limit``.

        The column ``key`` is null if nothing was found. ``item`` makes a row's JSON; without it,
        the JSON is in the column after ``key``. An empty page repeats ``cursor``; any other page
        has the cursor of its last row.
        """
        found = [row for row in rows if row[key] is not None]
        first = found[:limit]
        items = [row[key + 1] for row in first] if item is None else [item(row) for row in first]
        if first:
            cursor = self.cursor(first[-1], bound_to)
        return page(items, cursor, len(found) > len(first), rows.position, tagged=tagged)

    async def listed(
        self,
        request: ReadRequest,
        query: Page,
        chosen: Mapping[str, Any],
        read: Callable[[frozenset[str]], Read],
        item: Callable[[Any], str] | None = None,
    ) -> Reply:
        """``read`` takes the filters' names; the first parameter of a cursor counts as a filter."""
        filters, after = {**request.tenant, **chosen}, self.after(query.cursor, chosen)
        names = frozenset((*filters, *[*after][:1]))
        rows = await request.rows(read(names), {**filters, **after, "limit": query.limit + 1})
        return self.page(rows, query.limit, chosen, item)


def newest_first(subject_type: str) -> Order:
    row = SUBJECTS[subject_type]
    return Order(identifier(row.prefix, row.ids))


def encode_cursor(key: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """Return a row's key as an opaque cursor, bound to the filters that it was made for."""
    document = {**key, "f": _fingerprint(filters)}
    return base64.urlsafe_b64encode(_encode(document)).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The key inside a cursor. Raises InvalidCursor for a foreign cursor or other filters."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        document = _decode(text)
        if document.pop("f") == _fingerprint(filters):
            return document
    except (ValueError, KeyError, RecursionError):
        pass
    raise InvalidCursor


def _fingerprint(filters: Mapping[str, Any]) -> str:
    return _digest(repr(sorted(filters.items())))


@lru_cache(4096)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
