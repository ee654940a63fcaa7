"""The pages where people manage webhook endpoints and see their deliveries (``/ui/webhooks``)."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import Field

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.reading import Bound, Present, ReadRequest, TenantQuery
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.log import listed, stream_address
from ledger.engine.page.managed import Managed, RefusedForm
from ledger.engine.page.pages import Form, PageRoute, go, idempotency_of, read_answer, show
from ledger.engine.page.showing import zone_of
from ledger.engine.values.values import parse_bound
from ledger.features.feed.published import TYPES
from ledger.features.watches.alerts import names_of_watches
from ledger.features.webhooks import commands
from ledger.features.webhooks.delivery.signing import ShownDelivery
from ledger.features.webhooks.model.views import EndpointWithSecret, ShownEndpoint
from ledger.features.webhooks.page import webhook_forms
from ledger.features.webhooks.routes import webhooks as api
from projections.webhooks import statements

PATH = "/ui/webhooks"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=PageRoute)

_PERMISSION = "webhooks:manage"

Done = Literal["change", "enable", "disable", "recover", "resend", "test", "remove"]

DONE: Mapping[Done | None, str] = {
    "change": "Settings saved.",
    "enable": "Endpoint enabled. It receives events recorded from now on.",
    "disable": "Endpoint disabled. It receives no events until you enable it.",
    "recover": "Undelivered events since that time are being sent again.",
    "resend": "The event is being sent again. The deliveries below show the result.",
    "test": "Test sent. The deliveries below show the result.",
    "remove": "Endpoint deleted.",
}

MOST = 1000
"""The most deliveries that the page counts. Beyond, it says "more than 1,000"."""

PYTHON = """\
from standardwebhooks import Webhook


def take(secret: str, body: bytes, headers: dict[str, str]) -> tuple[str, int]:
    event = Webhook(secret).verify(body, headers)  # raises WebhookVerificationError
    return event["id"], event["sequence"]
"""

TYPESCRIPT = """\
import { Webhook } from "standardwebhooks";

export function take(secret: string, body: string, headers: Record<string, string>) {
  const verified = new Webhook(secret).verify(body, headers); // throws WebhookVerificationError
  const { id, sequence } = verified as { id: string; sequence: number };
  return { id, sequence };
}
"""

SNIPPETS = (
    ("Python", "pip install standardwebhooks", PYTHON),
    ("TypeScript", "npm install standardwebhooks", TYPESCRIPT),
)
"""Code that verifies a delivery: language, installation of the library, and the code."""


class EndpointsQuery(TenantQuery):
    """The parameters of the list, with the form that was just carried out."""

    done: Done | None = None


class DeliveriesPageQuery(api.DeliveriesQuery):
    """The deliveries' parameters, the form that was just carried out, and a recovery's start."""

    done: Done | None = None
    since: Annotated[Bound | None, Field(description="A recovery's start, to be counted.")] = None
    since_local: Annotated[str | None, Field(max_length=40)] = None


@router.get("", openapi_extra=needs(_PERMISSION))
async def show_webhooks(
    request: ReadRequest, query: EndpointsQuery, refused: RefusedForm | None = None
) -> Response:
    """List the credential's endpoints, newest first, with the form for a new one."""
    found = await read_answer(api.list_webhooks(request, query), PageOf[ShownEndpoint])
    return await _ENDPOINTS.show(
        request,
        "webhooks.html",
        found.data,
        query,
        refused,
        endpoints=found.data,
        **listed(request.http, found, query.chosen()),
        typed=webhook_forms.typed(refused and refused.form),
        types=tuple(TYPES),
        watch_names=await _watches_of(request, found.data),
    )


async def _watches_of(
    request: ReadRequest, endpoints: Sequence[ShownEndpoint]
) -> Mapping[str, str]:
    """By id, the names of the watches that these endpoints are limited to."""
    return await names_of_watches(request) if any(one.watch_ids for one in endpoints) else {}


@command_route(router, "", commands.CreateEndpoint, _PERMISSION)
async def add_webhook(request: ReadRequest, form: webhook_forms.NewForm) -> Response:
    """Create an endpoint. The answer contains its secret."""
    then = partial(_secret, request.http, is_new=True)
    return await _ENDPOINTS.send(request, form, api.create_webhook, then)


def _secret(request: Request, made: Response, is_new: bool) -> Response:
    """Render the only page with a secret, from the command's receipt, without awaiting a view."""
    endpoint = msgspec.json.decode(made.body, type=AnswerOf[EndpointWithSecret]).data
    return show(
        request,
        "webhook_secret.html",
        endpoint=endpoint,
        is_new=is_new,
        here=f"{PATH}/{endpoint.id}",
    )


