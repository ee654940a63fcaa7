"""Commands about webhook endpoints, from their owners and from the dispatcher (contract, Feeds).

The receipt carries the answer, which is complete when the decision is made. So the caller sees a
new secret although no view has the endpoint yet, and a replayed request shows it again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, TypeGuard

import msgspec

from ledger.engine.log.tables import ENDPOINT
from ledger.engine.log.vault import Vault
from ledger.engine.values.errors import Invalid, InvalidState, NotFound
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.values.principal import DISPATCHER
from ledger.engine.values.recorded import Event, Identity
from ledger.engine.values.rendering import render_as
from ledger.engine.writer.command import ManagedCommand, NewCommand, receipt, receipt_of
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt, TenantOf
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.model import channel
from ledger.features.webhooks.model.endpoint import (
    MAX_ENDPOINTS,
    DisabledReason,
    Endpoint,
    WebhookCreated,
    WebhookDeleted,
    WebhookDeliveryFailed,
    WebhookTestRequested,
)
from ledger.features.webhooks.model.views import ShownEndpoint

_encode = msgspec.json.Encoder().encode


class EndpointSettings(msgspec.Struct, frozen=True):
    """The settings that the owner of an endpoint gives; UNSET leaves a setting as it is."""

    url: str | msgspec.UnsetType | None = msgspec.UNSET
    event_types: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    format: channel.Format | msgspec.UnsetType = msgspec.UNSET
    """For a new endpoint only."""
    watch_ids: tuple[str, ...] | msgspec.UnsetType | None = msgspec.UNSET
    min_severity: Severity | msgspec.UnsetType = msgspec.UNSET
    details: bool | msgspec.UnsetType = msgspec.UNSET
    routing_key: str | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that the request changes."""
        values = msgspec.structs.asdict(self)
        return {name: value for name, value in values.items() if value is not msgspec.UNSET}


def secret_purpose(endpoint_id: str) -> str:
    """The purpose under which an endpoint's secrets are encrypted (``Vault.seal``)."""
    return f"webhook-secret|{endpoint_id}"


def open_secret(vault: Vault, endpoint_id: str, sealed: bytes) -> str:
    """A signing secret, ``whsec_…``, or the secret of a channel's address. Raises CannotOpen."""
    return vault.open(secret_purpose(endpoint_id), sealed).decode()


@dataclass(eq=False, repr=False)
class CreateEndpoint(NewCommand):
    """Set up an endpoint for an organization or one of its workspaces."""

    action = "webhook.create"
    issues = "WHK"

    _: KW_ONLY
    secret: str
    """The signing secret; unused if the address has its own secret."""
    settings: EndpointSettings
    rules: channel.ChannelRules = channel.STRICT

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden for another tenant, Invalid, or InvalidState for too many endpoints."""
        self.require_visible()
        organization_id = self.require_tenant()
        if group.owned(ENDPOINT, organization_id) >= MAX_ENDPOINTS:
            most = f"The organization already has {MAX_ENDPOINTS} endpoints, the maximum."
            raise InvalidState(most)
        values, signs = self.settings.changes, True
        format_, secret = values.get("format", "standard"), self.secret
        require_types(format_, values)
        url, key = values.pop("url", None), values.pop("routing_key", None)
        if is_channel(format_):
            signs = False
            with _naming_the_field():
                url, secret = channel.new_address_of(format_, url, key, self.rules)
        else:
            require_plain(url, key)
        endpoint = Endpoint(group.issue("WHK"))
        sealed = group.vault.seal(secret_purpose(endpoint.id), secret.encode())
        body = WebhookCreated(**values, url=url, secret=sealed)
        tenant = (organization_id, self.workspace_id, None)
        recorded = group.record(endpoint, body, group.now, self, tenant=tenant)
        return receipt(recorded, _answer(endpoint, secret=secret if signs else None))


class _EndpointCommand(ManagedCommand):
    """A command about one endpoint."""

    subject_type = "webhook"

    def _answer(self, endpoint: Endpoint) -> bytes:
        return _answer(endpoint)


@dataclass(eq=False, repr=False)
class UpdateEndpoint(_EndpointCommand):
    """Change the settings that were given."""

    action = "webhook.update"

    settings: EndpointSettings = field(kw_only=True)
    rules: channel.ChannelRules = field(kw_only=True, default=channel.STRICT)

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        values = self.settings.changes
        require_types(endpoint.format, values)
        key = values.pop("routing_key", None)
        if is_channel(endpoint.format):
            values |= self._address(endpoint, values.pop("url", None), key, group)
        else:
            require_plain(values.get("url", endpoint.url), key)
        return endpoint.update(**values)

    def _address(
        self, endpoint: Endpoint, url: str | None, key: str | None, group: Group
    ) -> dict[str, Any]:
        """The changed settings of a channel's address. The masked address changes nothing."""
        assert is_channel(endpoint.format)
        with _naming_the_field():
            changed_url = None if url == endpoint.url else url
            visible, secret = channel.address_of(endpoint.format, changed_url, key, self.rules)
        found: dict[str, Any] = {} if visible is None else {"url": visible}
        if secret is not None:
            found["secret"] = group.vault.seal(secret_purpose(endpoint.id), secret.encode())
        return found


