"""The addresses of channels: which are valid, and what the API returns (contract, Feeds)."""

import pytest

from ledger.features.webhooks.model.channel import (
    STRICT,
    ChannelRules,
    WrongAddress,
    address_of,
    new_address_of,
)

SLACK = "https://hooks.slack.com/services/T0001/B0001/abcDEF123"
ANY = ChannelRules(any_host=True)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (SLACK, "https://hooks.slack.com/***"),
        (SLACK.replace("slack", "slack-gov"), "https://hooks.slack-gov.com/***"),
    ],
)
def test_a_slack_webhook_is_shown_without_its_path(url: str, expected: str) -> None:
    assert new_address_of("slack", url, None, STRICT) == (expected, url)


@pytest.mark.parametrize(
    "url",
    [
        SLACK.replace("https", "http"),
        SLACK.replace("hooks.", "hooks.evil."),
        SLACK.replace("slack.com", "slack.com.evil.example"),
        SLACK.replace("slack.com", "slack.com:8443"),
        SLACK.replace("https://", "https://hooks.slack.com@"),
        SLACK.replace("services", "triggers"),
        SLACK + "?x=1",
        SLACK + "#x",
        SLACK.replace("T0001", ".."),
        "https://hooks.slack.com/services/",
        "mailto:a@example.com",
        "",
    ],
)
def test_nothing_else_is_a_slack_webhook(url: str) -> None:
    with pytest.raises(WrongAddress) as caught:
        new_address_of("slack", url, None, STRICT)
    assert caught.value.field == "url"


def test_an_operator_of_a_closed_network_may_allow_any_host() -> None:
    local = "http://127.0.0.1:8080/hook"
    assert new_address_of("slack", local, None, ANY) == ("http://127.0.0.1:8080/***", local)
    assert new_address_of("pagerduty", local, "key", ANY) == (local, "key")


def test_pagerduty_has_two_addresses_of_which_one_is_the_default() -> None:
    default = "https://events.pagerduty.com/v2/enqueue"
    europe = "https://events.eu.pagerduty.com/v2/enqueue"
    assert new_address_of("pagerduty", None, "key", STRICT) == (default, "key")
    assert new_address_of("pagerduty", europe, "key", STRICT) == (europe, "key")
    with pytest.raises(WrongAddress) as caught:
        new_address_of("pagerduty", "https://example.com/", "key", STRICT)
    assert caught.value.field == "url"
    with pytest.raises(WrongAddress) as caught:
        new_address_of("pagerduty", None, None, STRICT)
    assert caught.value.field == "routing_key"


def test_a_routing_key_is_pagerdutys_alone() -> None:
    with pytest.raises(WrongAddress) as caught:
        new_address_of("slack", SLACK, "key", STRICT)
    assert caught.value.field == "routing_key"


def test_a_change_gives_a_part_of_an_address() -> None:
    assert address_of("pagerduty", None, "key", STRICT) == (None, "key")
    assert address_of("slack", None, None, STRICT) == (None, None)


# Mail.

MAIL = ChannelRules(mail_domains=frozenset({"example.com"}), mail_from="ledger@example.com")


@pytest.mark.parametrize(
    "addresses",
    [
        "a@example.com",
        "a.b+c@EXAMPLE.com,d@example.com",
        ",".join(f"u{n}@example.com" for n in range(10)),
    ],
)
def test_mail_addresses_are_shown_as_three_stars(addresses: str) -> None:
    assert new_address_of("email", f"mailto:{addresses}", None, MAIL) == ("mailto:***", addresses)


@pytest.mark.parametrize(
    "url",
    [
        "mailto:",
        "mailto:a",
        "mailto:@example.com",
        "mailto:a@",
        "mailto:.a@example.com",
        "mailto:a..b@example.com",
        'mailto:"a b"@example.com',
        "mailto:a%40b@example.com",
        "mailto:a@example.com?subject=x",
        "mailto:a@[127.0.0.1]",
        "mailto:a@127.0.0.1",
        "mailto:a@example.com,",
        "mailto:a@example.com, b@example.com",
        "mailto:a@example.com,a@example.com",
        "mailto:ä@example.com",
        "mailto:a@exämple.com",
        "mailto:a@-example.com",
        "mailto:a@example.com\r\nBcc: b@example.com",
        "mailto:a@example.com\n",
        "mailto:" + "a" * 65 + "@example.com",
        "mailto:" + ",".join(f"u{n}@example.com" for n in range(11)),
        "mailto:a@other.example",
        "mailto:a@sub.example.com",
        "https://example.com/",
    ],
)
def test_other_mail_addresses_are_refused(url: str) -> None:
    with pytest.raises(WrongAddress) as caught:
        new_address_of("email", url, None, MAIL)
    assert caught.value.field == "url"
