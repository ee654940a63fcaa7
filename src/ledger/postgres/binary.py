"""Values in PostgreSQL's own binary form, for statements that write many rows: arrays and ``COPY``.

psycopg dumps a list element by element through its adapters, and as text PostgreSQL reads it
character by character, quotes and escapes included: most of what we write is JSON. In binary both
sides copy bytes. A column of a declared type is encoded at once, each value with its length before
it; an array and a ``COPY`` stream are two ways of stringing the same values together.

The types are named as SQL names them. A statement casts each array that it is given
(``%(name)s::text[]``), and so tells PostgreSQL what it is: it is prepared once.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import chain, repeat
from typing import Any, NamedTuple

from ledger.postgres import arrays

_NULL = b"\xff\xff\xff\xff"
"""The length of a value that is none."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)

_length = struct.Struct(">i").pack
_int = struct.Struct(">ii").pack
_bigint = struct.Struct(">iq").pack
_double = struct.Struct(">id").pack
_array_head = struct.Struct(">iiiii").pack
_empty_array_head = struct.Struct(">iii").pack
_field_count = struct.Struct(">h").pack

_LENGTHS = [_length(length) for length in range(4096)]
"""The lengths of most values, ready: half of what a value's encoding would take otherwise."""

_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"

_Parts = tuple[list[bytes], ...]
"""Columns of bytes: side by side they are a column's values, each with its length before it."""

_Encode = Callable[[Sequence[Any]], _Parts]


class BinaryArray(bytes):
    """An array as PostgreSQL receives it."""


def _sized(values: list[Any]) -> _Parts:
    """Bytes, or None, with their lengths; the usual column has no None, and nothing long."""
    try:
        return list(map(_LENGTHS.__getitem__, map(len, values))), values
    except (TypeError, IndexError):
        lengths = [_NULL if value is None else _length(len(value)) for value in values]
        return lengths, [value or b"" for value in values]


def _text(items: Sequence[str | None]) -> _Parts:
    try:
        return _sized(list(map(str.encode, items)))  # type: ignore[arg-type]
    except TypeError:
        return _sized([None if item is None else item.encode() for item in items])


def _bytes(items: Sequence[bytes | None]) -> _Parts:
    return _sized(list(items))


def _booleans(items: Sequence[bool]) -> _Parts:
    return ([b"\0\0\0\1\1" if item else b"\0\0\0\1\0" for item in items],)


def _numbers(pack: Callable[[int, Any], bytes], size: int) -> _Encode:
    return lambda items: ([_NULL if item is None else pack(size, item) for item in items],)


def _instants(items: Sequence[datetime | None]) -> _Parts:
    return ([_NULL if at is None else _bigint(8, (at - _EPOCH) // _MICROSECOND) for at in items],)


def _dates(items: Sequence[date | None]) -> _Parts:
    return ([_NULL if day is None else _int(4, day.toordinal() - _EPOCH_DAY) for day in items],)


def _text_arrays(items: Sequence[Iterable[str]]) -> _Parts:
    return _sized([array("text", item) for item in items])


class _Type(NamedTuple):
    oid: int
    encode: _Encode


_TYPES: dict[str, _Type] = {
    "bool": _Type(16, _booleans),
    "bytea": _Type(17, _bytes),
    "bigint": _Type(20, _numbers(_bigint, 8)),
    "int": _Type(23, _numbers(_int, 4)),
    "text": _Type(25, _text),
    "float8": _Type(701, _numbers(_double, 8)),
    "date": _Type(1082, _dates),
    "timestamptz": _Type(1184, _instants),
    "text[]": _Type(1009, _text_arrays),
}
"""The types that our tables have, with PostgreSQL's own numbers for them."""


_EMPTY = {name: BinaryArray(_empty_array_head(0, 0, type_.oid)) for name, type_ in _TYPES.items()}


def array(type_: str, items: Iterable[Any]) -> BinaryArray:
    """An array of a type's values; ``text[]`` ones travel as text, since arrays do not nest."""
    if type_ == "text[]":
        type_, items = "text", map(arrays.array_text, items)
    values = items if isinstance(items, list) else list(items)
    if not values:
        return _EMPTY[type_]
    oid, encode = _TYPES[type_]
    body = b"".join(chain.from_iterable(zip(*encode(values), strict=True)))
    return BinaryArray(_array_head(1, 1, oid, len(values), 1) + body)


def unnested(place: str, type_: str) -> str:
    """SQL that gives the elements of an array of a type, one a row.

    In a ``SELECT`` list: there PostgreSQL walks all arrays side by side. In ``FROM`` it would first
    copy each of them into a store of its own.
    """
    if type_.endswith("[]"):
        return f"unnest({place}::text[])::{type_}"
    return f"unnest({place}::{type_}[])"


def copy_rows(types: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows, at least one, in ``COPY``'s binary format."""
    columns = zip(*rows, strict=True)
    parts = [_TYPES[type_].encode(column) for type_, column in zip(types, columns, strict=True)]
    count = repeat(_field_count(len(types)))
    body = b"".join(chain.from_iterable(zip(count, *chain(*parts), strict=False)))
    return _COPY_HEAD + body + _COPY_END
