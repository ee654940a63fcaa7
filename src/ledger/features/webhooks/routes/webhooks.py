"""Webhook endpoints: routes that change and show them, and their deliveries (contract, Feeds).

The answer of a command comes with its receipt, so a replayed request is shown the same secret
again. The state of deliveries is read from the view.
"""

import re
from typing import Annotated, Any, get_args

from fastapi import Request, Response

from ledger.engine.http import reading, writing
from ledger.engine.http.lean import Router, command_route, read_route
from ledger.engine.http.models import EmptyBody
from ledger.engine.http.problems import FEED_ERRORS, STORY_ERRORS
from ledger.engine.http.replies import AnswerOf, PageOf, answer
from ledger.engine.values.errors import Forbidden, Invalid, NotFound
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.values.values import ENDPOINT_ID, EVENT_ID, parse_bound
from ledger.engine.writer.command import OTHER_TENANT
from ledger.engine.writer.request import Receipt
from ledger.features.feed.published import TYPES
from ledger.features.feed.routes.feeds import BEYOND, event_position, position_in
from ledger.features.keys.routes.keys import named_tenant
from ledger.features.webhooks import commands
from ledger.features.webhooks.client.target import ForbiddenTarget, Targets
from ledger.features.webhooks.delivery.signing import ShownDelivery, create_secret, delivery_text
from ledger.features.webhooks.model.channel import ChannelRules, Format
from ledger.features.webhooks.model.endpoint import DisabledReason
from ledger.features.webhooks.model.shown import EndpointWithSecret, ShownEndpoint
from ledger.features.webhooks.routes.bodies import NewWebhook, Recovery, WebhookChanges
from projections.webhooks import statements

router = Router(
    "/v1/webhooks",
    "webhooks",
    words={
        "DisabledReason": get_args(DisabledReason),
        "EventTypeOrEvery": (*TYPES, EVERY_TYPE),
        "WebhookFormat": get_args(Format),
        "DeliveryStatus": ("pending", "retrying", "delivered", "failed", "skipped"),
    },
)

_PERMISSION = "webhooks:manage"
_UNKNOWN = "No such webhook endpoint."

AnyEventId = Annotated[str, reading.path_id("An EVT id.", "EVT-26-000123", EVENT_ID)]
AnyEndpointId = Annotated[str, reading.path_id("A WHK id.", "WHK-26-000007", ENDPOINT_ID)]


class DeliveriesQuery(reading.Present, reading.Page):
    """The parameters of the list of deliveries."""

    status: Annotated[str | None, reading.some_of(statements.STATUSES)] = None


@command_route(
    router,
    "",
    commands.CreateEndpoint,
    _PERMISSION,
    summary="Set up a webhook",
    answer=AnswerOf[EndpointWithSecret],
    status=201,
)
async def create_webhook(asking: reading.Asking, sent: writing.Sent[NewWebhook]) -> Response:
    """Set up an endpoint for the events that are recorded from now on.

    The endpoint's secret is shown in this answer only.
    """
    fault, body = await _fault(asking.request, sent), sent.body
    chosen = commands.EndpointSettings()
    if body is not None:
        named = {"organization_id", "workspace_id"}
        chosen = _settings(body.model_dump(exclude=named))
    organization_id, workspace_id = named_tenant(asking.principal, sent.said)
    command = commands.CreateEndpoint(
        asking.principal,
        asking.request.state.request_id,
        secret=create_secret(),
        settings=chosen,
        organization_id=organization_id,
        workspace_id=workspace_id,
        fault=fault,
        idempotency=sent.key,
        rules=asking.services.of(ChannelRules),
    )
    return writing.with_secret(
        asking.request, _answer(await writing.execute(asking.request, command), 201)
    )


@read_route(router, "", PageOf[ShownEndpoint], summary="List webhooks", permission=_PERMISSION)
async def list_webhooks(asking: reading.Asking, query: reading.TenantQuery) -> Response:
    """List the endpoints of the credential's tenant, newest first."""
    return await reading.paged_by_id(
        asking, query, query.chosen(), "WHK", ENDPOINT_ID, statements.list_read
    )


