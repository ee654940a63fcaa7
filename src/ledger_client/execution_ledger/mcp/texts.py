"""Texts of tenants, made safe for an assistant, and answers, made to fit.

Texts of tenants stand as values alone, cut, without characters that nobody sees. Free content, such
as a signal's evidence, would bring names of fields of its own: so it stands as JSON in a text.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from execution_ledger.errors import LedgerError
from execution_ledger.mcp.answers import ToolAnswer

LONGEST_TEXT = 500
"""Characters of a text, the mark of what was cut included."""
MOST_BYTES = 32 * 1024
"""Bytes of an answer in JSON, also where each character is written in ASCII."""
MOST_ITEMS = 20
"""Items of a list within a row."""

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f]"
)
"""Controls, marks of direction, tags: an assistant reads them, and a person does not see them."""

FREE = frozenset({"input", "output", "value", "evidence"})
"""Fields whose content its reporter shapes."""

_KEEPS = frozenset({"cursor"})


class NotFitting(LedgerError):
    """The arguments do not fit; the text says so in words of ours."""


def content(value: Any, *, always: bool = False) -> Any:
    """Free content: a number or a text as it is, all else as JSON; with ``always`` texts too."""
    if value is None or (not always and isinstance(value, str | int | float)):
        return value
    return msgspec.json.encode(value).decode()


def safe(value: Any, longest: int = LONGEST_TEXT, name: str = "", depth: int = 0) -> Any:
    """A value of an answer, with safe texts and without nulls; lists within rows are cut."""
    if isinstance(value, dict):
        if name in FREE:
            return safe(content(value), longest)
        told = {key: each for key, each in value.items() if each is not None}
        return {key: safe(each, longest, key, depth + 1) for key, each in told.items()}
    if isinstance(value, list):
        if name in FREE:
            return safe(content(value), longest)
        items = value if depth < 2 else value[:MOST_ITEMS]
        return [safe(each, longest, depth=depth + 1) for each in items]
    if isinstance(value, str) and name not in _KEEPS:
        seen = UNSEEN.sub("·", value)
        return seen if len(seen) <= longest else f"{seen[: longest - 1]}…"
    return value


async def fitted(make: Callable[[int], Awaitable[ToolAnswer]], limit: int) -> dict[str, Any]:
    """An answer of at most so many bytes: with fewer rows, and at last with shorter texts."""
    while True:
        told = msgspec.to_builtins(await make(limit))
        for longest in (LONGEST_TEXT,) if limit > 1 else (LONGEST_TEXT, 100, 20):
            answer: dict[str, Any] = safe(told, longest)
            size = len(json.dumps(answer))
            if size <= MOST_BYTES:
                return answer
        if limit == 1:
            raise NotFitting("The answer does not fit: ask for less.")
        rows = max((len(each) for each in told.values() if isinstance(each, list)), default=1)
        limit = max(1, min(limit - 1, rows * MOST_BYTES // size))
