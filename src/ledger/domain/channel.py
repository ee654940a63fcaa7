"""Channels: endpoints that tell people, and the secrets in their addresses (contract, Feeds).

Whoever knows the path of a Slack webhook, or a routing key, can write there, and a mail address is
a person's. So an endpoint shows its address without them.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ledger.domain.alert import ALERT_TABLE

Format = Literal["standard", "cloudevents", "slack", "pagerduty"]
"""The form in which an endpoint is sent an event."""

Channel = Literal["slack", "pagerduty"]

CHANNELS: frozenset[str] = frozenset(("slack", "pagerduty"))

DELIVERY_FAILED = "webhook.delivery_failed"

CHANNEL_TYPES: frozenset[str] = frozenset(
    [DELIVERY_FAILED, *(row.told_as for row in ALERT_TABLE if row.told_as is not None)]
)
"""The types of events that a channel is told of."""

HIDDEN = "***"
"""The text that is shown in the place of a secret."""

ROUTING_KEY = r"^[A-Za-z0-9_-]{1,100}$"

_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_SLACK_PATH = re.compile(r"/services/[A-Za-z0-9/_-]+")
_PAGERDUTY = (
    "https://events.pagerduty.com/v2/enqueue",
    "https://events.eu.pagerduty.com/v2/enqueue",
)
"""The first is the default."""


class ChannelRules(msgspec.Struct, frozen=True):
    """The rules of the operator for addresses."""

    any_host: bool = False
    """Whether Slack's and PagerDuty's requests may go anywhere, for tests and closed networks."""


STRICT = ChannelRules()
"""The rules unless the operator says otherwise."""


class WrongAddress(Exception):
    """An address is none of its channel's. The sentence continues one that names the field."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field, self.sentence = field, sentence


class ChannelAddress(NamedTuple):
    """An address, or the part of it that a change gives."""

    url: str | None
    """As it is shown; None: it stays."""
    secret: str | None
    """The address itself, or PagerDuty's key; None: it stays."""


def address_of(
    channel: Channel, url: str | None, routing_key: str | None, rules: ChannelRules
) -> ChannelAddress:
    """Read what a request gives of an address. Raises WrongAddress."""
    if routing_key is not None and channel != "pagerduty":
        raise WrongAddress("routing_key", "is for the format pagerduty alone")
    if channel == "pagerduty":
        if url is not None and url not in _PAGERDUTY and not rules.any_host:
            raise WrongAddress("url", f"must be {_PAGERDUTY[0]} or {_PAGERDUTY[1]}")
        return ChannelAddress(url, routing_key)
    return ChannelAddress(None, None) if url is None else _slack(url, rules)


def new_address_of(
    channel: Channel, url: str | None, routing_key: str | None, rules: ChannelRules
) -> tuple[str, str]:
    """The address of a new endpoint, as it is shown, and its secret. Raises WrongAddress."""
    if channel == "pagerduty":
        url = url or _PAGERDUTY[0]
    shown, secret = address_of(channel, url, routing_key, rules)
    if shown is None:
        raise WrongAddress("url", "is required")
    if secret is None:
        raise WrongAddress("routing_key", "is required")
    return shown, secret


def _slack(url: str, rules: ChannelRules) -> ChannelAddress:
    parts = urlsplit(url)
    is_slack = (
        parts.scheme == "https"
        and parts.netloc in _SLACK_HOSTS
        and _SLACK_PATH.fullmatch(parts.path)
        and not parts.query
        and not parts.fragment
    )
    if not is_slack and not rules.any_host:
        raise WrongAddress(
            "url", "must be an incoming webhook of Slack: https://hooks.slack.com/services/…"
        )
    return ChannelAddress(f"{parts.scheme}://{parts.netloc}/{HIDDEN}", url)
