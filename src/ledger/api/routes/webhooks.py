"""Webhook endpoints: routes that change and show them, and their deliveries (contract, Feeds).

The answer of a command comes with its receipt (``webhook_commands.py``); the state of deliveries is
read from the view.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ledger.api.lean import LeanRoute, NoParameters, command_route, read_route
from ledger.api.models import Nothing
from ledger.api.problems import FEED_ERRORS, STORY_ERRORS, InvalidCursor
from ledger.api.reading import (
    OR,
    Asking,
    Page,
    Present,
    TenantQuery,
    any_of,
    decode_cursor,
    encode_cursor,
    paged,
    path_id,
    read_at,
    split_words,
)
from ledger.api.replies import AnswerOf, PageOf, answer
from ledger.api.routes import webhook_commands as commands
from ledger.api.routes.feeds import BEYOND, event_position
from ledger.api.writing import read_command
from ledger.application.commands.webhooks import (
    CreateEndpoint,
    DeleteEndpoint,
    RecoverEndpoint,
    ResendDelivery,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
)
from ledger.domain.errors import NotFound
from ledger.domain.values import ENDPOINT_ID, EVENT_ID, format_id, sort_key
from ledger.feed.signing import ShownDelivery, delivery_text
from ledger.intake.principal import Principal
from ledger.language.rendering import EndpointWithSecret, ShownEndpoint
from projections.webhook import statements

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=LeanRoute)

_PERMISSION = "webhooks:manage"
_UNKNOWN = "No such webhook endpoint."

AnyEndpointId = Annotated[str, path_id("A WHK id.", "WHK-26-000007", ENDPOINT_ID)]


class DeliveriesQuery(Present, Page):
    """The parameters of the list of deliveries."""

    status: Annotated[str | None, Field(pattern=any_of(statements.STATUSES), description=OR)] = None


@command_route(
    router,
    "",
    CreateEndpoint,
    _PERMISSION,
    summary="Set up a webhook",
    body=commands.NewWebhook,
    answer=AnswerOf[EndpointWithSecret],
    status=201,
)
async def create_webhook(request: Request, principal: Principal, _: NoParameters) -> Response:
    """Set up an endpoint for the events that are recorded from now on.

    The endpoint's secret is shown in this answer only.
    """
    sent = await read_command(request, principal, commands.NewWebhook)
    return await commands.create(request, principal, sent)


@read_route(router, "", PageOf[ShownEndpoint], summary="List webhooks", permission=_PERMISSION)
async def list_webhooks(asking: Asking, query: TenantQuery) -> Response:
    """List the endpoints of the credential's tenant, newest first."""
    chosen = query.chosen()
    filters = asking.tenant | chosen
    if query.cursor is not None:
        filters["after"] = _endpoint_key(decode_cursor(query.cursor, chosen))
    parameters = {**filters, "limit": query.limit + 1}
    rows = await asking.rows(statements.list_read(frozenset(filters)), parameters)
    return paged(
        rows, query.limit, 1, lambda row: encode_cursor({"id": _endpoint_id(row[1])}, chosen)
    )


