"""Endpoint: where somebody wants events delivered (contract 5, webhooks).

Signing secrets arrive here already encrypted. In this order: events, state, decide, fold.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from ledger.domain.errors import InvalidState
from ledger.domain.event_table import PASSES, SAME, EventRow, Note
from ledger.domain.recorded import Event, Recorded

DisabledReason = Literal["operator", "gone", "failing"]
"""Somebody said so; it answered 410; nothing but failure for five days."""

EVERY_TYPE = "*"
OVERLAP = timedelta(hours=24)
"""How long a secret goes on signing after it was replaced (contract 5)."""

MAX_SECRETS = 10
"""Secrets that may sign at once: each adds to a header."""

MAX_ENDPOINTS = 100
"""Of an organization: each event of its costs a row for each of them."""


class WebhookCreated(Event, frozen=True, kw_only=True):
    """An endpoint was set up; it is told what is recorded from here on."""

    TOPIC = "webhook.created/1"
    url: str
    event_types: tuple[str, ...]
    description: str | None = None
    enabled: bool = True
    secret: bytes


class WebhookUpdated(Event, frozen=True, kw_only=True):
    """An endpoint's settings were changed; these are all of them, as they are now."""

    TOPIC = "webhook.updated/1"
    url: str
    event_types: tuple[str, ...]
    description: str | None = None
    enabled: bool


class WebhookSecretRotated(Event, frozen=True, kw_only=True):
    """An endpoint got a new secret; the ones before it sign beside it for a day."""

    TOPIC = "webhook.secret_rotated/1"
    secret: bytes


class WebhookDisabled(Event, frozen=True, kw_only=True):
    """The service itself stopped delivering to an endpoint, by a rule that the reason names."""

    TOPIC = "webhook.disabled/1"
    reason: DisabledReason


class WebhookRecoveryRequested(Event, frozen=True, kw_only=True):
    """Somebody asked that what was not delivered since then be sent again."""

    TOPIC = "webhook.recovery_requested/1"
    since: datetime


class WebhookTestRequested(Event, frozen=True, kw_only=True):
    """Somebody asked for a delivery that shows whether the endpoint works."""

    TOPIC = "webhook.test_requested/1"


class WebhookDeliveryFailed(Event, frozen=True, kw_only=True):
    """The last attempt to deliver an event to a webhook endpoint failed; the subject is that one.

    The endpoint itself is not told so.
    """

    # It is sent again only when asked for.

    TOPIC = "webhook.delivery_failed/1"
    event_id: str
    sequence: int
    attempts: int
    response_status: int | None = None
    error: str | None = None


class WebhookDeleted(Event, frozen=True, kw_only=True):
    """An endpoint was removed: nothing is delivered to it any more."""

    TOPIC = "webhook.deleted/1"


# Event, type and payload outside, fact and command of the audit log, note of decisions.
ENDPOINT_TABLE: tuple[EventRow, ...] = (
    EventRow(WebhookCreated, None, None, None, "webhook.create", Note.ENDPOINT_CREATED),
    EventRow(WebhookUpdated, None, None, None, "webhook.update", PASSES),
    EventRow(WebhookSecretRotated, None, None, None, "webhook.rotate_secret", PASSES),
    EventRow(WebhookDisabled, None, None, None, "webhook.disable", PASSES),
    EventRow(WebhookRecoveryRequested, None, None, None, "webhook.recover", PASSES),
    EventRow(WebhookTestRequested, None, None, None, "webhook.test", PASSES),
    EventRow(WebhookDeliveryFailed, "webhook.delivery_failed", SAME, None, None, PASSES),
    EventRow(WebhookDeleted, None, None, None, "webhook.delete", Note.ENDPOINT_DELETED),
)

ENDPOINT_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in ENDPOINT_TABLE)


class Secret(msgspec.Struct, frozen=True):
    """An encrypted signing secret; ``until`` is None for the present one."""

    sealed: bytes
    until: datetime | None = None


