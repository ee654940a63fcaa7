"""pandas: rows of the ledger as a table, with a type for each column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from functools import cache
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec.structs import fields

from execution_ledger import _operations, types
from execution_ledger._operation import Listing, Operation
from execution_ledger._requests import decoder
from execution_ledger._sync.transport import Export, Pages

try:
    from pandas import DataFrame, Series
except ImportError as error:
    message = "Install pandas: pip install 'execution-ledger-client[pandas]'."
    raise ImportError(message) from error

INSTANT = "datetime64[us, UTC]"
DTYPES = {bool: "boolean", int: "Int64", float: "Float64", str: "string"}
DTYPES |= {datetime: INSTANT, date: "datetime64[us]"}
"""The dtypes of columns. Each of them has nulls, which are never 0 nor False."""
EVENT: Any = types.Event
"""The class of rows of events. Each event type has a class of its own."""
RENAMED = {"seconds_by_state": "seconds", "seconds_by_cause": "cause_seconds"}
"""The names of the sums' columns in exports: ``seconds_running``."""


class LedgerFrame(DataFrame):
    """A ``pandas.DataFrame`` of a list, an export or any rows that the client has read.

    ``LedgerFrame(ledger.usage.month("2026-11"))``; for an ``AsyncLedger``, give a list of the rows.
    Instants are in UTC, numbers may be null. Fields of an object become columns, such as
    ``error_code``; lists stay as they are. Columns and dtypes come from the rows' class, so they
    are the same without any row.
    """

    def __init__(self, rows: Iterable[Any] | Export) -> None:
        kind = row_type(rows._operation) if isinstance(rows, Pages | Export) else None
        found = list(decoded(rows, kind) if isinstance(rows, Export) else rows)
        kinds = [types.OtherEvent if kind is EVENT else kind] if kind is not None else []
        kinds = list(dict.fromkeys(map(type, found))) or kinds
        columns = {column.name: column for kind in kinds for column in columns_of(kind)}
        series: dict[str, Series] = {}
        for column in columns.values():
            values = [column.value(row) for row in found]
            series |= spread(column, values)
        super().__init__(series)


class Column(NamedTuple):
    """A field of rows, or of an object within them."""

    name: str
    path: tuple[str, ...]
    dtype: str
    parts: str | None = None
    """The dtype of a mapping's values, which become columns; None for other fields."""

    def value(self, row: Any) -> Any:
        """The value in a row, or None."""
        for name in self.path:
            row = getattr(row, name, None)
        return row


@cache
def columns_of(kind: type, prefix: str = "", path: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """The columns of a class of rows."""
    return tuple(_columns(kind, prefix, path))


def _columns(kind: type, prefix: str, path: tuple[str, ...]) -> Iterator[Column]:
    for field in fields(kind):
        name, here = prefix + RENAMED.get(field.encode_name, field.encode_name), (*path, field.name)
        choices = get_args(field.type)
        bare = choices[0] if NoneType in choices else field.type
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            yield from columns_of(bare, f"{name}_", here)
        elif get_origin(bare) is dict and get_args(bare)[1] in DTYPES:
            yield Column(name, here, "object", DTYPES[get_args(bare)[1]])
        else:
            yield Column(name, here, DTYPES.get(bare, "object"))


def spread(column: Column, values: list[Any]) -> dict[str, Series]:
    """The columns of a field; a mapping gives one for each key."""
    if column.parts is None:
        return {column.name: Series(values, dtype=column.dtype)}
    names = dict.fromkeys(name for value in values for name in value or ())
    return {
        f"{column.name}_{name}": Series([(v or {}).get(name) for v in values], dtype=column.parts)
        for name in names
    }


def row_type(operation: Operation[Any]) -> Any:
    """The class of the rows of a list, or of the list that an export has."""
    path = operation.path.removesuffix("/export")
    for listing in vars(_operations).values():
        if isinstance(listing, Operation) and (listing.method, listing.path) == ("GET", path):
            if isinstance(listing, Listing):
                return listing.type
            page = types_of(types_of(listing.type)["data"])
            return get_args(page["rows"])[0]
    raise ValueError(f"{operation.path} has no rows")


def types_of(kind: Any) -> Mapping[str, Any]:
    """The types of a class's fields."""
    return {field.name: field.type for field in fields(kind)}


def decoded(export: Export, kind: Any) -> Iterator[Any]:
    """Decode the rows of an export, without its total."""
    arguments = {**export._arguments, "format": "jsonl"}
    for line in Export(export._transport, export._operation, export._ids, arguments):
        if line and not line.startswith('{"total":'):
            yield decoder(kind).decode(line)