def _endpoint_id(key: int) -> str:
    return format_id("WHK", key // 10**12, key % 10**12)


def _endpoint_key(key: dict[str, Any]) -> int:
    if not re.fullmatch(ENDPOINT_ID, str(key.get("id"))):
        raise InvalidCursor("The cursor is not valid for this request.")
    return sort_key(key["id"])


@read_route(
    router,
    "/{endpoint_id}",
    AnswerOf[ShownEndpoint],
    FEED_ERRORS,
    summary="Show a webhook",
    permission=_PERMISSION,
)
async def show_webhook(asking: Asking, endpoint_id: AnyEndpointId, query: Present) -> Response:
    """Show an endpoint and the state of its deliveries."""
    _require_id(endpoint_id)
    tenant = asking.tenant
    parameters = {**tenant, "endpoint_id": endpoint_id}
    rows = await asking.rows(statements.endpoint_read(frozenset(tenant)), parameters)
    if rows[0][1] is None:
        raise read_at(rows, NotFound(_UNKNOWN))
    return answer('{"data":' + rows[0][1] + "}", rows.position)


def _require_id(endpoint_id: str) -> None:
    if not re.fullmatch(ENDPOINT_ID, endpoint_id):
        raise NotFound(_UNKNOWN)


@command_route(
    router,
    "/{endpoint_id}",
    UpdateEndpoint,
    _PERMISSION,
    method="PATCH",
    summary="Change a webhook",
    body=commands.WebhookChanges,
    answer=AnswerOf[ShownEndpoint],
)
async def update_webhook(
    request: Request, principal: Principal, endpoint_id: AnyEndpointId, _: NoParameters
) -> Response:
    """Change the fields that the body names.

    An endpoint that is enabled again gets the events that are recorded from now on.
    """
    sent = await read_command(request, principal, commands.WebhookChanges)
    return await commands.update(request, principal, endpoint_id, sent)


@command_route(
    router,
    "/{endpoint_id}",
    DeleteEndpoint,
    _PERMISSION,
    method="DELETE",
    summary="Remove a webhook",
    status=204,
)
async def delete_webhook(
    request: Request, principal: Principal, endpoint_id: AnyEndpointId, _: NoParameters
) -> Response:
    """Remove an endpoint. Nothing is delivered to it any more, not even pending deliveries."""
    return await commands.delete(request, principal, endpoint_id)


@command_route(
    router,
    "/{endpoint_id}/rotate-secret",
    RotateSecret,
    _PERMISSION,
    summary="Replace a webhook's secret",
    body=Nothing,
    answer=AnswerOf[EndpointWithSecret],
)
async def rotate_webhook_secret(
    request: Request, principal: Principal, endpoint_id: AnyEndpointId, _: NoParameters
) -> Response:
    """Replace the secret. The new secret is shown in this answer only.

    The old secret signs beside the new one for 24 hours.
    """
    sent = await read_command(request, principal, Nothing)
    return await commands.rotate_secret(request, principal, endpoint_id, sent)


@command_route(
    router,
    "/{endpoint_id}/recover",
    RecoverEndpoint,
    _PERMISSION,
    summary="Send undelivered events again",
    body=commands.Recovery,
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def recover_webhook(
    request: Request, principal: Principal, endpoint_id: AnyEndpointId, _: NoParameters
) -> Response:
    """Retry at once the deliveries since an instant that failed or wait for another attempt.

    Each of these deliveries gets a new series of attempts.
    """
    sent = await read_command(request, principal, commands.Recovery)
    return await commands.recover(request, principal, endpoint_id, sent)


@command_route(
    router,
    "/{endpoint_id}/test",
    TestEndpoint,
    _PERMISSION,
    summary="Send a test",
    body=Nothing,
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def send_webhook_test(
    request: Request, principal: Principal, endpoint_id: AnyEndpointId, _: NoParameters
) -> Response:
    """Send a `webhook.test` event once, also to a disabled endpoint.

    The test has the number 0, and its result does not count for the endpoint. The deliveries list
    the result.
    """
    sent = await read_command(request, principal, Nothing)
    return await commands.send_test(request, principal, endpoint_id, sent)


@read_route(
    router,
    "/{endpoint_id}/deliveries",
    PageOf[ShownDelivery],
    STORY_ERRORS,
    summary="List deliveries",
    permission=_PERMISSION,
)
async def list_deliveries(
    asking: Asking, endpoint_id: AnyEndpointId, query: DeliveriesQuery
) -> Response:
    """List every event that the endpoint gets, and every test, newest first."""
    _require_id(endpoint_id)
    tenant, statuses = asking.tenant, split_words(query.status) or []
    bound_to = {"endpoint_id": endpoint_id, "status": statuses}
    before = BEYOND
    if query.cursor is not None:
        before = event_position(decode_cursor(query.cursor, bound_to))
    read = statements.deliveries_read(frozenset(tenant), frozenset(statuses))
    parameters = {**tenant, **bound_to, "before": before, "limit": query.limit + 1}
    rows = await asking.rows(read, parameters)
    if rows[0][1] is None:
        raise read_at(rows, NotFound(_UNKNOWN))
    return paged(
        rows,
        query.limit,
        2,
        lambda row: encode_cursor({"position": row[2]}, bound_to),
        lambda row: delivery_text(row[2:]),
    )


@command_route(
    router,
    "/{endpoint_id}/deliveries/{event_id}/resend",
    ResendDelivery,
    _PERMISSION,
    summary="Send one event again",
    body=Nothing,
    answer=AnswerOf[ShownEndpoint],
    status=202,
)
async def send_delivery_again(
    request: Request,
    principal: Principal,
    endpoint_id: AnyEndpointId,
    event_id: Annotated[str, path_id("An EVT id.", "EVT-26-000123", EVENT_ID)],
    _: NoParameters,
) -> Response:
    """Send one event again at once, delivered or not, under the same id and number.

    The delivery gets a new series of attempts.
    """
    sent = await read_command(request, principal, Nothing)
    return await commands.resend(request, principal, endpoint_id, event_id, sent)
