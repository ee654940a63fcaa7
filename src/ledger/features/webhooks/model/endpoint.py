"""Endpoint: an address to which a tenant's events are delivered (contract, Feeds, webhooks).

Signing secrets arrive here already encrypted. The file has, in this order: events, state,
decisions, fold.
"""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, get_args

import msgspec

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.event_table import EVERY_TYPE, PASSES, SAME, DecisionEffect, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded
from ledger.features.watches.model.alert import AlertEvent
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.model import channel

DisabledReason = Literal["operator", "gone", "failing"]
"""``operator``: a caller disabled the endpoint; ``gone``: the endpoint answered 410; ``failing``:
all attempts failed for five days."""

OVERLAP = timedelta(hours=24)
"""How long a replaced secret keeps signing (contract, Feeds)."""

MAX_SECRETS = 10
"""The most secrets that sign at the same time: each adds a signature to a header."""

MAX_ENDPOINTS = 100
"""The most endpoints of an organization: each of its events may cost a row for each endpoint."""


MAX_WATCH_IDS = 50

_SEVERITIES = get_args(Severity)
"""From the least to the most severe."""


class WebhookCreated(Event, frozen=True, kw_only=True):
    """An endpoint was set up; it receives the events that are recorded from here on."""

    TOPIC = "webhook.created/1"
    url: str
    event_types: tuple[str, ...]
    description: str | None = None
    enabled: bool = True
    secret: bytes
    """Encrypted: the signing secret, or a channel's address or key."""
    format: channel.Format = "standard"
    watch_ids: tuple[str, ...] | None = None
    min_severity: Severity = "info"
    details: bool = True


class WebhookUpdated(Event, frozen=True, kw_only=True):
    """An endpoint's settings were changed; the event has all settings as they are now."""

    TOPIC = "webhook.updated/1"
    url: str
    event_types: tuple[str, ...]
    description: str | None = None
    enabled: bool
    watch_ids: tuple[str, ...] | None = None
    min_severity: Severity = "info"
    details: bool = True
    secret: bytes | None = None
    """Encrypted: a channel's new secret; None to leave it as it is."""


class WebhookSecretRotated(Event, frozen=True, kw_only=True):
    """An endpoint got a new secret; a replaced secret keeps signing for a day."""

    TOPIC = "webhook.secret_rotated/1"
    secret: bytes


class WebhookDisabled(Event, frozen=True, kw_only=True):
    """The service itself stopped delivering to an endpoint, by a rule that the reason names."""

    TOPIC = "webhook.disabled/1"
    reason: DisabledReason


class WebhookRecoveryRequested(Event, frozen=True, kw_only=True):
    """A caller asked to send again the undelivered events since an instant."""

    TOPIC = "webhook.recovery_requested/1"
    since: datetime


class WebhookResendRequested(Event, frozen=True, kw_only=True):
    """A caller asked to send one event again, whether or not it was delivered."""

    TOPIC = "webhook.resend_requested/1"
    event_id: str


class WebhookTestRequested(Event, frozen=True, kw_only=True):
    """A caller asked for a test delivery, which shows whether the endpoint works."""

    TOPIC = "webhook.test_requested/1"


class WebhookDeliveryFailed(Event, frozen=True, kw_only=True):
    """The last attempt to deliver an event to a webhook endpoint, the subject, failed.

    The endpoint itself does not receive this event.
    """

    # The undelivered event is sent again only if a caller asks for a recovery.

    TOPIC = "webhook.delivery_failed/1"
    event_id: str
    sequence: int
    attempts: int
    response_status: int | None = None
    error: str | None = None


class WebhookDeleted(Event, frozen=True, kw_only=True):
    """An endpoint was deleted: no event is delivered to it any more."""

    TOPIC = "webhook.deleted/1"


# Columns: event, published type, published payload, fact, command, note.
ENDPOINT_TABLE: tuple[EventRow, ...] = (
    EventRow(WebhookCreated, None, None, None, "webhook.create", DecisionEffect.OWNED),
    EventRow(WebhookUpdated, None, None, None, "webhook.update", PASSES),
    EventRow(WebhookSecretRotated, None, None, None, "webhook.rotate_secret", PASSES),
    EventRow(WebhookDisabled, None, None, None, "webhook.disable", PASSES),
    EventRow(WebhookRecoveryRequested, None, None, None, "webhook.recover", PASSES),
    EventRow(WebhookResendRequested, None, None, None, "webhook.resend", PASSES),
    EventRow(WebhookTestRequested, None, None, None, "webhook.test", PASSES),
    EventRow(WebhookDeliveryFailed, channel.DELIVERY_FAILED, SAME, None, None, PASSES),
    EventRow(WebhookDeleted, None, None, None, "webhook.delete", DecisionEffect.DISOWNED),
)

ENDPOINT_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in ENDPOINT_TABLE)


class Secret(msgspec.Struct, frozen=True):
    """An encrypted signing secret; ``until`` is None for the present secret."""

    sealed: bytes
    until: datetime | None = None


