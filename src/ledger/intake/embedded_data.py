"""The data within a structured CloudEvent that has the member ``data_base64``.

SDKs of CloudEvents send data that they were given as bytes in ``data_base64`` (CloudEvents JSON
format, 3.1.1). The ledger keeps JSON only, so the bytes must be JSON, by the rules of every body.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from ledger.domain.errors import Invalid
from ledger.intake import json_gate

MEMBER = "data_base64"
_PLACE = f"/{MEMBER}"


def data_of(event: dict[str, Any]) -> tuple[Any, Sequence[tuple[str, str]]]:
    """Take the data out of an event with this member; return the data, and the member's faults."""
    data, encoded = event.get("data"), event.pop(MEMBER)
    if encoded is None:
        return data, ()
    if data is not None:
        return data, [(_PLACE, "must not stand beside data")]
    try:
        # The data starts at depth 2, as it does in ``data``.
        return json_gate.parse(_bytes(encoded), depth=2), ()
    except json_gate.BrokenJson:
        return None, [(_PLACE, "must hold JSON in UTF-8")]
    except Invalid as error:
        return None, [(_PLACE, sentence) for _, sentence in error.errors]


def _bytes(encoded: Any) -> bytes:
    """The decoded bytes. Raises Invalid unless they are given in standard base64 (RFC 4648, 4)."""
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise Invalid.at(_PLACE, "must be base64")
