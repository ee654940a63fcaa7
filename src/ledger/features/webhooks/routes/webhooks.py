"""Webhook endpoints: routes that change and show them, and their deliveries (contract, Feeds).

The answer of a command comes from its receipt, so a replayed request returns the same secret. The
state of deliveries comes from the view.
"""

import re
from typing import Annotated, Any, get_args

from fastapi import Response

from ledger.engine.http import reading, writing
from ledger.engine.http.lean import ManagedRouter, read_route
from ledger.engine.http.lists import Order, newest_first, number
from ledger.engine.http.models import EmptyBody
from ledger.engine.http.problems import STORY_ERRORS
from ledger.engine.http.replies import PageOf
from ledger.engine.values.errors import Invalid
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.values.values import ENDPOINT_ID, EVENT_ID, parse_bound
from ledger.features.feed.published import TYPES
from ledger.features.feed.routes.feeds import BEYOND, position_in
from ledger.features.webhooks import commands
from ledger.features.webhooks.client.target import ForbiddenTarget, Targets
from ledger.features.webhooks.delivery.signing import ShownDelivery, create_secret, delivery_text
from ledger.features.webhooks.model.channel import ChannelRules, Format
from ledger.features.webhooks.model.endpoint import DisabledReason
from ledger.features.webhooks.model.views import EndpointWithSecret, ShownEndpoint
from ledger.features.webhooks.routes.bodies import NewWebhook, Recovery, WebhookChanges
from projections.webhooks import statements

_MANAGES = "webhooks:manage"

router = ManagedRouter(
    "/v1/webhooks",
    "webhooks",
    "endpoint_id",
    _MANAGES,
    _MANAGES,
    words={
        "DisabledReason": get_args(DisabledReason),
        "EventTypeOrEvery": (*TYPES, EVERY_TYPE),
        "WebhookFormat": get_args(Format),
        "DeliveryStatus": ("pending", "retrying", "delivered", "failed", "skipped"),
    },
)

_ORDER, _BY_POSITION = newest_first("webhook"), Order(number("position", 2, "before"))

AnyEventId = Annotated[str, reading.path_id("An EVT id.", "EVT-26-000123", EVENT_ID)]
AnyEndpointId = Annotated[str, reading.path_id("A WHK id.", "WHK-26-000007", ENDPOINT_ID)]


class DeliveriesQuery(reading.Present, reading.Page):
    """The parameters of the list of deliveries."""

    status: Annotated[str | None, reading.some_of(statements.STATUSES)] = None


@router.creates(commands.CreateEndpoint, EndpointWithSecret, "Set up a webhook")
async def create_webhook(request: reading.ReadRequest, sent: writing.Sent[NewWebhook]) -> Response:
    """Set up an endpoint for the events that are recorded from now on.

    The endpoint's secret is shown in this answer only.
    """
    named = {"organization_id", "workspace_id"}
    receipt = await writing.execute_new(
        request,
        commands.CreateEndpoint,
        await _checked(request, sent),
        secret=create_secret(),
        settings=_settings({} if sent.body is None else sent.body.model_dump(exclude=named)),
        rules=request.services.of(ChannelRules),
    )
    return writing.with_secret(request.http, writing.answered(receipt, 201))


@router.lists(ShownEndpoint, "List webhooks")
async def list_webhooks(request: reading.ReadRequest, query: reading.TenantQuery) -> Response:
    """List the endpoints of the credential's tenant, newest first."""
    return await _ORDER.listed(request, query, query.chosen(), statements.list_read)


@router.shows(ShownEndpoint, "Show a webhook")
async def show_webhook(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, query: reading.Present
) -> Response:
    """Show an endpoint and the state of its deliveries."""
    reading.require_id("webhook", endpoint_id)
    tenant = request.tenant
    parameters = {**tenant, "endpoint_id": endpoint_id}
    rows = await request.rows(statements.endpoint_read(frozenset(tenant)), parameters)
    return reading.subject_reply("webhook", rows, rows[0][1])


@router.changes(commands.UpdateEndpoint, ShownEndpoint, "Change a webhook")
async def update_webhook(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, sent: writing.Sent[WebhookChanges]
) -> Response:
    """Change the fields that the body names.

    An endpoint that is enabled again gets the events that are recorded from now on.
    """
    await writing.require_named_tenant(request, commands.UpdateEndpoint, sent)
    settings = _settings(sent.body.provided if sent.body is not None else {})
    sent, rules = await _checked(request, sent), request.services.of(ChannelRules)
    receipt = await writing.execute_on(
        request, commands.UpdateEndpoint, endpoint_id, sent, settings=settings, rules=rules
    )
    return writing.answered(receipt)


@router.removes(commands.DeleteEndpoint, "Remove a webhook")
async def delete_webhook(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, sent: writing.Sent[Any]
) -> Response:
    """Remove an endpoint. Nothing is delivered to it any more, not even pending deliveries."""
    receipt = await writing.execute_on(request, commands.DeleteEndpoint, endpoint_id, sent)
    return writing.deleted(receipt)