class DeleteEndpoint(_EndpointCommand):
    """Remove an endpoint."""

    action = "webhook.delete"

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        return WebhookDeleted()


@dataclass(eq=False, repr=False)
class RotateSecret(_EndpointCommand):
    """Replace the secret; the old secret keeps signing for a day."""

    action = "webhook.rotate_secret"

    secret: str = field(kw_only=True)

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        sealed = group.vault.seal(secret_purpose(endpoint.id), self.secret.encode())
        return endpoint.rotate_secret(sealed, group.now)

    def _answer(self, endpoint: Endpoint) -> bytes:
        return _answer(endpoint, secret=self.secret)


@dataclass(eq=False, repr=False)
class RecoverEndpoint(_EndpointCommand):
    """Send again the events recorded since an instant that were not delivered."""

    action = "webhook.recover"

    since: datetime | None = field(kw_only=True)

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        if self.since is None or self.since > group.now:
            raise Invalid.at("/since", "lies in the future")
        return endpoint.request_recovery(self.since)


@dataclass(eq=False, repr=False)
class ResendDelivery(_EndpointCommand):
    """Send one event again, under the same id and number."""

    action = "webhook.resend"

    event_id: str = field(kw_only=True)
    has_delivery: bool = field(kw_only=True)
    """True if the endpoint has a delivery of the event, which only the view knows."""

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        if not self.has_delivery:
            raise NotFound("The endpoint has no delivery of this event.")
        return endpoint.request_resend(self.event_id)


class TestEndpoint(_EndpointCommand):
    """Send a test delivery, which has no sequence number, to show whether the endpoint works."""

    __test__ = False
    action = "webhook.test"

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        return WebhookTestRequested()


class DisableEndpoint(_EndpointCommand):
    """Stop delivering, by a rule of the dispatcher."""

    def __init__(
        self, endpoint_id: str, reason: DisabledReason, url: str, secret: bytes | None = None
    ) -> None:
        super().__init__(endpoint_id, DISPATCHER)
        self._reason, self._url, self._secret = reason, url, secret

    def _event(self, endpoint: Endpoint, group: Group) -> Event:
        return endpoint.disable(self._reason, self._url, self._secret)


class GiveUpDelivery(_EndpointCommand):
    """Record once that a delivery failed for good.

    The dispatcher may submit the same failure several times.
    """

    def __init__(
        self, endpoint_id: str, event_id: str, round_: int, body: WebhookDeliveryFailed
    ) -> None:
        super().__init__(endpoint_id, DISPATCHER)
        self._event_id, self._body = event_id, body
        self._round = round_

    def identities(self, tenant_of: TenantOf) -> tuple[Identity, ...]:
        organization_id = tenant_of(self.subject_id)
        return () if organization_id is None else (self._identity(organization_id),)

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound if the endpoint is deleted."""
        endpoint = group.memory.get(Endpoint, self.subject_id, self.principal)
        identity = self._identity(endpoint.organization_id or "")
        earlier = group.memory.first(identity)
        if earlier is not None:
            return receipt_of(earlier, duplicate=True)
        recorded = group.record(endpoint, self._body, group.now, self, caused_by=self._event_id)
        group.tables.identify(identity, recorded)
        return receipt(recorded)

    def _identity(self, organization_id: str) -> Identity:
        return Identity.of_delivery(organization_id, self.subject_id, self._event_id, self._round)


def _answer(endpoint: Endpoint, **secret: str | None) -> bytes:
    # Only readers see the state of deliveries; no decision depends on it.
    document = msgspec.structs.asdict(render_as(ShownEndpoint, endpoint, status=None))
    return _encode({"data": document | secret})


def is_channel(format_: channel.Format) -> TypeGuard[channel.Channel]:
    return format_ in channel.CHANNELS


def require_types(format_: channel.Format, values: Mapping[str, Any]) -> None:
    """Raise Invalid for an event type that channels do not receive."""
    if is_channel(format_) and not {*values.get("event_types", ())} <= {
        *channel.CHANNEL_TYPES,
        EVERY_TYPE,
    }:
        raise Invalid.at(
            "/event_types",
            f"must name types of alerts, or {channel.DELIVERY_FAILED}, for this format",
        )


def require_plain(url: str | None, routing_key: str | None) -> None:
    """Raise Invalid for an address that only a channel has, or for none."""
    if url is None:
        raise Invalid.at("/url", "is required")
    if url.startswith("mailto:"):
        raise Invalid.at("/url", "must be an http or https URL with a host")
    if routing_key is not None:
        raise Invalid.at("/routing_key", "is for the format pagerduty alone")


@contextmanager
def _naming_the_field() -> Iterator[None]:
    try:
        yield
    except channel.WrongAddress as error:
        raise Invalid.at(f"/{error.field}", error.sentence) from error