class Endpoint(msgspec.Struct):
    """One endpoint as its stream tells it."""

    id: str
    version: int = 0
    organization_id: str | None = None
    workspace_id: str | None = None
    """None: the whole organization's events."""
    url: str = ""
    event_types: tuple[str, ...] = ()
    description: str | None = None
    enabled: bool = False
    disabled_reason: DisabledReason | None = None
    disabled_at: datetime | None = None
    secrets: tuple[Secret, ...] = ()
    """The present one first."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted: bool = False

    def wants(self, type_: str, organization_id: str | None, workspace_id: str | None) -> bool:
        """Whether an event of this type and tenant is for this endpoint, as it is now."""
        return (
            self.enabled
            and self.organization_id == organization_id
            and (self.workspace_id is None or self.workspace_id == workspace_id)
            and (type_ in self.event_types or EVERY_TYPE in self.event_types)
        )

    def signing(self, at: datetime) -> tuple[bytes, ...]:
        """The encrypted secrets that sign at an instant, the present one first."""
        return tuple(s.sealed for s in self.secrets if s.until is None or s.until > at)

    # Decisions.

    def update(
        self, *, url: str, event_types: tuple[str, ...], description: str | None, enabled: bool
    ) -> WebhookUpdated:
        """Change settings: all of them are given."""
        return WebhookUpdated(
            url=url, event_types=event_types, description=description, enabled=enabled
        )

    def rotate_secret(self, sealed: bytes, now: datetime) -> WebhookSecretRotated:
        """Replace the secret. Refused while too many sign already."""
        if len(self.signing(now)) >= MAX_SECRETS:
            raise InvalidState(
                f"{MAX_SECRETS} secrets sign already; an old one stops 24 hours after its rotation."
            )
        return WebhookSecretRotated(secret=sealed)

    def disable(self, reason: DisabledReason, url: str) -> WebhookDisabled:
        """Stop delivering, once, because of what came of an attempt at this address."""
        if not self.enabled:
            raise InvalidState("The endpoint is already disabled.")
        if url != self.url:
            raise InvalidState("The endpoint has another address by now.")
        return WebhookDisabled(reason=reason)

    def request_recovery(self, since: datetime) -> WebhookRecoveryRequested:
        """Have what was not delivered sent again. A disabled endpoint must be enabled first."""
        if not self.enabled:
            raise InvalidState("The endpoint is disabled: enable it first.")
        return WebhookRecoveryRequested(since=since)

    # The fold.

    def evolve(self, recorded: Recorded) -> None:
        """Take in one event of this endpoint's stream. Only assigns, never fails."""
        self.version = recorded.originator_version
        _APPLY[type(recorded.body)](self, recorded.body, recorded)

    def _created(self, body: WebhookCreated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.created_at = recorded.recorded_at
        self.secrets = (Secret(body.secret),)
        self.enabled = True
        self._set(body, recorded)

    def _set(self, body: WebhookCreated | WebhookUpdated, recorded: Recorded) -> None:
        self.updated_at = recorded.recorded_at
        self.url, self.event_types = body.url, body.event_types
        self.description = body.description
        if body.enabled:
            self.enabled, self.disabled_reason, self.disabled_at = True, None, None
        elif self.enabled:
            self._stop("operator", recorded)

    def _rotated(self, body: WebhookSecretRotated, recorded: Recorded) -> None:
        at = recorded.recorded_at
        kept = [s for s in self.secrets if s.until is None or s.until > at]
        older = [Secret(s.sealed, s.until or at + OVERLAP) for s in kept]
        self.secrets = (Secret(body.secret), *older)
        self.updated_at = at

    def _disabled(self, body: WebhookDisabled, recorded: Recorded) -> None:
        self._stop(body.reason, recorded)

    def _stop(self, reason: DisabledReason, recorded: Recorded) -> None:
        self.enabled = False
        self.disabled_reason, self.disabled_at = reason, recorded.recorded_at
        self.updated_at = recorded.recorded_at

    def _deleted(self, body: WebhookDeleted, recorded: Recorded) -> None:
        self.deleted, self.enabled = True, False

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """Nothing but the version changes."""


_APPLY: dict[type[Event], Callable[[Endpoint, Any, Recorded], None]] = {
    WebhookCreated: Endpoint._created,
    WebhookUpdated: Endpoint._set,
    WebhookSecretRotated: Endpoint._rotated,
    WebhookDisabled: Endpoint._disabled,
    WebhookRecoveryRequested: Endpoint._passes,
    WebhookTestRequested: Endpoint._passes,
    WebhookDeliveryFailed: Endpoint._passes,
    WebhookDeleted: Endpoint._deleted,
}
