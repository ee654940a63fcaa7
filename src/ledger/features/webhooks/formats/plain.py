"""The formats that carry the envelope itself: ``standard`` and ``cloudevents`` (contract, Feeds).

An endpoint without ``details`` gets the ids, kind and times of an alert, and no words of a tenant.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ledger.features.webhooks.model.channel import Format

JSON = "application/json"
CLOUDEVENT = "application/cloudevents+json"

ALERT = "alert."
"""The prefix of the types of alerts' events."""

_FIELDS = ("alert_id", "watch_id", "severity", "subject", "since", "due", "evidence", "until")
"""The payload's fields that an endpoint without details gets, and the kind of the condition."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class FormatOptions(NamedTuple):
    """How an endpoint receives an event."""

    format: Format
    details: bool
    public_url: str | None
    """The base of links; None for messages without links."""

    def link_to(self, subject: Mapping[str, str]) -> str | None:
        """The address of the page about an alert or a webhook endpoint; None if it has no page."""
        if self.public_url is None:
            return None
        return f"{self.public_url}/ui/{subject['type']}s/{subject['id']}"


class Content(NamedTuple):
    """The body of a request, and its content type."""

    type: str
    text: str


def envelope_of(options: FormatOptions, body: str) -> dict[str, Any]:
    """The envelope, without an alert's details if the endpoint gets none."""
    envelope = _decode(body)
    if options.details or not envelope["type"].startswith(ALERT):
        return envelope
    payload = envelope["payload"]
    fields = {name: payload[name] for name in _FIELDS if name in payload}
    if "condition" in payload:
        fields["condition"] = {"kind": payload["condition"]["kind"]}
    return envelope | {"payload": fields | {"link": options.link_to(envelope["subject"])}}


def cloudevent_of(envelope: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": envelope["id"],
        "source": f"/v1/organizations/{envelope['organization_id']}",
        "type": envelope["type"],
        "subject": envelope["subject"]["id"],
        "time": envelope["occurred_at"],
        "datacontenttype": JSON,
        "data": envelope,
    }
