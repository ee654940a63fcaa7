"""The words about an event for people: a beginning, a sentence and a link.

The sentence of an alert is fixed when the alert opens, and is the same everywhere. The beginning
says what has happened, so that nobody takes an end for an outage. Only ``sentence``, ``more`` and
``about`` have words of a tenant. Each format prevents that they act as markup.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ledger.features.watches.model.alert import ResolvedReason
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.formats.plain import ALERT, FormatOptions, envelope_of
from ledger.features.webhooks.model.channel import DELIVERY_FAILED

_ENDS: Mapping[ResolvedReason, str] = {
    "recovered": "The condition no longer holds.",
    "changed": "The watch was changed, or no longer covers the line.",
    "disabled": "The watch was disabled.",
    "deleted": "The watch was deleted.",
    "line_closed": "The line was closed.",
}

_BEGINNINGS: Mapping[str, str] = {
    f"{ALERT}reminded": "Reminder: ",
    f"{ALERT}acknowledged": "Acknowledged: ",
    f"{ALERT}resolved": "Resolved: ",
    DELIVERY_FAILED: "Delivery failed: ",
}

_SEVERITIES: Sequence[Severity] = ("info", "warning", "critical")

_COUNTED: Mapping[str, str] = {"service_line": "line"}
"""The subject types with another name for people."""

SENTENCES = 20
"""The most sentences of a message. It gives the number of the others."""


class Saying(NamedTuple):
    """The words about one event."""

    type: str
    event_id: str
    subject_id: str
    """The alert, or the endpoint."""
    counted: tuple[str, str]
    """The subject that a message about several events counts: (noun, id)."""
    severity: Severity
    beginning: str
    sentence: str
    more: str
    """Further sentences, or an empty text."""
    about: str
    """The name of the watch, or its id without details; the endpoint."""
    link: str | None


def saying_of(options: FormatOptions, body: str) -> Saying:
    """The words about an event; ``body`` is its envelope, as JSON."""
    envelope = envelope_of(options, body)
    type_, subject, payload = envelope["type"], envelope["subject"], envelope["payload"]
    link = options.link_to(subject)
    counted, beginning = ("event", envelope["id"]), _BEGINNINGS.get(type_, "Test: ")
    if type_.startswith(ALERT):
        severity, of = payload["severity"], payload["subject"]
        counted = _COUNTED.get(of["type"], of["type"]), of["id"]
        beginning = _BEGINNINGS.get(type_, f"[{severity}] ")
        sentence = payload["text"] if options.details else _dated(envelope)
        about = payload.get("watch_name") or payload["watch_id"]
        parts = severity, beginning, sentence, _more(type_, payload), about
    elif type_ == DELIVERY_FAILED:
        why = payload["response_status"] or payload["error"] or "no answer"
        sentence = (
            f"{payload['event_id']} was not delivered to {subject['id']}"
            f" in {payload['attempts']} attempts: {why}."
        )
        parts = "warning", beginning, sentence, "", subject["id"]
    else:
        sentence = f"The endpoint {subject['id']} can be reached."
        parts = "info", beginning, sentence, "", subject["id"]
    return Saying(type_, envelope["id"], subject["id"], counted, *parts, link)


def _more(type_: str, payload: Mapping[str, Any]) -> str:
    """The additional sentences about an alert."""
    match type_.removeprefix(ALERT):
        case "reminded":
            return f"Reminder {payload['n']}." if "n" in payload else ""
        case "acknowledged":
            sentences = [
                payload.get("assignee") and f"{payload['assignee']} takes care of it.",
                payload.get("until") and f"Until {payload['until']}.",
                payload.get("note"),
            ]
            return " ".join(filter(None, sentences))
        case _:
            return _ENDS.get(payload.get("reason", ""), "")


def _dated(envelope: Mapping[str, Any]) -> str:
    """The sentence about an alert without any words of a tenant."""
    payload, subject = envelope["payload"], envelope["payload"]["subject"]
    sentence = f"{payload['alert_id']} of {payload['watch_id']}, {subject['type']} {subject['id']}"
    if "condition" in payload:
        sentence += f", {payload['condition']['kind']} since {payload['since']}"
    return f"{sentence}, {payload.get('due') or envelope['occurred_at']}."


def headline_of(sayings: list[Saying]) -> str:
    """The headline of a message whose events have one type: the sentence, or their number."""
    first = sayings[0]
    if len(sayings) == 1:
        return first.beginning + first.sentence
    return title_of(sayings)


def title_of(sayings: list[Saying]) -> str:
    """The line above a message's sentences: a shorter headline without a sentence."""
    beginning = max(sayings, key=lambda one: _SEVERITIES.index(one.severity)).beginning
    abouts = [*{saying.about for saying in sayings}]
    if len(sayings) == 1:
        return beginning + abouts[0]
    counts = sorted(Counter(kind for kind, _ in {saying.counted for saying in sayings}).items())
    numbers = ", ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in counts)
    return f"{beginning}{numbers}" + (f" · {abouts[0]}" if len(abouts) == 1 else "")


def rest_of(sayings: list[Saying]) -> str:
    """The words for the sentences that a message leaves out, or an empty text."""
    rest = len(sayings) - SENTENCES
    return f"and {rest} more" if rest > 0 else ""


def worst(sayings: list[Saying]) -> Severity:
    return max((saying.severity for saying in sayings), key=_SEVERITIES.index)


def cut(text: str, most: int) -> str:
    """Cut a text to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