class Endpoint(Folded):
    """The state of one endpoint, folded from its stream."""

    organization_id: str | None = None
    workspace_id: str | None = None
    """The workspace whose events the endpoint receives; None for the whole organization."""
    url: str = ""
    event_types: tuple[str, ...] = ()
    description: str | None = None
    enabled: bool = False
    format: channel.Format = "standard"
    watch_ids: tuple[str, ...] | None = None
    """The watches whose alerts the endpoint receives; None for all."""
    min_severity: Severity = "info"
    details: bool = True
    """True to send the words of alerts; False to send only ids, kinds and times."""
    disabled_reason: DisabledReason | None = None
    disabled_at: datetime | None = None
    secrets: tuple[Secret, ...] = ()
    """The present secret first. A channel has only its address's secret."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted: bool = False

    @property
    def is_channel(self) -> bool:
        """True if the endpoint notifies people, and has a secret in its address."""
        return self.format in channel.CHANNELS

    @property
    def gathers(self) -> bool:
        """True if several events go as one message."""
        return self.format in channel.GATHERING

    @property
    def routing_key(self) -> str | None:
        """PagerDuty's key, masked."""
        return channel.HIDDEN if self.format == "pagerduty" else None

    def wants(
        self,
        type_: str,
        organization_id: str | None,
        workspace_id: str | None,
        body: Event | None = None,
    ) -> bool:
        """Return True if the endpoint now receives events of this type and tenant.

        ``body`` matters for events of alerts only.
        """
        return (
            self.enabled
            and self.organization_id == organization_id
            and (self.workspace_id is None or self.workspace_id == workspace_id)
            and (type_ in self.event_types or self._wants_all(type_))
            and (not isinstance(body, AlertEvent) or self._covers(body))
        )

    def _wants_all(self, type_: str) -> bool:
        is_supported = not self.is_channel or type_ in channel.CHANNEL_TYPES
        return EVERY_TYPE in self.event_types and is_supported

    def _covers(self, alert: AlertEvent) -> bool:
        return (self.watch_ids is None or alert.watch_id in self.watch_ids) and _SEVERITIES.index(
            alert.severity
        ) >= _SEVERITIES.index(self.min_severity)

    def signing(self, at: datetime) -> tuple[bytes, ...]:
        """The encrypted secrets that sign at an instant, the present secret first."""
        return tuple(s.sealed for s in self.secrets if s.until is None or s.until > at)

    # Decisions.

    def update(self, **settings: Any) -> WebhookUpdated:
        """Change the given settings; the event has the others as they are."""
        names = set(WebhookUpdated.__struct_fields__) - {"secret"}
        values = {name: getattr(self, name) for name in names}
        return WebhookUpdated(**values | settings)

    def rotate_secret(self, sealed: bytes, now: datetime) -> WebhookSecretRotated:
        """Replace the secret. Refused for a channel, and while ``MAX_SECRETS`` are signing."""
        if self.is_channel:
            raise InvalidState("The endpoint's format has no signing secret.")
        if len(self.signing(now)) >= MAX_SECRETS:
            raise InvalidState(
                f"{MAX_SECRETS} secrets are active, the maximum;"
                " a replaced secret expires after 24 hours."
            )
        return WebhookSecretRotated(secret=sealed)

    def disable(
        self, reason: DisabledReason, url: str, secret: bytes | None = None
    ) -> WebhookDisabled:
        """Stop delivering because of failures at this URL. Refused if the URL has changed since.

        For a channel, the encrypted secret distinguishes one URL from another.
        """
        if not self.enabled:
            raise InvalidState("The endpoint is already disabled.")
        is_other = self.is_channel and secret not in [each.sealed for each in self.secrets]
        if url != self.url or is_other:
            raise InvalidState("The endpoint's url has changed.")
        return WebhookDisabled(reason=reason)

    def request_recovery(self, since: datetime) -> WebhookRecoveryRequested:
        """Request undelivered events again. Refused while the endpoint is disabled."""
        self._require_enabled()
        return WebhookRecoveryRequested(since=since)

    def request_resend(self, event_id: str) -> WebhookResendRequested:
        """Request one event again. Refused while the endpoint is disabled."""
        self._require_enabled()
        return WebhookResendRequested(event_id=event_id)

    def _require_enabled(self) -> None:
        if not self.enabled:
            raise InvalidState("The endpoint is disabled: enable it first.")

    # The fold.

    def _created(self, body: WebhookCreated, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.created_at = recorded.recorded_at
        self.enabled, self.format = True, body.format
        self._set(body, recorded)

    def _set(self, body: WebhookCreated | WebhookUpdated, recorded: Recorded) -> None:
        self.updated_at = recorded.recorded_at
        self.url, self.event_types = body.url, body.event_types
        self.description, self.watch_ids = body.description, body.watch_ids
        self.min_severity, self.details = body.min_severity, body.details
        if body.secret is not None:
            self.secrets = (Secret(body.secret),)
        if body.enabled:
            self.enabled, self.disabled_reason, self.disabled_at = True, None, None
        elif self.enabled:
            self._stop("operator", recorded)

    def _rotated(self, body: WebhookSecretRotated, recorded: Recorded) -> None:
        at = recorded.recorded_at
        valid = [s for s in self.secrets if s.until is None or s.until > at]
        older = [Secret(s.sealed, s.until or at + OVERLAP) for s in valid]
        self.secrets = (Secret(body.secret), *older)
        self.updated_at = at

    def _disabled(self, body: WebhookDisabled, recorded: Recorded) -> None:
        self._stop(body.reason, recorded)

    def _stop(self, reason: DisabledReason, recorded: Recorded) -> None:
        self.enabled = False
        self.disabled_reason, self.disabled_at = reason, recorded.recorded_at
        self.updated_at = recorded.recorded_at

    def _deleted(self, body: WebhookDeleted, recorded: Recorded) -> None:
        self.deleted, self.enabled, self.secrets = True, False, ()

    _APPLY: ClassVar = {
        WebhookCreated: _created,
        WebhookUpdated: _set,
        WebhookSecretRotated: _rotated,
        WebhookDisabled: _disabled,
        WebhookRecoveryRequested: Folded._passes,
        WebhookResendRequested: Folded._passes,
        WebhookTestRequested: Folded._passes,
        WebhookDeliveryFailed: Folded._passes,
        WebhookDeleted: _deleted,
    }
