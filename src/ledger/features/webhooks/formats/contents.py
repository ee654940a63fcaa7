"""The content of a request, by the endpoint's format (contract, Feeds)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ledger.engine.values.rendering import json_text
from ledger.features.webhooks.formats import pagerduty, plain, slack
from ledger.features.webhooks.formats.wording import saying_of
from ledger.features.webhooks.model.channel import HIDDEN, Format

_FINAL: Mapping[Format, range | tuple[int, ...]] = {
    "slack": (400, 403, 404),
    "pagerduty": (400,),
    "email": range(500, 600),
}
"""The statuses after which another attempt is useless, by format."""


def content_of(
    options: plain.FormatOptions, bodies: Sequence[str], secret: str = HIDDEN
) -> plain.Content:
    """The content of a request about events; ``bodies`` are their envelopes, as JSON.

    Only Slack gets several events in a request.
    """
    if options.format == "standard" and options.details:
        return plain.Content(plain.JSON, bodies[0])
    type_, make = _MAKERS[options.format]
    return plain.Content(type_, json_text(make(options, bodies, secret)))


def is_final(format_: Format, status: int | None) -> bool:
    """Return True if an answer with this status ends a delivery at once."""
    return status in _FINAL.get(format_, ())


def without_secrets(text: str | None, format_: Format, secret: str) -> str | None:
    """The text of a receiver's answer, with its address's secrets replaced."""
    if text is None:
        return None
    for part in [secret, urlsplit(secret).path] if format_ == "slack" else secret.split(","):
        text = re.sub(re.escape(part), HIDDEN, text, flags=re.IGNORECASE)
    return text


def _standard(options: plain.FormatOptions, bodies: Sequence[str], secret: str) -> dict[str, Any]:
    return plain.envelope_of(options, bodies[0])


def _cloudevents(
    options: plain.FormatOptions, bodies: Sequence[str], secret: str
) -> dict[str, Any]:
    return plain.cloudevent_of(plain.envelope_of(options, bodies[0]))


def _slack(options: plain.FormatOptions, bodies: Sequence[str], secret: str) -> dict[str, Any]:
    return slack.message_of([saying_of(options, body) for body in bodies])


def _pagerduty(options: plain.FormatOptions, bodies: Sequence[str], secret: str) -> dict[str, Any]:
    return pagerduty.event_of(
        saying_of(options, bodies[0]), plain.envelope_of(options, bodies[0]), secret
    )


_MAKERS: Mapping[
    Format, tuple[str, Callable[[plain.FormatOptions, Sequence[str], str], dict[str, Any]]]
] = {
    "standard": (plain.JSON, _standard),
    "cloudevents": (plain.CLOUDEVENT, _cloudevents),
    "slack": (plain.JSON, _slack),
    "pagerduty": (plain.JSON, _pagerduty),
}
