"""Webhook endpoints as people manage them (``/ui/webhooks``), with their deliveries.

The forms carry out the API's commands (``api/routes/webhook_commands.py``), with its checks and its
records of refusals. A secret is shown in the answer to its form only. No address contains it, and
only the same form, sent again, shows it again.
"""

from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ledger.api.lean import NoParameters, command_route, needs
from ledger.api.problems import status_of
from ledger.api.reading import Asking, Bound, Present, TenantQuery, services_of
from ledger.api.replies import AnswerOf, PageOf
from ledger.api.routes import webhook_commands as commands
from ledger.api.routes import webhooks as api
from ledger.application.commands.webhooks import (
    CreateEndpoint,
    DeleteEndpoint,
    RecoverEndpoint,
    ResendDelivery,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
)
from ledger.domain.errors import NotFound, Refused
from ledger.domain.values import parse_bound
from ledger.feed.signing import ShownDelivery
from ledger.intake.principal import Principal
from ledger.language.published import TYPES
from ledger.language.rendering import EndpointWithSecret, ShownEndpoint
from ledger.web.log import chips, stream_address
from ledger.web.names import names_of_scopes
from ledger.web.pages import (
    Form,
    PageRoute,
    go,
    here,
    idempotency_of,
    read_answer,
    read_form,
    show,
    with_parameter,
)
from ledger.web.showing import zone_of
from ledger.web.webhook_forms import (
    ChangeForm,
    NewForm,
    RecoverForm,
    SettingsForm,
    SwitchForm,
    nothing,
    since_when,
    typed,
)
from projections.webhook import statements

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
"""The messages that a page shows once, after a form was carried out."""

MOST = 1000
"""The most deliveries that are counted. The page says "more than 1,000" beyond."""

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
    """The list's parameters, and the form that was just carried out."""

    done: Done | None = None


class DeliveriesPageQuery(api.DeliveriesQuery):
    """The deliveries' parameters, the form that was just carried out, and a recovery's start."""

    done: Done | None = None
    since: Annotated[Bound | None, Field(description="A recovery's start, to be counted.")] = None
    since_local: Annotated[str | None, Field(max_length=40)] = None


@router.get("", openapi_extra=needs(_PERMISSION))
async def show_webhooks(request: Request, principal: Principal, query: EndpointsQuery) -> Response:
    """The credential's endpoints, newest first, and the form for a new one."""
    return await _list_page(request, principal, query)


async def _list_page(
    request: Request,
    principal: Principal,
    query: EndpointsQuery,
    refused: Refused | None = None,
    form: NewForm | None = None,
) -> Response:
    found = await read_answer(
        api.list_webhooks(Asking(request, principal), query), PageOf[ShownEndpoint]
    )
    return show(
        request,
        "webhooks.html",
        200 if refused is None else status_of(refused),
        endpoints=found.data,
        scope_names=await names_of_scopes(request, principal, found.data),
        older=found.meta.cursor if found.meta.has_more else None,
        query=query,
        done=DONE.get(query.done),
        given=query.chosen(),
        chips=chips(request, query.chosen()),
        refused=refused,
        typed=typed(form),
        form=form,
        types=tuple(TYPES),
        here=PATH if form is not None else here(request),
    )


@command_route(router, "", CreateEndpoint, _PERMISSION)
async def add_webhook(request: Request, principal: Principal, _: NoParameters) -> Response:
    """Create an endpoint; the answer contains its secret."""
    form = await read_form(request, NewForm)
    sent = form.sent(idempotency_of(request, principal, form))
    try:
        made = await read_answer(
            commands.create(request, principal, sent), AnswerOf[EndpointWithSecret]
        )
    except Refused as refusal:
        return await _list_page(request, principal, EndpointsQuery(), refusal, form)
    return _secret(request, made.data, is_new=True)


def _secret(request: Request, endpoint: EndpointWithSecret, is_new: bool) -> Response:
    """The only page that shows a secret, made from the command's receipt: no view is awaited."""
    return show(
        request,
        "webhook_secret.html",
        endpoint=endpoint,
        is_new=is_new,
        here=f"{PATH}/{endpoint.id}",
    )


@router.get("/{endpoint_id}", openapi_extra=needs(_PERMISSION))
async def show_webhook(
    request: Request, principal: Principal, endpoint_id: str, query: DeliveriesPageQuery
) -> Response:
    """An endpoint with its forms, and its deliveries, newest first."""
    if query.since_local is not None:
        address = with_parameter(here(request), "since_local", None)
        since = zone_of(request).meant("since", query.since_local)
        return go(with_parameter(address, "since", since))
    return await _endpoint_page(request, principal, endpoint_id, query)


async def _endpoint_page(
    request: Request,
    principal: Principal,
    endpoint_id: str,
    query: DeliveriesPageQuery,
    refused: Refused | None = None,
    form: Form | None = None,
) -> Response:
    """The page of an endpoint. A refusal is shown at the form that was sent, with its values."""
    shown = await read_answer(
        api.show_webhook(Asking(request, principal), endpoint_id, Present()),
        AnswerOf[ShownEndpoint],
    )
    endpoint = shown.data
    found = await read_answer(
        api.list_deliveries(Asking(request, principal), endpoint_id, query), PageOf[ShownDelivery]
    )
    zone = zone_of(request)
    since = parse_bound(query.since) if query.since is not None else None
    since = since or since_when(endpoint, services_of(request).clock())
    whose = {"organization_id": endpoint.organization_id, "workspace_id": endpoint.workspace_id}
    return show(
        request,
        "webhook.html",
        200 if refused is None else status_of(refused),
        endpoint=endpoint,
        scope_names=await names_of_scopes(request, principal, [endpoint]),
        deliveries=found.data,
        older=found.meta.cursor if found.meta.has_more else None,
        query=query,
        done=DONE.get(query.done),
        statuses=statements.STATUSES,
        stream=stream_address(principal, whose, tuple(whose)),
        refused=refused,
        refused_at=type(form).__name__ if form is not None else None,
        typed=typed(form if isinstance(form, SettingsForm) else endpoint),
        since=form.since if isinstance(form, RecoverForm) else zone.field(since),
        counted_since=since,
        recovers=await _would_recover(request, principal, endpoint_id, since),
        most=MOST,
        snippets=SNIPPETS,
        types=tuple(TYPES),
        here=here(request) if form is None else f"{PATH}/{endpoint_id}",
    )


