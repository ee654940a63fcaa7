"""The words about an event for people: a headline, a sentence and a link.

The sentence of an alert was made when the alert opened, and is the same everywhere. All words of a
tenant are in ``sentence``, ``more`` and ``watch``: a format says which marks have no meaning there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ledger.domain.alert import ResolvedReason
from ledger.domain.channel import DELIVERY_FAILED
from ledger.domain.watch import Severity
from ledger.feed.formats.plain import ALERT, Manner, told

_ENDS: Mapping[ResolvedReason, str] = {
    "recovered": "The condition no longer holds.",
    "changed": "The watch was changed, or no longer has the line.",
    "disabled": "The watch was disabled.",
    "deleted": "The watch was deleted.",
    "line_closed": "The line was closed.",
}

SENTENCES = 20
"""The most sentences of a message; of the others it has the number."""


class Saying(NamedTuple):
    """The words about one event."""

    type: str
    event_id: str
    subject_id: str
    """The alert, or the endpoint."""
    severity: Severity
    headline: str
    sentence: str
    more: str
    """Further sentences, or an empty text."""
    watch: str
    """The name of the watch, or its id without details; empty without an alert."""
    link: str | None

    @property
    def line(self) -> str:
        return f"{self.headline}: {self.sentence}"


def saying_of(manner: Manner, body: str) -> Saying:
    """The words about an event. ``body`` is its envelope, as JSON."""
    envelope = told(manner, body)
    type_, subject, payload = envelope["type"], envelope["subject"], envelope["payload"]
    link = manner.link_to(subject)
    if type_.startswith(ALERT):
        severity = payload["severity"]
        headline, more = _alert(type_, payload)
        sentence = payload["text"] if manner.details else _dated(envelope)
        watch = payload.get("watch_name") or payload["watch_id"]
        said = severity, headline, sentence, more, watch
    elif type_ == DELIVERY_FAILED:
        why = payload["response_status"] or payload["error"] or "it was never answered"
        sentence = (
            f"{payload['event_id']} was not delivered to {subject['id']}"
            f" in {payload['attempts']} attempts: {why}."
        )
        said = "warning", "Delivery failed", sentence, "", ""
    else:
        said = "info", "Test", f"The endpoint {subject['id']} is reached.", "", ""
    return Saying(type_, envelope["id"], subject["id"], *said, link)


def _alert(type_: str, payload: Mapping[str, Any]) -> tuple[str, str]:
    """The headline about an alert, and what else is said with its details."""
    name = f"{payload['severity'].capitalize()} alert"
    match type_.removeprefix(ALERT):
        case "reminded":
            return name + (f", reminder {payload['n']}" if "n" in payload else ", reminder"), ""
        case "acknowledged":
            said = [
                payload.get("assignee") and f"{payload['assignee']} takes care of it.",
                payload.get("until") and f"Until {payload['until']}.",
                payload.get("note"),
            ]
            return f"{name} acknowledged", " ".join(filter(None, said))
        case "resolved":
            return f"{name} resolved", _ENDS.get(payload.get("reason", ""), "")
        case _:
            return name, ""


def _dated(envelope: Mapping[str, Any]) -> str:
    """The sentence about an alert that has no word of a tenant."""
    payload, subject = envelope["payload"], envelope["payload"]["subject"]
    sentence = f"{payload['alert_id']} of {payload['watch_id']}, {subject['type']} {subject['id']}"
    if "condition" in payload:
        sentence += f", {payload['condition']['kind']} since {payload['since']}"
    return f"{sentence}, {payload.get('due') or envelope['occurred_at']}."


def headline_of(sayings: list[Saying]) -> str:
    """The headline of a message."""
    first = sayings[0]
    if len(sayings) == 1:
        return first.headline
    return f"{len(sayings)} messages of {first.watch or first.headline}"


def rest_of(sayings: list[Saying]) -> str:
    """The words for what a message leaves out, or nothing."""
    rest = len(sayings) - SENTENCES
    return f"and {rest} more" if rest > 0 else ""


def worst(sayings: list[Saying]) -> Severity:
    order: tuple[Severity, ...] = ("info", "warning", "critical")
    return max((saying.severity for saying in sayings), key=order.index)


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
