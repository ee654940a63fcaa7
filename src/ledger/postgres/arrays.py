"""Arrays as PostgreSQL's text format, for statements with a few values of any type.

psycopg dumps lists too, but element by element through adapters and regular expressions. Their type
then depends on their elements, so one statement may be prepared several times. A parameter in text
format has the same type in each call, so a statement is prepared once. The statement casts each
parameter (``%(name)s::text[]``). Statements that write many rows use ``binary.py``.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
"""Encodes instants and dates as quoted ISO 8601, in a tenth of isoformat's time."""


def array_text(items: Iterable[Any]) -> str:
    """Return an array literal of text, numbers, booleans, bytes, instants, dates and nulls."""
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
        # An array within a row is sent as text: unnest would flatten a nested array. The
        # statement casts it again.
        return _quoted(array_text(item))
    return str(item)


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
