"""Channels: endpoints that notify people, and the secrets in their addresses (contract, Feeds).

The path of a Slack webhook, or a routing key, is all that a writer needs, and a mail address is
personal data. So an endpoint shows its address without them.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ledger.features.watches.model.alert import ALERT_TABLE

Format = Literal["standard", "cloudevents", "slack", "pagerduty", "email"]
"""The form in which an endpoint receives an event."""

Channel = Literal["slack", "pagerduty", "email"]

CHANNELS: frozenset[str] = frozenset(("slack", "pagerduty", "email"))

GATHERING: frozenset[str] = frozenset(("slack", "email"))
"""The channels that receive several events in one message, and one message a second."""

DELIVERY_FAILED = "webhook.delivery_failed"

CHANNEL_TYPES: frozenset[str] = frozenset(
    [DELIVERY_FAILED, *(row.published_as for row in ALERT_TABLE if row.published_as is not None)]
)
"""The event types that a channel receives."""

HIDDEN = "***"
"""The text in place of a secret."""

ROUTING_KEY = r"^[A-Za-z0-9_-]{1,100}$"

_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_SLACK_PATH = re.compile(r"/services/[A-Za-z0-9/_-]+")
PAGERDUTY = (
    "https://events.pagerduty.com/v2/enqueue",
    "https://events.eu.pagerduty.com/v2/enqueue",
)
"""The first is the default."""


MAX_ADDRESSES = 10
EVERY_DOMAIN = "*"

_ATOM = r"[A-Za-z0-9!#$&'*+/=^_`{|}~-]+"
_NAME = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rf"{_NAME}(?:\.{_NAME})*"
_MAIL_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@(?![0-9.]+$){_DOMAIN}")
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 253
"""The limits of mail servers, in bytes (RFC 5321, 4.5.3.1)."""

MAIL_DOMAIN = re.compile(rf"{_DOMAIN}|\*")


MailSecurity = Literal["none", "starttls", "tls"]


class MailServer(NamedTuple):
    """The server that takes the service's mails."""

    host: str
    port: int
    security: MailSecurity
    user: str | None
    password: str | None
    sender: str
    domains: frozenset[str]
    """The domains that mails may go to; ``*`` stands for any."""


class ChannelRules(msgspec.Struct, frozen=True):
    """The operator's rules for addresses."""

    any_host: bool = False
    """True to send Slack's and PagerDuty's requests anywhere, for tests and closed networks."""
    mail_domains: frozenset[str] | None = None
    """The domains that mails may go to, in lower case; None if mail is not set up."""
    mail_from: str | None = None


STRICT = ChannelRules()
"""The rules unless the operator sets others."""


class WrongAddress(Exception):
    """An address does not fit its channel. The sentence continues one that names the field."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field, self.sentence = field, sentence


class ChannelAddress(NamedTuple):
    """An address, or the part of it that a change gives."""

    url: str | None
    """The masked address; None to leave it as it is."""
    secret: str | None
    """The address itself, or PagerDuty's key; None to leave it as it is."""


def address_of(
    channel: Channel, url: str | None, routing_key: str | None, rules: ChannelRules
) -> ChannelAddress:
    """The address that a request gives. Raises WrongAddress."""
    if routing_key is not None and channel != "pagerduty":
        raise WrongAddress("routing_key", "is for the format pagerduty alone")
    if url is not None and url.startswith("mailto:") and channel != "email":
        raise WrongAddress("url", "must be an http or https URL with a host")
    if channel == "pagerduty":
        if url is not None and url not in PAGERDUTY and not rules.any_host:
            raise WrongAddress("url", f"must be {PAGERDUTY[0]} or {PAGERDUTY[1]}")
        return ChannelAddress(url, routing_key)
    if channel == "email" and rules.mail_domains is None:
        raise WrongAddress("format", "must be another one: this service sends no mail")
    if url is None:
        return ChannelAddress(None, None)
    return _slack(url, rules) if channel == "slack" else _email(url, rules.mail_domains)


def new_address_of(
    channel: Channel, url: str | None, routing_key: str | None, rules: ChannelRules
) -> tuple[str, str]:
    """The masked address of a new endpoint, and its secret. Raises WrongAddress."""
    if channel == "pagerduty":
        url = url or PAGERDUTY[0]
    visible, secret = address_of(channel, url, routing_key, rules)
    if visible is None:
        raise WrongAddress("url", "is required")
    if secret is None:
        raise WrongAddress("routing_key", "is required")
    return visible, secret


def may_write_to(address: str, domains: frozenset[str] | None) -> bool:
    """Return True if the operator allows mails to the domain of an address."""
    domain = address.rpartition("@")[2].lower()
    return domains is not None and (EVERY_DOMAIN in domains or domain in domains)


def _email(url: str, domains: frozenset[str] | None) -> ChannelAddress:
    scheme, _, text = url.partition(":")
    addresses = text.split(",")
    if scheme != "mailto" or not all(map(is_mail_address, addresses)):
        raise WrongAddress("url", "must be mailto: and 1 to 10 plain addresses with commas between")
    if len(addresses) > MAX_ADDRESSES or len(set(addresses)) < len(addresses):
        raise WrongAddress("url", f"must name at most {MAX_ADDRESSES} addresses, each once")
    if not all(may_write_to(address, domains) for address in addresses):
        raise WrongAddress("url", "must have addresses of domains that this service may write to")
    return ChannelAddress(f"mailto:{HIDDEN}", text)


def is_mail_address(text: str) -> bool:
    """Return True for a dot-atom and a domain, without what a URL or a server might reinterpret."""
    local, _, domain = text.rpartition("@")
    is_short = len(local) <= _LONGEST_LOCAL and len(domain) <= _LONGEST_DOMAIN
    return is_short and _MAIL_ADDRESS.fullmatch(text) is not None


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
