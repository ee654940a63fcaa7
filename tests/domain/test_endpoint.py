"""Webhook endpoints: their rules, and what each event makes of them (contract 5)."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ledger.domain.endpoint import (
    MAX_SECRETS,
    OVERLAP,
    Endpoint,
    WebhookCreated,
    WebhookDeleted,
    WebhookDeliveryFailed,
    WebhookDisabled,
    WebhookRecoveryRequested,
    WebhookSecretRotated,
    WebhookTestRequested,
    WebhookUpdated,
)
from ledger.domain.errors import InvalidState
from tests.support.domain import given_endpoint, minute, recorded

ORGANIZATION, WORKSPACE = "ORG-26-000001", "WS-26-000001"


URL = "https://x.example/"


def created(**more: Any) -> WebhookCreated:
    values = {"url": URL, "event_types": ("*",), "secret": b"first"}
    return WebhookCreated(**(values | more))


def updated(**more: Any) -> WebhookUpdated:
    values = {"url": URL, "event_types": ("*",), "enabled": True}
    return WebhookUpdated(**(values | more))


def folded(*past: Any) -> Endpoint:
    endpoint: Endpoint = given_endpoint(*past).aggregate
    return endpoint


def at(endpoint: Endpoint, body: Any, minutes: float) -> None:
    """Fold an event recorded so many minutes after the start."""
    event = recorded(body, endpoint.version + 1, recorded_at=minute(minutes))
    endpoint.evolve(event)


# Decisions.


def test_what_is_set_is_recorded_whole() -> None:
    given_endpoint(created()).when(
        lambda endpoint: endpoint.update(
            url="https://y.example/", event_types=("run.failed",), description="d", enabled=False
        )
    ).then(
        WebhookUpdated(
            url="https://y.example/", event_types=("run.failed",), description="d", enabled=False
        )
    )


@pytest.mark.parametrize("reason", ["gone", "failing"])
def test_an_enabled_endpoint_is_disabled_by_rule_once(reason: Any) -> None:
    decide: Callable[[Endpoint], Any] = lambda endpoint: endpoint.disable(reason, URL)  # noqa: E731
    given_endpoint(created()).when(decide).then(WebhookDisabled(reason=reason))
    given_endpoint(created(), WebhookDisabled(reason="gone")).when(decide).refused(InvalidState)
    given_endpoint(created(enabled=False)).when(decide).refused(InvalidState)
    given_endpoint(created(), updated(url="https://new.example/")).when(decide).refused(
        InvalidState
    )


def test_a_recovery_is_for_an_enabled_endpoint() -> None:
    decide: Callable[[Endpoint], Any] = lambda e: e.request_recovery(minute(0))  # noqa: E731
    given_endpoint(created()).when(decide).then(WebhookRecoveryRequested(since=minute(0)))
    disabled = given_endpoint(created(), updated(enabled=False))
    disabled.when(decide).refused(InvalidState)
    given_endpoint(created(), updated(enabled=False), updated()).when(decide).then(
        WebhookRecoveryRequested(since=minute(0))
    )


def test_so_many_secrets_sign_at_once_and_no_more() -> None:
    rotations = [WebhookSecretRotated(secret=b"%d" % n) for n in range(MAX_SECRETS - 1)]
    decide: Callable[[Endpoint], Any] = lambda e: e.rotate_secret(b"new", minute(1))  # noqa: E731
    given_endpoint(created(), *rotations[1:]).when(decide).then(WebhookSecretRotated(secret=b"new"))
    given_endpoint(created(), *rotations).when(decide).refused(InvalidState)
    later: Callable[[Endpoint], Any] = lambda e: e.rotate_secret(  # noqa: E731
        b"new", minute(0) + OVERLAP + timedelta(seconds=1)
    )
    given_endpoint(created(), *rotations).when(later).then(WebhookSecretRotated(secret=b"new"))


# Secrets.


def test_a_replaced_secret_signs_for_a_day_beside_the_new_one() -> None:
    endpoint = folded(created())
    assert endpoint.signing(minute(0)) == (b"first",)
    at(endpoint, WebhookSecretRotated(secret=b"second"), 10)
    end = minute(10) + OVERLAP
    assert endpoint.signing(minute(10)) == (b"second", b"first")
    assert endpoint.signing(end - timedelta(microseconds=1)) == (b"second", b"first")
    assert endpoint.signing(end) == (b"second",)


def test_a_further_rotation_does_not_lengthen_an_older_secrets_day() -> None:
    endpoint = folded(created())
    at(endpoint, WebhookSecretRotated(secret=b"second"), 0)
    at(endpoint, WebhookSecretRotated(secret=b"third"), 60)
    assert endpoint.signing(minute(60)) == (b"third", b"second", b"first")
    assert endpoint.signing(minute(0) + OVERLAP) == (b"third", b"second")
    at(endpoint, WebhookSecretRotated(secret=b"fourth"), 24 * 60 + 30)
    assert [secret.sealed for secret in endpoint.secrets] == [b"fourth", b"third", b"second"]


# What it wants.


@pytest.mark.parametrize(
    ("given", "type_", "workspace", "wanted"),
    [
        (created(), "run.failed", WORKSPACE, True),
        (created(), "run.failed", None, True),
        (created(event_types=("run.failed",)), "run.failed", WORKSPACE, True),
        (created(event_types=("run.failed",)), "run.started", WORKSPACE, False),
        (created(enabled=False), "run.failed", WORKSPACE, False),
    ],
)
def test_it_wants_what_it_asked_for_while_it_is_enabled(
    given: Any, type_: str, workspace: str | None, wanted: bool
) -> None:
    endpoint = Endpoint("WHK-26-000001")
    endpoint.evolve(recorded(given, 1, workspace_id=None))
    assert endpoint.wants(type_, ORGANIZATION, workspace) is wanted
    assert not endpoint.wants(type_, "ORG-26-000002", workspace)


def test_one_of_a_workspace_wants_nothing_of_another_or_of_none() -> None:
    endpoint = folded(created())
    assert endpoint.workspace_id == WORKSPACE
    assert endpoint.wants("run.failed", ORGANIZATION, WORKSPACE)
    assert not endpoint.wants("run.failed", ORGANIZATION, "WS-26-000002")
    assert not endpoint.wants("run.failed", ORGANIZATION, None)


# What each event makes of it.


def test_it_says_why_and_since_when_it_is_disabled() -> None:
    endpoint = folded(created())
    for body, reason in (
        (updated(enabled=False), "operator"),
        (WebhookDisabled(reason="gone"), "gone"),
        (WebhookDisabled(reason="failing"), "failing"),
    ):
        at(endpoint, body, 5)
        assert (endpoint.enabled, endpoint.disabled_reason) == (False, reason)
        assert endpoint.disabled_at == endpoint.updated_at == minute(5)
        # Disabled once more by hand, the reason stays the first.
        at(endpoint, updated(enabled=False), 6)
        assert (endpoint.disabled_reason, endpoint.disabled_at) == (reason, minute(5))
        at(endpoint, updated(), 7)
        assert (endpoint.enabled, endpoint.disabled_reason, endpoint.disabled_at) == (
            True,
            None,
            None,
        )
    assert folded(created(enabled=False)).disabled_reason == "operator"


def test_what_merely_happens_to_it_changes_nothing_that_is_shown() -> None:
    endpoint = folded(created())
    before = repr(endpoint)
    failed = WebhookDeliveryFailed(event_id="EVT-26-000001", sequence=1, attempts=5)
    for body in (WebhookTestRequested(), WebhookRecoveryRequested(since=minute(0)), failed):
        at(endpoint, body, 1)
    endpoint.version = 1
    assert repr(endpoint) == before


def test_a_deleted_one_wants_nothing() -> None:
    endpoint = folded(created(), WebhookDeleted())
    assert endpoint.deleted
    assert not endpoint.wants("run.failed", ORGANIZATION, WORKSPACE)