async def _would_recover(
    request: Request, principal: Principal, endpoint_id: str, since: datetime
) -> int:
    """How many deliveries a recovery since an instant sends again now; at most ``MOST`` + 1."""
    asking = Asking(request, principal)
    tenant = asking.tenant
    parameters = {**tenant, "endpoint_id": endpoint_id, "since": since, "limit": MOST + 1}
    rows = await asking.rows(statements.recovery_read(frozenset(tenant)), parameters)
    count: int = rows[0][1]
    return count


async def _carried_out(
    request: Request,
    principal: Principal,
    endpoint_id: str,
    form: Form,
    command: Awaitable[Response],
    done: Done,
    target: str | None = None,
) -> Response:
    """Redirect to the endpoint's page, which shows the result; or show the refusal at the form."""
    try:
        await command
    except NotFound:
        raise
    except Refused as refusal:
        query = DeliveriesPageQuery()
        return await _endpoint_page(request, principal, endpoint_id, query, refusal, form)
    return go(with_parameter(target or f"{PATH}/{endpoint_id}", "done", done))


@command_route(router, "/{endpoint_id}/change", UpdateEndpoint, _PERMISSION)
async def change_webhook(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Replace the endpoint's settings."""
    form = await read_form(request, ChangeForm)
    sent = form.sent(idempotency_of(request, principal, form))
    command = commands.update(request, principal, endpoint_id, sent)
    return await _carried_out(request, principal, endpoint_id, form, command, "change")


@command_route(router, "/{endpoint_id}/switch", UpdateEndpoint, _PERMISSION)
async def switch_webhook(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Enable or disable the endpoint."""
    form = await read_form(request, SwitchForm)
    sent = form.sent(idempotency_of(request, principal, form))
    command = commands.update(request, principal, endpoint_id, sent)
    done: Done = "enable" if form.enabled == "true" else "disable"
    return await _carried_out(request, principal, endpoint_id, form, command, done)


@command_route(router, "/{endpoint_id}/recover", RecoverEndpoint, _PERMISSION)
async def recover_webhook(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Send undelivered events again."""
    form = await read_form(request, RecoverForm)
    sent = form.sent(idempotency_of(request, principal, form), zone_of(request))
    command = commands.recover(request, principal, endpoint_id, sent)
    return await _carried_out(request, principal, endpoint_id, form, command, "recover")


@command_route(router, "/{endpoint_id}/deliveries/{event_id}/resend", ResendDelivery, _PERMISSION)
async def send_delivery_again(
    request: Request, principal: Principal, endpoint_id: str, event_id: str, _: NoParameters
) -> Response:
    """Send one event again."""
    form = await read_form(request, Form)
    sent = nothing(idempotency_of(request, principal, form))
    command = commands.resend(request, principal, endpoint_id, event_id, sent)
    return await _carried_out(request, principal, endpoint_id, form, command, "resend")


@command_route(router, "/{endpoint_id}/test", TestEndpoint, _PERMISSION)
async def send_test(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Send a test; the deliveries show its result."""
    form = await read_form(request, Form)
    sent = nothing(idempotency_of(request, principal, form))
    command = commands.send_test(request, principal, endpoint_id, sent)
    return await _carried_out(request, principal, endpoint_id, form, command, "test")


@command_route(router, "/{endpoint_id}/remove", DeleteEndpoint, _PERMISSION)
async def remove_webhook(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Delete the endpoint for good."""
    form = await read_form(request, Form)
    sent: Any = nothing(idempotency_of(request, principal, form))
    command = commands.delete(request, principal, endpoint_id, sent)
    return await _carried_out(request, principal, endpoint_id, form, command, "remove", PATH)


@command_route(router, "/{endpoint_id}/rotate-secret", RotateSecret, _PERMISSION)
async def rotate_secret(
    request: Request, principal: Principal, endpoint_id: str, _: NoParameters
) -> Response:
    """Replace the endpoint's secret; the answer contains the new one."""
    form = await read_form(request, Form)
    sent = nothing(idempotency_of(request, principal, form))
    try:
        made = await read_answer(
            commands.rotate_secret(request, principal, endpoint_id, sent),
            AnswerOf[EndpointWithSecret],
        )
    except NotFound:
        raise
    except Refused as refusal:
        query = DeliveriesPageQuery()
        return await _endpoint_page(request, principal, endpoint_id, query, refusal, form)
    return _secret(request, made.data, is_new=False)


@router.get("/{endpoint_id}/{act:path}", openapi_extra=needs(_PERMISSION))
async def return_to_webhook(
    request: Request, principal: Principal, endpoint_id: str, act: str, _: NoParameters
) -> Response:
    """Redirect the address of a form, opened as a page (after a new sign-in), to the endpoint."""
    return go(f"{PATH}/{endpoint_id}")
