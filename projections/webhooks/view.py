"""The view behind webhooks: endpoints, and the dispatcher's tasks of each endpoint, in order.

``webhook`` has one row per endpoint. ``webhook_message`` has one row per event that matches an
enabled endpoint, numbered 1, 2, 3 …, and one per requested test and recovery. So the events that an
endpoint must receive, and their numbers, follow from the log alone: a rebuild gives the same
numbers (contract, Feeds). ``webhook_health`` has the status of each line's signals, because a
health report without a new status is not published.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.schema.table import BigInt, Bool, Index, Instant, Octets, Table, Text
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.rendering import json_text, members, render_as, time_text
from ledger.engine.values.values import sort_key
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.feed.published import PUBLISHED, SUBJECTS, changes_health
from ledger.features.lines.model.execution_events import HealthSignalReported
from ledger.features.lines.model.health import SignalName, SignalStatus
from ledger.features.watches.model.alert import AlertEvent
from ledger.features.webhooks.model.endpoint import (
    ENDPOINT_EVENTS,
    Endpoint,
    WebhookCreated,
    WebhookRecoveryRequested,
    WebhookResendRequested,
    WebhookTestRequested,
)
from ledger.features.webhooks.model.views import EndpointSetUp


class EndpointRow(NamedTuple):
    """A webhook endpoint."""

    endpoint_id: Text
    endpoint_key: BigInt
    """The endpoint id as a number: the order of lists."""
    organization_id: Text
    workspace_id: Text | None
    """Null: the endpoint belongs to the whole organization."""
    format: Text
    details: Bool
    """True if the texts of alerts are sent."""
    deleted: Bool
    enabled: Bool
    enabled_at: Instant | None
    sequence: BigInt
    latest: BigInt
    """The position of the latest matching event."""
    requested: BigInt
    """The position of the latest requested test or recovery."""
    item: Text
    """JSON members: the endpoint as its owner sees it."""
    fold: Octets
    position: BigInt


# Every matching event updates the sequence. No index has a column that such an update changes, so
# it is a HOT update: it stays within its page and needs no vacuum of indexes.
WEBHOOK = Table(
    "webhook",
    EndpointRow,
    key=("endpoint_id",),
    tenant=("organization_id", "workspace_id"),
    is_filtered_by_view=True,  # the dispatcher reads the fold, which the API's role must not
    replaces=True,
    options="fillfactor = 50",
    indexes=(Index("organization_id"),),
)


class MessageRow(NamedTuple):
    """A task of the dispatcher: an event to deliver, a test, or a recovery."""

    endpoint_id: Text
    position: BigInt
    number: Text
    """The event's id without its prefix: year and position."""
    kind: Text
    sequence: BigInt | None = None
    """1, 2, 3 …; 0 for a test, null for a recovery."""
    type: Text | None = None
    item: Text | None = None
    """JSON members of a test's envelope, which is in no feed."""
    since: Instant | None = None
    """A recovery resends events from this instant on."""
    resent: BigInt | None = None
    """The position of the one event that a recovery resends, delivered or not."""
    alert_id: Text | None = None
    """A channel's alert that the event is about. Its deliveries keep their order."""
    matter: Text | None = None
    """What a channel may send as one message: the alert's watch, or the type of the event."""


MESSAGE = Table(
    "webhook_message",
    MessageRow,
    key=("endpoint_id", "position"),
    owner=("webhook", "endpoint_id"),
    is_keyed_late=True,
    indexes=(
        Index("endpoint_id, position", where="kind <> 'event'"),
        Index("endpoint_id, alert_id, position", where="alert_id IS NOT NULL"),
    ),
)


class HealthRow(NamedTuple):
    """The statuses of a line's signals."""

    line_id: Text
    statuses: Text
    position: BigInt


HEALTH = Table(
    "webhook_health",
    HealthRow,
    key=("line_id",),
    is_internal=True,
    replaces=True,
    options="fillfactor = 80",
)

