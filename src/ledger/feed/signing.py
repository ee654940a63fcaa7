"""Signatures of webhooks by Standard Webhooks 1.0, made by that project's own package."""

import base64
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from ledger import __version__

_SECRET_BYTES = 32

CONTENT = {"content-type": "application/json", "user-agent": f"execution-ledger/{__version__}"}
"""The headers of each delivery that do not depend on its event."""


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
    signed = _signed(event_id, moment, " ".join(signatures))
    return [(name.encode(), value.encode()) for name, value in signed.items()]


def shown_headers(event_id: str, at: datetime) -> dict[str, str]:
    """The headers of an attempt at ``at``, as they are shown: with a masked signature."""
    return CONTENT | _signed(event_id, at, "v1,***")


def _signed(event_id: str, at: datetime, signature: str) -> dict[str, str]:
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
