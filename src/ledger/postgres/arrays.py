"""Arrays as PostgreSQL's own text, for statements that are given a few values of no fixed type.

psycopg dumps lists too, element by element through adapters and regular expressions, and their type
follows from what they hold. As text a parameter has the same type on each call, so that each
statement is prepared once. The statement casts each parameter (``%(name)s::text[]``). What writes
many rows uses ``binary.py``.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
"""Instants and dates as ISO 8601 between quotes, in a tenth of isoformat's time."""


def array_text(items: Iterable[Any]) -> str:
    """An array literal of text, numbers, booleans, bytes, instants, dates and nulls."""
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
        return _encode(item).decode()
    if kind is list or kind is tuple:
        # A row's own array, as text: unnest would flatten it. Cast again where it is used.
        return _quoted(array_text(item))
    return str(item)


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