TEST = "webhook.test"
"""The type of a test's envelope, which is in no feed."""

# The folds of these organizations' endpoints.
_LOAD = """
SELECT organization_id, fold FROM ledger.webhook_{g}
WHERE organization_id = ANY($1::text[]) AND NOT deleted
"""

_encode = msgspec.json.Encoder().encode
_decode_statuses = msgspec.json.Decoder(dict[SignalName, SignalStatus]).decode


class EndpointState(msgspec.Struct):
    """The fold of one endpoint: the domain's aggregate, and the latest sequence number."""

    endpoint: Endpoint
    position: int = 0
    enabled_at: datetime | None = None
    sequence: int = 0
    latest: int = 0
    requested: int = 0

    def apply(self, event: Recorded) -> None:
        was_enabled = self.endpoint.enabled
        self.endpoint.apply(event)
        self.position = event.position
        if self.endpoint.enabled and not was_enabled:
            self.enabled_at = event.recorded_at


decode_state = msgspec.json.Decoder(EndpointState).decode


class _Tenant:
    def __init__(self) -> None:
        self.endpoints: dict[str, EndpointState] = {}
        self.changed: dict[str, EndpointState] = {}


class _Health(msgspec.Struct):
    line_id: str
    statuses: dict[SignalName, SignalStatus] = {}
    position: int = 0


class WebhookView(Remembering):
    """The projection ``webhook``."""

    name = "webhook"
    version = 4
    tables: tuple[Table, ...] = (WEBHOOK, MESSAGE, HEALTH)
    events: frozenset[type[Event]] = frozenset((*PUBLISHED, *ENDPOINT_EVENTS))

    def __init__(self) -> None:
        self._tenants: FoldCache[str, _Tenant] = FoldCache(lambda _: _Tenant())
        self._health: FoldCache[str, _Health] = FoldCache(_Health)
        super().__init__(self._tenants, self._health)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        organizations = {o: None for e in events if (o := e.organization_id)}
        generation.ask(self._tenants, organizations, _LOAD, _read)
        lines = {e.originator_id: None for e in events if type(e.body) is HealthSignalReported}
        generation.find(self._health, lines, HEALTH, _health_of)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        messages: list[MessageRow] = []
        for event in events:
            if event.organization_id is None:
                continue
            tenant = self._tenants[event.organization_id]
            messages += _requested(tenant, event)
            if self._is_published(event):
                messages += _matched(tenant, event)
            if tenant.changed:
                self._tenants.change(event.organization_id)
        generation.write(MESSAGE, messages)

    def store(self, generation: Generation, most: int | None = None) -> None:
        for tenant in self._tenants.pop_changed(most):
            generation.write(WEBHOOK, map(_present, tenant.changed.values()))
            tenant.changed.clear()
        lines = self._health.pop_changed(most)
        rows = [HealthRow(h.line_id, json_text(h.statuses), h.position) for h in lines]
        generation.write(HEALTH, rows)

    def _is_published(self, event: Recorded) -> bool:
        """Return True if feeds have the event. Notes the status of a health report too."""
        if not isinstance(event.body, HealthSignalReported):
            return type(event.body) in PUBLISHED
        health = self._health[event.originator_id]
        before = health.statuses.get(event.body.signal)
        health.statuses[event.body.signal] = event.body.status
        health.position = event.position
        self._health.change(event.originator_id)
        return changes_health(event.body, before)


def _read(rows: Rows) -> Iterable[tuple[str, _Tenant]]:
    found: dict[str, _Tenant] = {}
    for organization_id, packed in rows:
        state = decode_state(packed)
        tenant = found.setdefault(organization_id, _Tenant())
        tenant.endpoints[state.endpoint.id] = state
    return found.items()


def _health_of(row: HealthRow) -> tuple[str, _Health]:
    return row.line_id, _Health(row.line_id, _decode_statuses(row.statuses), row.position)


