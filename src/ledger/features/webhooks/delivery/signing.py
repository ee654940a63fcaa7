"""The request of a delivery: its body, its headers, and how its owner sees it (contract, Feeds).

Signatures follow Standard Webhooks 1.0, and are made by that project's own package.
"""

import base64
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from standardwebhooks import Webhook

from ledger import __version__
from ledger.engine.values.rendering import ViewInstant, doc, json_text
from ledger.engine.values.values import EVENT_ID
from ledger.features.webhooks.formats import mail
from ledger.features.webhooks.formats.contents import content_of
from ledger.features.webhooks.formats.plain import FormatOptions
from ledger.features.webhooks.formats.wording import saying_of
from ledger.features.webhooks.model.channel import CHANNELS
from projections.feed.items import delivery_item

_SECRET_BYTES = 32

USER_AGENT = f"execution-ledger/{__version__}"


class ShownAttempt(msgspec.Struct):
    """An attempt at a delivery."""

    at: ViewInstant
    response_status: int | None
    latency_ms: int
    error: str | None
    response_body: Annotated[str | None, doc("The first KB of the endpoint's answer.")]


class ShownRequest(msgspec.Struct):
    """The request of an attempt at a delivery."""

    url: str
    headers: Annotated[dict[str, str], doc("The signature is masked.")]
    body: Annotated[str, doc("The text of the body, as the running version renders it.")]


class ShownDelivery(msgspec.Struct):
    """A delivery of an event, with its attempts."""

    event_id: Annotated[str, Meta(pattern=EVENT_ID)]
    type: str
    sequence: Annotated[int, Meta(ge=0, description="The event's number; 0 for a test.")]
    status: Annotated[
        Literal["pending", "retrying", "delivered", "failed", "skipped"],
        doc(
            "`pending` before the first attempt, `retrying` after a failed one, `skipped` if the"
            " alert was resolved before an attempt."
        ),
    ]
    attempts: Annotated[list[ShownAttempt], doc("The latest attempts, 50 at most, oldest first.")]
    next_attempt_at: ViewInstant | None
    request: Annotated[
        ShownRequest | None,
        doc("The request of the latest attempt. Null before the first attempt."),
    ]


_decode_attempt = msgspec.json.Decoder(ShownAttempt).decode


def create_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()


def headers(
    event_id: str, body: bytes, at: datetime, secrets: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """The headers that sign a delivery. ``at`` is the time of this attempt, not of the event.

    Each secret gives a signature, so a receiver may still use the old secret after a rotation.
    """
    # The package takes the digits of a time for UTC, whatever its time zone is.
    moment = at.astimezone(UTC)
    text = body.decode()
    signatures = [Webhook(secret).sign(event_id, moment, text) for secret in secrets]
    signed = _signed(event_id, moment, " ".join(signatures))
    return [(name.encode(), value.encode()) for name, value in signed.items()]


def body_of(test: str | None, found: Sequence[Any], sequence: int) -> str:
    """The body of a test from the view's envelope, or of an event from its stored form."""
    if test is not None:
        return f'{{{test},"sequence":{sequence}}}'
    return delivery_item(found, sequence)


def delivery_text(row: Sequence[Any], public_url: str | None, sender: str | None) -> str:
    """A delivery with its latest request, the signature masked; null before the first attempt.

    ``row`` is a row of ``deliveries_read`` after the endpoint. The running version renders the body
    from the stored event, as for the attempt. ``sender`` is the address from which mails come.
    """
    position, item, number, sequence, url, last, test, format_, details, *found = row
    request = None
    if url is not None:
        body = body_of(test, (position, *found), sequence)
        options, at = FormatOptions(format_, details, public_url), _decode_attempt(last).at
        if format_ == "email":
            request = ShownRequest(url, *mail.preview([saying_of(options, body)], sender, at))
        else:
            content = content_of(options, [body])
            headers = {"content-type": content.type, "user-agent": USER_AGENT}
            if format_ not in CHANNELS:
                headers |= _signed(f"EVT-{number}", at, "v1,***")
            request = ShownRequest(url, headers, content.text)
    return f'{item[:-1]},"request":{json_text(request)}}}'


def _signed(event_id: str, at: datetime, signature: str) -> dict[str, str]:
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
