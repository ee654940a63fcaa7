"""Events of PagerDuty's Events API v2. An alert is an incident under its ALR id."""

from typing import Any

from ledger.features.webhooks.formats.plain import ALERT
from ledger.features.webhooks.formats.wording import Saying, cut

_ACTIONS = {"alert.acknowledged": "acknowledge", "alert.resolved": "resolve"}

# PagerDuty cuts a longer summary (developer.pagerduty.com, PD-CEF).
_SUMMARY = 1024


def event_of(saying: Saying, envelope: dict[str, Any], routing_key: str) -> dict[str, Any]:
    """The event that triggers, acknowledges or resolves an incident."""
    action = _ACTIONS.get(saying.type, "trigger")
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": saying.subject_id,
    }
    if action != "trigger":
        return event
    payload = envelope["payload"]
    # PagerDuty shows the severity next to the summary.
    beginning = "" if saying.type == f"{ALERT}opened" else saying.beginning
    event |= {
        "payload": {
            "summary": cut(beginning + saying.sentence, _SUMMARY),
            "source": payload.get("subject", envelope["subject"])["id"],
            "severity": saying.severity,
            "timestamp": envelope["occurred_at"],
            "component": envelope["service_line_id"],
            "group": envelope["workspace_id"],
            "class": payload.get("condition", {}).get("kind", saying.type),
            "custom_details": payload,
        },
        "client": "Execution ledger",
    }
    event["payload"] = {k: v for k, v in event["payload"].items() if v is not None}
    if saying.link is not None:
        event |= {
            "client_url": saying.link,
            "links": [{"href": saying.link, "text": "Open in the ledger"}],
        }
    return event