@router.get("/{endpoint_id}", openapi_extra=needs(_PERMISSION))
async def show_webhook(
    request: ReadRequest,
    endpoint_id: str,
    query: DeliveriesPageQuery,
    refused: RefusedForm | None = None,
) -> Response:
    """Show an endpoint with its forms, and its deliveries, newest first."""
    if query.since_local is not None:
        address = with_parameter(here(request.http), "since_local", None)
        meant = zone_of(request.http).meant("since", query.since_local)
        return go(with_parameter(address, "since", meant))
    endpoints = await read_answer(
        api.show_webhook(request, endpoint_id, Present()),
        AnswerOf[ShownEndpoint],
    )
    endpoint = endpoints.data
    found = await read_answer(
        api.list_deliveries(request, endpoint_id, query), PageOf[ShownDelivery]
    )
    zone = zone_of(request.http)
    since = parse_bound(query.since) if query.since is not None else None
    since = since or webhook_forms.since_when(endpoint, request.services.clock())
    whose = {"organization_id": endpoint.organization_id, "workspace_id": endpoint.workspace_id}
    form = refused and refused.form
    return await _ENDPOINTS.show(
        request,
        "webhook.html",
        [endpoint],
        query,
        refused,
        endpoint=endpoint,
        deliveries=found.data,
        older=found.meta.cursor if found.meta.has_more else None,
        statuses=statements.STATUSES,
        stream=stream_address(request.principal, whose, tuple(whose)),
        typed=webhook_forms.typed(form, endpoint),
        since=form.since if isinstance(form, webhook_forms.RecoverForm) else zone.field(since),
        counted_since=since,
        recovers=await _would_recover(request, endpoint_id, since),
        most=MOST,
        snippets=SNIPPETS,
        types=tuple(TYPES),
        watch_names=await _watches_of(request, [endpoint]),
    )


async def _would_recover(request: ReadRequest, endpoint_id: str, since: datetime) -> int:
    """How many deliveries a recovery since an instant would send; at most ``MOST`` + 1."""
    tenant = request.tenant
    parameters = {**tenant, "endpoint_id": endpoint_id, "since": since, "limit": MOST + 1}
    rows = await request.rows(statements.recovery_read(frozenset(tenant)), parameters)
    count: int = rows[0][1]
    return count


@command_route(router, "/{endpoint_id}/change", commands.UpdateEndpoint, _PERMISSION)
async def change_webhook(request: ReadRequest, form: webhook_forms.ChangeForm) -> Response:
    return await _ENDPOINTS.send(request, form, api.update_webhook, "change")


@command_route(router, "/{endpoint_id}/switch", commands.UpdateEndpoint, _PERMISSION)
async def switch_webhook(request: ReadRequest, form: webhook_forms.SwitchForm) -> Response:
    """Enable or disable the endpoint."""
    done: Done = "enable" if form.enabled == "true" else "disable"
    return await _ENDPOINTS.send(request, form, api.update_webhook, done)


@command_route(router, "/{endpoint_id}/recover", commands.RecoverEndpoint, _PERMISSION)
async def recover_webhook(request: ReadRequest, form: webhook_forms.RecoverForm) -> Response:
    """Send undelivered events again."""
    sent = form.sent_in(zone_of(request.http), idempotency_of(request, form))
    return await _ENDPOINTS.send(request, form, api.recover_webhook, "recover", sent)


@command_route(
    router, "/{endpoint_id}/deliveries/{event_id}/resend", commands.ResendDelivery, _PERMISSION
)
async def send_delivery_again(request: ReadRequest, form: Form) -> Response:
    """Send one event again."""
    return await _ENDPOINTS.send(request, form, api.send_delivery_again, "resend")


@command_route(router, "/{endpoint_id}/test", commands.TestEndpoint, _PERMISSION)
async def send_test(request: ReadRequest, form: Form) -> Response:
    """Send a test. The list of deliveries shows its result."""
    return await _ENDPOINTS.send(request, form, api.send_webhook_test, "test")


@command_route(router, "/{endpoint_id}/remove", commands.DeleteEndpoint, _PERMISSION)
async def remove_webhook(request: ReadRequest, form: Form) -> Response:
    """Delete the endpoint for good."""
    then = go(with_parameter(PATH, "done", "remove"))
    return await _ENDPOINTS.send(request, form, api.delete_webhook, lambda _: then)


@command_route(router, "/{endpoint_id}/rotate-secret", commands.RotateSecret, _PERMISSION)
async def rotate_secret(request: ReadRequest, form: Form) -> Response:
    """Replace the endpoint's secret. The answer contains the new one."""
    then = partial(_secret, request.http, is_new=False)
    return await _ENDPOINTS.send(request, form, api.rotate_webhook_secret, then)


_ENDPOINTS = Managed(
    PATH,
    "endpoint_id",
    DONE,
    partial(show_webhooks, query=EndpointsQuery()),
    partial(show_webhook, query=DeliveriesPageQuery()),
)
_ENDPOINTS.route_back(router, _PERMISSION)
