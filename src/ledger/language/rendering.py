"""JSON texts that views store, so that reads pass them on without parsing."""

from datetime import datetime
from typing import Any

import msgspec

from ledger.domain.values import format_instant

_encode = msgspec.json.Encoder().encode


def time_text(instant: datetime | None) -> str | None:
    """An instant as the API shows it."""
    return None if instant is None else format_instant(instant)


def json_text(value: Any) -> str:
    """A value as JSON text."""
    return _encode(value).decode()


def members(value: dict[str, Any]) -> str:
    """The JSON members of an object without its braces, to be joined with other members."""
    return json_text(value)[1:-1]