@read_route(
    router,
    "/{endpoint_id}",
    AnswerOf[ShownEndpoint],
    FEED_ERRORS,
    summary="Show a webhook",
    permission=_PERMISSION,
)
async def show_webhook(
    asking: reading.Asking, endpoint_id: AnyEndpointId, query: reading.Present
) -> Response:
    """Show an endpoint and the state of its deliveries."""
    _require_id(endpoint_id)
    tenant = asking.tenant
    parameters = {**tenant, "endpoint_id": endpoint_id}
    rows = await asking.rows(statements.endpoint_read(frozenset(tenant)), parameters)
    if rows[0][1] is None:
        raise reading.read_at(rows, NotFound(_UNKNOWN))
    return answer('{"data":' + rows[0][1] + "}", rows.position)


def _require_id(endpoint_id: str) -> None:
    if not re.fullmatch(ENDPOINT_ID, endpoint_id):
        raise NotFound(_UNKNOWN)


@command_route(
    router,
    "/{endpoint_id}",
    commands.UpdateEndpoint,
    _PERMISSION,
    method="PATCH",
    summary="Change a webhook",
    answer=AnswerOf[ShownEndpoint],
)
async def update_webhook(
    asking: reading.Asking, endpoint_id: AnyEndpointId, sent: writing.Sent[WebhookChanges]
) -> Response:
    """Change the fields that the body names.

    An endpoint that is enabled again gets the events that are recorded from now on.
    """
    if not asking.principal.sees(*named_tenant(asking.principal, sent.said)):
        refusal = Forbidden(OTHER_TENANT)
        await writing.turn_down(
            asking.request, asking.principal, refusal, writing.refusals_of(commands.UpdateEndpoint)
        )
    chosen = sent.body.given if sent.body is not None else {}
    sent = sent._replace(fault=await _fault(asking.request, sent))
    settings = _settings(chosen)
    rules = asking.services.of(ChannelRules)
    receipt = await writing.execute_on(
        asking, commands.UpdateEndpoint, endpoint_id, sent, settings=settings, rules=rules
    )
    return _answer(receipt, 200)


@command_route(
    router,
    "/{endpoint_id}",
    commands.DeleteEndpoint,
    _PERMISSION,
    method="DELETE",
    summary="Remove a webhook",
    status=204,
)
async def delete_webhook(
    asking: reading.Asking, endpoint_id: AnyEndpointId, sent: writing.Sent[Any]
) -> Response:
    """Remove an endpoint. Nothing is delivered to it any more, not even pending deliveries."""
    receipt = await writing.execute_on(asking, commands.DeleteEndpoint, endpoint_id, sent)
    return writing.deleted(receipt)


@command_route(
    router,
    "/{endpoint_id}/rotate-secret",
    commands.RotateSecret,
    _PERMISSION,
    summary="Replace a webhook's secret",
    answer=AnswerOf[EndpointWithSecret],
)
async def rotate_webhook_secret(
    asking: reading.Asking, endpoint_id: AnyEndpointId, sent: writing.Sent[EmptyBody]
) -> Response:
    """Replace the secret. The new secret is shown in this answer only.

    The old secret signs beside the new one for 24 hours.
    """
    receipt = await writing.execute_on(
        asking, commands.RotateSecret, endpoint_id, sent, secret=create_secret()
    )
    return writing.with_secret(asking.request, _answer(receipt, 200))


