"""The body of a delivery, and a delivery as its endpoint's owner sees it (contract, Feeds)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledger.feed.signing import shown_headers
from ledger.language.rendering import json_text
from projections.event.items import delivery_item


class _Attempt(msgspec.Struct):
    """The part of a recorded attempt that tells of its request."""

    at: datetime


_decode_attempt = msgspec.json.Decoder(_Attempt).decode


def body_of(test: str | None, found: Sequence[Any], sequence: int) -> str:
    """The body of a test, whose envelope the view has, or of an event, as it is stored."""
    if test is not None:
        return f'{{{test},"sequence":{sequence}}}'
    return delivery_item(found, sequence)


def delivery_text(row: Sequence[Any]) -> str:
    """A delivery with its latest request: null before the first attempt.

    The row is one of ``deliveries_statement`` behind the endpoint. The body is rendered from the
    stored event, by the version that runs, as it was for the attempt.
    """
    position, item, number, sequence, url, last, test, *found = row
    request = None
    if url is not None:
        headers = shown_headers(f"EVT-{number}", _decode_attempt(last).at)
        body = body_of(test, (position, *found), sequence)
        request = {"url": url, "headers": headers, "body": body}
    return f'{item[:-1]},"request":{json_text(request)}}}'