@router.acts(
    "rotate-secret", commands.RotateSecret, EndpointWithSecret, "Replace a webhook's secret"
)
async def rotate_webhook_secret(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, sent: writing.Sent[EmptyBody]
) -> Response:
    """Replace the secret. The new secret is shown in this answer only.

    The old secret signs beside the new one for 24 hours.
    """
    receipt = await writing.execute_on(
        request, commands.RotateSecret, endpoint_id, sent, secret=create_secret()
    )
    return writing.with_secret(request.http, writing.answered(receipt))


@router.acts(
    "recover", commands.RecoverEndpoint, ShownEndpoint, "Send undelivered events again", 202
)
async def recover_webhook(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, sent: writing.Sent[Recovery]
) -> Response:
    """Retry at once the deliveries since an instant that failed or wait for another attempt.

    Each of these deliveries gets a new series of attempts.
    """
    since = parse_bound(sent.body.since) if sent.body is not None else None
    receipt = await writing.execute_on(
        request, commands.RecoverEndpoint, endpoint_id, sent, since=since
    )
    return writing.answered(receipt, 202)


@router.acts("test", commands.TestEndpoint, ShownEndpoint, "Send a test", 202)
async def send_webhook_test(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, sent: writing.Sent[EmptyBody]
) -> Response:
    """Send a `webhook.test` event once, also to a disabled endpoint.

    The test has the number 0, and its result does not count for the endpoint. The deliveries list
    the result.
    """
    receipt = await writing.execute_on(request, commands.TestEndpoint, endpoint_id, sent)
    return writing.answered(receipt, 202)


@read_route(
    router,
    "/{endpoint_id}/deliveries",
    PageOf[ShownDelivery],
    STORY_ERRORS,
    summary="List deliveries",
    permission=_MANAGES,
)
async def list_deliveries(
    request: reading.ReadRequest, endpoint_id: AnyEndpointId, query: DeliveriesQuery
) -> Response:
    """List every event that the endpoint gets, and every test, newest first."""
    reading.require_id("webhook", endpoint_id)
    services = request.services
    rules = services.of(ChannelRules)
    tenant, statuses = request.tenant, reading.split_words(query.status) or []
    bound_to = {"endpoint_id": endpoint_id, "status": statuses}
    before = {"before": BEYOND} | _BY_POSITION.after(query.cursor, bound_to)
    read = statements.deliveries_read(frozenset(tenant), frozenset(statuses))
    parameters = {**tenant, **bound_to, **before, "limit": query.limit + 1}
    rows = await request.rows(read, parameters)
    if rows[0][1] is None:
        raise reading.unknown("webhook", rows)

    def item(row: Any) -> str:
        return delivery_text(row[2:], services.public_url, rules.mail_from)

    return _BY_POSITION.page(rows, query.limit, bound_to, item, key=2)


@router.acts(
    "deliveries/{event_id}/resend",
    commands.ResendDelivery,
    ShownEndpoint,
    "Send one event again",
    202,
)
async def send_delivery_again(
    request: reading.ReadRequest,
    endpoint_id: AnyEndpointId,
    event_id: AnyEventId,
    sent: writing.Sent[EmptyBody],
) -> Response:
    """Send one event again at once, delivered or not, under the same id and number.

    The delivery gets a new series of attempts.
    """
    has_delivery = await _has_delivery(request, endpoint_id, event_id)
    receipt = await writing.execute_on(
        request,
        commands.ResendDelivery,
        endpoint_id,
        sent,
        event_id=event_id,
        has_delivery=has_delivery,
    )
    return writing.answered(receipt, 202)


async def _has_delivery(request: reading.ReadRequest, endpoint_id: str, event_id: str) -> bool:
    """Return True if the endpoint has a delivery of the event, or a test of this id."""
    if not re.fullmatch(EVENT_ID, event_id):
        return False
    tenant = request.tenant
    parameters = {
        **tenant,
        "endpoint_id": endpoint_id,
        "number": event_id.removeprefix("EVT-"),
        "at": position_in(event_id),
    }
    rows = await request.rows(statements.message_read(frozenset(tenant)), parameters)
    return rows[0][1] is not None


def _settings(values: dict[str, Any]) -> commands.EndpointSettings:
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return commands.EndpointSettings(**values | lists)


async def _checked(request: reading.ReadRequest, sent: writing.Sent[Any]) -> writing.Sent[Any]:
    """Add a fault to the request if its URL has a forbidden target."""
    url = getattr(sent.body, "url", None)
    if sent.fault is None and url and not url.startswith("mailto:"):
        try:
            await request.services.of(Targets).check(url)
        except ForbiddenTarget as error:
            return sent._replace(fault=Invalid.at("/url", str(error)))
    return sent
