"""Makes texts of tenants safe for an assistant, and answers small enough.

Texts of tenants appear only as values. They are cut, and invisible characters are removed. Free
content, such as a signal's evidence, could bring its own names of fields, so it is JSON in a text.
"""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from execution_ledger.errors import LedgerError
from execution_ledger.mcp.answers import ToolAnswer

LONGEST_TEXT = 500
"""Characters of a text, including the mark for what was cut."""
MOST_BYTES = 32 * 1024
"""Bytes of an answer in JSON, even if each character is written in ASCII."""
ROOM_FOR_CURSOR = 300
"""How many bytes longer than another a cursor may be."""
MOST_ITEMS = 20
"""The most items of a list within a row."""

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters that an assistant reads but a person does not see.

They are controls, marks of direction, fillers, tags and variation selectors, which can carry any
text."""

_JOINS = frozenset("\u200c\u200d\ufe0f")
"""Joiners, which emoji and some scripts need. They are removed without a mark."""

FREE = frozenset({"input", "output", "value", "evidence"})
"""Fields with content of any form, from the reporter."""


class NotFitting(LedgerError):
    """The arguments are wrong. The text has only words of this package."""


def content(value: Any, *, always: bool = False) -> Any:
    """Free content: a number or a text as it is, everything else as JSON; ``always``: texts too."""
    if value is None or (not always and isinstance(value, str | int | float)):
        return value
    return msgspec.json.encode(value).decode()


def safe(value: Any, longest: int = LONGEST_TEXT, name: str = "", depth: int = 0) -> Any:
    """A value with safe texts and without nulls. Lists within rows are cut."""
    if isinstance(value, dict | list) and name in FREE:
        return safe(content(value), longest)
    if isinstance(value, dict):
        present = {key: each for key, each in value.items() if each is not None}
        return {key: safe(each, longest, key, depth + 1) for key, each in present.items()}
    if isinstance(value, list):
        items = value if depth < 2 else value[:MOST_ITEMS]
        return [safe(each, longest, depth=depth + 1) for each in items]
    if isinstance(value, str) and name != "cursor":
        visible = UNSEEN.sub(lambda found: "" if found[0] in _JOINS else "·", value)
        return visible if len(visible) <= longest else f"{visible[: longest - 1]}…"
    return value


def instant_of(text: str | None) -> datetime | None:
    """Parse an instant, or a date, which means 00:00 UTC; None if it is neither."""
    try:
        read = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


def size_of(value: Any) -> int:
    """The bytes of a value as JSON in ASCII."""
    return len(json.dumps(value))


async def fitted(
    make: Callable[[int], Awaitable[ToolAnswer]], limit: int, rows: str
) -> dict[str, Any]:
    """Make an answer that fits into ``MOST_BYTES``, with fewer ``rows`` and then shorter texts."""
    data = msgspec.to_builtins(await make(limit))
    answer: dict[str, Any] = safe(data)
    if size_of(answer) <= MOST_BYTES:
        return answer
    if (fitting := _fitting(answer, rows)) < limit:
        # Read again: the cursor belongs to the last row of a page.
        data = msgspec.to_builtins(await make(fitting))
    for longest in (LONGEST_TEXT, 100, 20):
        answer = safe(data, longest)
        if size_of(answer) <= MOST_BYTES:
            return answer
    raise NotFitting("The answer does not fit: ask for less.")


def _fitting(answer: dict[str, Any], name: str) -> int:
    """How many rows fit next to the rest of an answer; at least one."""
    rows = answer.get(name) or answer.get("things") or []
    room = MOST_BYTES - ROOM_FOR_CURSOR - (size_of(answer) - size_of(rows))
    for count, row in enumerate(rows):
        room -= size_of(row) + 2
        if room < 0:
            return max(1, count)
    return max(1, len(rows))