def _requested(tenant: _Tenant, event: Recorded) -> Iterator[MessageRow]:
    """Apply an event of an endpoint's own stream; yield a message for a test or recovery."""
    body, endpoint_id = event.body, event.originator_id
    if not isinstance(body, ENDPOINT_EVENTS):
        return
    if isinstance(body, WebhookCreated):
        tenant.endpoints[endpoint_id] = EndpointState(Endpoint(endpoint_id))
    state = tenant.endpoints.get(endpoint_id)
    if state is None:
        return
    state.apply(event)
    tenant.changed[endpoint_id] = state
    if state.endpoint.deleted:
        del tenant.endpoints[endpoint_id]
    number = event.event_id.removeprefix("EVT-")
    if isinstance(body, WebhookTestRequested):
        state.requested = event.position
        item = _test_envelope(event)
        yield MessageRow(endpoint_id, event.position, number, "test", 0, TEST, item)
    elif isinstance(body, WebhookRecoveryRequested):
        state.requested = event.position
        yield MessageRow(endpoint_id, event.position, number, "recovery", since=body.since)
    elif isinstance(body, WebhookResendRequested):
        state.requested = event.position
        resent = int(body.event_id.rsplit("-", 1)[1])
        yield MessageRow(endpoint_id, event.position, number, "recovery", resent=resent)


def _matched(tenant: _Tenant, event: Recorded) -> Iterator[MessageRow]:
    """Yield a numbered message for each endpoint that receives the event.

    An endpoint does not receive events about itself (a delivery to it failed).
    """
    type_ = PUBLISHED[type(event.body)].name
    for endpoint_id, state in tenant.endpoints.items():
        tenant_of = event.organization_id, event.workspace_id
        wanted = state.endpoint.wants(type_, *tenant_of, event.body)
        if not wanted or endpoint_id == event.originator_id:
            continue
        state.sequence += 1
        state.latest = state.position = event.position
        tenant.changed[endpoint_id] = state
        number = event.event_id.removeprefix("EVT-")
        message = MessageRow(endpoint_id, event.position, number, "event", state.sequence, type_)
        yield _for_people(message, event) if state.endpoint.is_channel else message


def _for_people(message: MessageRow, event: Recorded) -> MessageRow:
    if isinstance(event.body, AlertEvent):
        return message._replace(alert_id=event.originator_id, matter=event.body.watch_id)
    return message._replace(matter=message.type)


def _test_envelope(event: Recorded) -> str:
    """JSON members of a test in the feed's form; only this endpoint receives it."""
    return members(
        {
            "id": event.event_id,
            "type": TEST,
            "occurred_at": time_text(event.occurred_at),
            "recorded_at": time_text(event.recorded_at),
            "position": event.position,
            "actor": event.actor,
            "reported_by": event.reported_by,
            "subject": {"type": SUBJECTS["WHK"], "id": event.originator_id},
            "service_line_id": None,
            "organization_id": event.organization_id,
            "workspace_id": event.workspace_id,
            "causation_id": event.causation_id,
            "payload": {},
            "fact": None,
            "trace_id": None,
        }
    )


def _present(state: EndpointState) -> EndpointRow:
    endpoint = state.endpoint
    assert endpoint.organization_id is not None, "an endpoint is an organization's"
    return EndpointRow(
        endpoint_id=endpoint.id,
        endpoint_key=sort_key(endpoint.id),
        organization_id=endpoint.organization_id,
        workspace_id=endpoint.workspace_id,
        format=endpoint.format,
        details=endpoint.details,
        deleted=endpoint.deleted,
        enabled=endpoint.enabled,
        enabled_at=state.enabled_at,
        sequence=state.sequence,
        latest=state.latest,
        requested=state.requested,
        item=members(render_as(EndpointSetUp, endpoint)),
        fold=_encode(state),
        position=state.position,
    )