@command_route(
    router,
    "/{endpoint_id}/recover",
    commands.RecoverEndpoint,
    _PERMISSION,
    summary="Send undelivered events again",
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def recover_webhook(
    asking: reading.Asking, endpoint_id: AnyEndpointId, sent: writing.Sent[Recovery]
) -> Response:
    """Retry at once the deliveries since an instant that failed or wait for another attempt.

    Each of these deliveries gets a new series of attempts.
    """
    since = parse_bound(sent.body.since) if sent.body is not None else None
    receipt = await writing.execute_on(
        asking, commands.RecoverEndpoint, endpoint_id, sent, since=since
    )
    return _answer(receipt, 202)


@command_route(
    router,
    "/{endpoint_id}/test",
    commands.TestEndpoint,
    _PERMISSION,
    summary="Send a test",
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def send_webhook_test(
    asking: reading.Asking, endpoint_id: AnyEndpointId, sent: writing.Sent[EmptyBody]
) -> Response:
    """Send a `webhook.test` event once, also to a disabled endpoint.

    The test has the number 0, and its result does not count for the endpoint. The deliveries list
    the result.
    """
    return _answer(await writing.execute_on(asking, commands.TestEndpoint, endpoint_id, sent), 202)


@read_route(
    router,
    "/{endpoint_id}/deliveries",
    PageOf[ShownDelivery],
    STORY_ERRORS,
    summary="List deliveries",
    permission=_PERMISSION,
)
async def list_deliveries(
    asking: reading.Asking, endpoint_id: AnyEndpointId, query: DeliveriesQuery
) -> Response:
    """List every event that the endpoint gets, and every test, newest first."""
    _require_id(endpoint_id)
    services = asking.services
    rules = services.of(ChannelRules)
    tenant, statuses = asking.tenant, reading.split_words(query.status) or []
    bound_to = {"endpoint_id": endpoint_id, "status": statuses}
    before = BEYOND
    if query.cursor is not None:
        before = event_position(reading.decode_cursor(query.cursor, bound_to))
    read = statements.deliveries_read(frozenset(tenant), frozenset(statuses))
    parameters = {**tenant, **bound_to, "before": before, "limit": query.limit + 1}
    rows = await asking.rows(read, parameters)
    if rows[0][1] is None:
        raise reading.read_at(rows, NotFound(_UNKNOWN))
    return reading.paged(
        rows,
        query.limit,
        2,
        lambda row: reading.encode_cursor({"position": row[2]}, bound_to),
        lambda row: delivery_text(row[2:], services.public_url, rules.mail_from),
    )


@command_route(
    router,
    "/{endpoint_id}/deliveries/{event_id}/resend",
    commands.ResendDelivery,
    _PERMISSION,
    summary="Send one event again",
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def send_delivery_again(
    asking: reading.Asking,
    endpoint_id: AnyEndpointId,
    event_id: AnyEventId,
    sent: writing.Sent[EmptyBody],
) -> Response:
    """Send one event again at once, delivered or not, under the same id and number.

    The delivery gets a new series of attempts.
    """
    is_known = await _has_delivery(asking, endpoint_id, event_id)
    receipt = await writing.execute_on(
        asking, commands.ResendDelivery, endpoint_id, sent, event_id=event_id, is_known=is_known
    )
    return _answer(receipt, 202)


async def _has_delivery(asking: reading.Asking, endpoint_id: str, event_id: str) -> bool:
    """Whether the endpoint has a delivery of the event, or a test of this id."""
    if not re.fullmatch(EVENT_ID, event_id):
        return False
    tenant = asking.tenant
    parameters = {
        **tenant,
        "endpoint_id": endpoint_id,
        "number": event_id.removeprefix("EVT-"),
        "at": position_in(event_id),
    }
    rows = await asking.rows(statements.message_read(frozenset(tenant)), parameters)
    return rows[0][1] is not None


def _settings(given: dict[str, Any]) -> commands.EndpointSettings:
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return commands.EndpointSettings(**given | lists)


async def _fault(request: Request, sent: writing.Sent[Any]) -> Invalid | None:
    """The fault in a request; a URL with a forbidden target is a fault too."""
    url = getattr(sent.body, "url", None)
    if sent.fault is None and url and not url.startswith("mailto:"):
        try:
            await reading.services_of(request).of(Targets).check(url)
        except ForbiddenTarget as error:
            return Invalid.at("/url", str(error))
    return sent.fault


def _answer(receipt: Receipt, status: int) -> Response:
    return answer((receipt.answer or b"").decode(), receipt.position, status)
