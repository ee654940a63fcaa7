"""Webhook endpoints: the rules for commands, and the effect of each event (contract, Feeds)."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.errors import InvalidState
from ledger.features.webhooks.model.endpoint import (
    MAX_SECRETS,
    OVERLAP,
    Endpoint,
    WebhookCreated,
    WebhookDisabled,
    WebhookSecretRotated,
    WebhookUpdated,
)
from tests.support.domain import after, given, minute, recorded

ORGANIZATION, WORKSPACE = "ORG-26-000001", "WS-26-000001"
URL = "https://x.example/"


def created(**more: Any) -> WebhookCreated:
    values = {"url": URL, "event_types": ("*",), "secret": b"first"}
    return WebhookCreated(**(values | more))


def updated(**more: Any) -> WebhookUpdated:
    values = {"url": URL, "event_types": ("*",), "enabled": True}
    return WebhookUpdated(**(values | more))


def evolve_at(endpoint: Endpoint, body: Any, minutes: float) -> None:
    """Fold an event recorded that many minutes after the start."""
    event = recorded(body, endpoint.version + 1, recorded_at=minute(minutes))
    endpoint.apply(event)


# Decisions.


@pytest.mark.parametrize("reason", ["gone", "failing"])
def test_an_enabled_endpoint_is_disabled_by_rule_once(reason: Any) -> None:
    disable = (Endpoint.disable, reason, URL)
    given(created()).when(*disable).then(WebhookDisabled(reason=reason))
    given(created(), WebhookDisabled(reason="gone")).when(*disable).then(InvalidState)
    given(created(enabled=False)).when(*disable).then(InvalidState)
    given(created(), updated(url="https://new.example/")).when(*disable).then(InvalidState)


def test_a_rotation_beyond_the_limit_of_signing_secrets_is_refused() -> None:
    rotations = [WebhookSecretRotated(secret=b"%d" % n) for n in range(MAX_SECRETS - 1)]
    rotate, rotated = Endpoint.rotate_secret, WebhookSecretRotated(secret=b"new")
    given(created(), *rotations[1:]).when(rotate, b"new", minute(1)).then(rotated)
    given(created(), *rotations).when(rotate, b"new", minute(1)).then(InvalidState)
    later = minute(0) + OVERLAP + timedelta(seconds=1)
    given(created(), *rotations).when(rotate, b"new", later).then(rotated)


# Secrets.


def test_a_replaced_secret_signs_for_a_day_with_the_new_one() -> None:
    endpoint = after(created())
    assert endpoint.signing(minute(0)) == (b"first",)
    evolve_at(endpoint, WebhookSecretRotated(secret=b"second"), 10)
    end = minute(10) + OVERLAP
    assert endpoint.signing(minute(10)) == (b"second", b"first")
    assert endpoint.signing(end - timedelta(microseconds=1)) == (b"second", b"first")
    assert endpoint.signing(end) == (b"second",)


def test_a_further_rotation_does_not_lengthen_an_older_secrets_day() -> None:
    endpoint = after(created())
    evolve_at(endpoint, WebhookSecretRotated(secret=b"second"), 0)
    evolve_at(endpoint, WebhookSecretRotated(secret=b"third"), 60)
    assert endpoint.signing(minute(60)) == (b"third", b"second", b"first")
    assert endpoint.signing(minute(0) + OVERLAP) == (b"third", b"second")
    evolve_at(endpoint, WebhookSecretRotated(secret=b"fourth"), 24 * 60 + 30)
    assert [secret.sealed for secret in endpoint.secrets] == [b"fourth", b"third", b"second"]


# The choice of events.


# The effect of each event.


def test_a_disabled_endpoint_keeps_the_first_reason_and_its_time_until_it_is_enabled() -> None:
    endpoint = after(created())
    for body, reason in (
        (updated(enabled=False), "operator"),
        (WebhookDisabled(reason="gone"), "gone"),
        (WebhookDisabled(reason="failing"), "failing"),
    ):
        evolve_at(endpoint, body, 5)
        assert (endpoint.enabled, endpoint.disabled_reason) == (False, reason)
        assert endpoint.disabled_at == endpoint.updated_at == minute(5)
        # A further disabling, by hand, does not change the reason.
        evolve_at(endpoint, updated(enabled=False), 6)
        assert (endpoint.disabled_reason, endpoint.disabled_at) == (reason, minute(5))
        evolve_at(endpoint, updated(), 7)
        assert (endpoint.enabled, endpoint.disabled_reason, endpoint.disabled_at) == (
            True,
            None,
            None,
        )
    assert after(created(enabled=False)).disabled_reason == "operator"
