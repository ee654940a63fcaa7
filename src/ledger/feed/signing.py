"""Signatures of webhooks by Standard Webhooks 1.0, made by that project's own package."""

import base64
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

_SECRET_BYTES = 32


def create_secret() -> str:
    """A new endpoint secret."""
    return "whsec_" + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()


def headers(
    event_id: str, body: bytes, at: datetime, secrets: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """The headers that sign a delivery. ``at`` is the time of this attempt, not of the event.

    Each secret gives a signature, so a receiver may still hold the old secret after a rotation.
    """
    # The package takes the digits of a time for UTC, whatever its time zone is.
    moment = at.astimezone(UTC)
    text = body.decode()
    signatures = [Webhook(secret).sign(event_id, moment, text) for secret in secrets]
    return [
        (b"webhook-id", event_id.encode()),
        (b"webhook-timestamp", b"%d" % int(moment.timestamp())),
        (b"webhook-signature", " ".join(signatures).encode()),
    ]
