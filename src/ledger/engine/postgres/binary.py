"""Arrays and ``COPY`` in PostgreSQL's binary format, for many rows; arrays as text, for a few.

psycopg dumps a list element by element through its adapters, and PostgreSQL parses a text array
character by character, with its quotes and escapes. Most values of the ledger are JSON, with many
quotes. In binary format both sides copy bytes: a column of a declared type is encoded at once, each
value with its length before it. psycopg writes the rows of ``COPY``.

Types have their SQL names. A statement casts each array parameter (``%(name)s::text[]``), so its
type is the same in each call, and the statement is prepared once.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from psycopg import Copy

_NULL = b"\xff\xff\xff\xff"
"""The length field of NULL (-1)."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()

_length = struct.Struct(">i").pack
_boolean = struct.Struct(">i?").pack
_int = struct.Struct(">ii").pack
_bigint = struct.Struct(">iq").pack
_double = struct.Struct(">id").pack
_array_head = struct.Struct(">iiiii").pack
_empty_array_head = struct.Struct(">iii").pack

_LENGTHS = [_length(length) for length in range(4096)]
"""The length fields of most values, precomputed: this halves the time to encode a value."""

_json = msgspec.json.Encoder().encode
"""Encodes instants and dates as quoted ISO 8601, in a tenth of isoformat's time."""


class BinaryArray(bytes):
    """An array in the binary format of the wire protocol."""


def _micros(items: Iterable[datetime | None]) -> list[int | None]:
    # A division by a timedelta takes longer.
    return [
        None
        if at is None
        else ((since := at - _EPOCH).days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        for at in items
    ]


def _days(items: Iterable[date | None]) -> list[int | None]:
    return [None if day is None else day.toordinal() - _EPOCH_DAY for day in items]


class _Type(NamedTuple):
    """A type of columns. Its values have one size, or are texts or bytes."""

    oid: int
    size: int
    """The bytes of a value; 0 if they differ."""
    pack: Callable[..., bytes]
    """Encodes a value; one of a fixed size behind its size, as ``pack(size, value)``."""
    numbers: Callable[[Iterable[Any]], list[int | None]] | None = None
    """Converts the values to numbers before they are packed."""


_TYPES: dict[str, _Type] = {
    "bool": _Type(16, 1, _boolean),
    "bytea": _Type(17, 0, bytes.__bytes__),
    "bigint": _Type(20, 8, _bigint),
    "int": _Type(23, 4, _int),
    "text": _Type(25, 0, str.encode),
    "float8": _Type(701, 8, _double),
    "date": _Type(1082, 4, _int, _days),
    "timestamptz": _Type(1184, 8, _bigint, _micros),
    "uuid": _Type(2950, 0, bytes.__bytes__),
    "text[]": _Type(1009, 0, str.encode),
}
"""The types of the ledger's columns, with PostgreSQL's type OIDs."""


_EMPTY = {name: BinaryArray(_empty_array_head(0, 0, type_.oid)) for name, type_ in _TYPES.items()}


def array(type_: str, items: Iterable[Any]) -> BinaryArray:
    """Encode an array of a type's values; ``text[]`` ones as text, since arrays do not nest."""
    if type_ == "text[]":
        type_, items = "text", map(array_text, items)
    oid, size, pack, numbers = _TYPES[type_]
    values: list[Any] = list(items) if numbers is None else numbers(items)
    if not values:
        return _EMPTY[type_]
    if size:
        body = b"".join([_NULL if value is None else pack(size, value) for value in values])
    else:
        try:
            encoded = list(map(pack, values))
            lengths = list(map(_LENGTHS.__getitem__, map(len, encoded)))
        except (TypeError, IndexError):  # few columns have a null or a long value
            encoded = [b"" if value is None else pack(value) for value in values]
            lengths = [
                _length(-1 if v is None else len(e)) for v, e in zip(values, encoded, strict=True)
            ]
        body = b"".join(chain.from_iterable(zip(lengths, encoded, strict=True)))
    return BinaryArray(_array_head(1, 1, oid, len(values), 1) + body)


def unnested(parameter: str, type_: str) -> str:
    """Return SQL for the elements of an array, one row for each element.

    Use it in a ``SELECT`` list: there PostgreSQL unnests all arrays in lockstep. In ``FROM``,
    PostgreSQL would first copy each array into a tuplestore.
    """
    if type_.endswith("[]"):
        return f"unnest({parameter}::text[])::{type_}"
    return f"unnest({parameter}::{type_}[])"


def copy_rows(copy: Copy, types: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows to a ``COPY`` in binary format."""
    copy.set_types([_TYPES[type_].oid for type_ in types])
    for row in rows:
        copy.write_row(row)


def array_text(items: Iterable[Any]) -> str:
    """An array literal of text, numbers, booleans, bytes, instants, dates and nulls.

    Use it for statements with a few values of any type. psycopg dumps lists element by element, and
    their type then depends on the elements, so one statement may be prepared several times.
    """
    return "{" + ",".join(map(_element, items)) + "}"


def _element(item: Any) -> str:
    kind = type(item)
    if kind is str:
        return _quoted(item)
    if item is None:
        return "NULL"
    if kind is bytes:
        return f'"\\\\x{item.hex()}"'
    if kind is datetime or kind is date:
        return _json(item).decode()
    if kind is list or kind is tuple:
        # An array within a row is sent as text, since unnest would flatten a nested array. The
        # statement casts it again.
        return _quoted(array_text(item))
    return str(item)


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
