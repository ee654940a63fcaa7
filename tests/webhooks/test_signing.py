"""Signatures, checked by the verifier that receivers use."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from ledger.features.webhooks.delivery import signing

EVENT = "EVT-26-000042"
BODY = '{"type":"execution.blocked","payload":{"reason":"Zoë wartet"}}'.encode()


def signed(at: datetime, *secrets: str) -> dict[str, str]:
    pairs = signing.headers(EVENT, BODY, at, secrets)
    return {name.decode(): value.decode() for name, value in pairs}


def test_a_secret_holds_32_random_bytes() -> None:
    secrets = {signing.create_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


@pytest.mark.parametrize("index", [0, 10, len(BODY) - 1])
def test_one_changed_byte_does_not_verify(index: int) -> None:
    secret = signing.create_secret()
    headers = signed(datetime.now(UTC), secret)
    changed = BODY[:index] + bytes([BODY[index] ^ 1]) + BODY[index + 1 :]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(changed, headers)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_the_id_and_the_time_are_signed_too(name: str) -> None:
    secret = signing.create_secret()
    headers = signed(datetime.now(UTC), secret)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, {**headers, name: headers[name][:-1] + "x"})


def test_the_timestamp_is_the_attempts_time_in_whole_seconds() -> None:
    at = datetime(2026, 4, 15, 12, 0, 7, 999_999, tzinfo=UTC)
    assert signed(at, signing.create_secret())["webhook-timestamp"] == "1776254407"


def test_a_time_in_another_zone_verifies() -> None:
    """The package takes a time's digits for UTC: without conversion they are two hours off."""
    secret = signing.create_secret()
    headers = signed(datetime.now(timezone(timedelta(hours=2))), secret)
    Webhook(secret).verify(BODY, headers)
