"""Commands about webhook endpoints, for the API's routes and for the forms of the pages.

The answer of a command comes with its receipt, so a replayed request is shown the same secret
again.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import AfterValidator, Field, WithJsonSchema

from ledger.api.models import Changes, CommandBody, Nothing
from ledger.api.reading import Asking, Bound, services_of
from ledger.api.replies import answer
from ledger.api.routes.feeds import position_in
from ledger.api.writing import Sent, execute, execute_on, refusals_of, turn_down, with_secret
from ledger.application.commands.webhooks import (
    OTHER_TENANT,
    CreateEndpoint,
    DeleteEndpoint,
    EndpointSettings,
    RecoverEndpoint,
    ResendDelivery,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
)
from ledger.domain.endpoint import EVERY_TYPE
from ledger.domain.errors import Forbidden, Invalid
from ledger.domain.values import (
    EVENT_ID,
    LABEL,
    ORGANIZATION_ID,
    WORKSPACE_ID,
    id_named,
    parse_bound,
)
from ledger.feed.signing import create_secret
from ledger.feed.target import LONGEST_URL, ForbiddenTarget
from ledger.intake.fact_types import Characters
from ledger.intake.principal import Principal
from ledger.intake.request import Receipt
from ledger.language.published import TYPES
from projections.webhook import statements


def _known_types(types: Sequence[str]) -> Sequence[str]:
    if list(types) == [EVERY_TYPE]:
        return types
    if EVERY_TYPE in types:
        raise ValueError('has "*" beside other types: "*" must be the only one')
    if not set(types) <= TYPES.keys():
        raise ValueError("names an unknown event type")
    if len(set(types)) < len(types):
        raise ValueError("names an event type twice")
    return types


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="http or https, to a public address. Redirects are not followed.",
        examples=["https://example.com/webhooks"],
        json_schema_extra={"pattern": "^https?://"},
    ),
]
EventTypes = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=100,
        description="Types of `/v1/event-types`, or `*` alone for all of them.",
        examples=[["execution.blocked", "run.failed"]],
    ),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"enum": [*TYPES, EVERY_TYPE]},
            "minItems": 1,
            "maxItems": len(TYPES),
            "uniqueItems": True,
            # Client generators ignore `if`; they cannot tell alternatives of arrays apart.
            "if": {"contains": {"const": EVERY_TYPE}},
            "then": {"maxItems": 1},
        }
    ),
    AfterValidator(_known_types),
]
Description = Annotated[str, Field(max_length=500), Characters(LABEL)] | None


class NewWebhook(CommandBody):
    """A new endpoint."""

    url: Url
    event_types: EventTypes
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization; required if it has none.",
        ),
        WithJsonSchema({"type": "string", "pattern": ORGANIZATION_ID}),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(pattern=WORKSPACE_ID, description="Deliver the events of this workspace only."),
    ] = None
    description: Description = None
    enabled: bool = True


class WebhookChanges(Changes):
    """The changes of an endpoint; a field that is left out stays as it is."""

    url: Url = ""
    event_types: EventTypes = Field(default_factory=list)
    description: Description = None
    enabled: bool = True


class Recovery(CommandBody):
    """The start of a recovery."""

    since: Annotated[
        Bound, Field(description="The recovery covers events recorded from this instant on.")
    ]


async def create(request: Request, principal: Principal, sent: Sent[NewWebhook]) -> Response:
    """Set up an endpoint. Its secret is shown in this answer only."""
    fault, body = await _fault(request, sent), sent.body
    chosen = EndpointSettings()
    if body is not None:
        chosen = EndpointSettings(body.url, tuple(body.event_types), body.description, body.enabled)
    organization_id, workspace_id = _named_tenant(sent)
    command = CreateEndpoint(
        principal,
        request.state.request_id,
        secret=create_secret(),
        settings=chosen,
        organization_id=organization_id,
        workspace_id=workspace_id,
        fault=fault,
        idempotency=sent.key,
    )
    return with_secret(request, _answer(await execute(request, command), 201))


async def update(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[WebhookChanges]
) -> Response:
    """Change the fields that the body names.

    The tenant of an endpoint cannot be changed: another tenant in the body is 403 (contract,
    Access).
    """
    organization_id, workspace_id = _named_tenant(sent)
    if not principal.sees(
        organization_id or principal.organization_id, workspace_id or principal.workspace_id
    ):
        refusal = Forbidden(OTHER_TENANT)
        await turn_down(request, principal, refusal, refusals_of(UpdateEndpoint))
    chosen = sent.body.given if sent.body is not None else {}
    if "event_types" in chosen:
        chosen["event_types"] = tuple(chosen["event_types"])
    sent = sent._replace(fault=await _fault(request, sent))
    settings = EndpointSettings(**chosen)
    receipt = await execute_on(
        request, principal, UpdateEndpoint, endpoint_id, sent, settings=settings
    )
    return _answer(receipt, 200)


async def delete(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[Any] | None = None
) -> Response:
    """Remove an endpoint."""
    given: Sent[Any] = sent or Sent(None, None, None)
    receipt = await execute_on(request, principal, DeleteEndpoint, endpoint_id, given)
    return Response(status_code=204, headers={"Ledger-Position": str(receipt.position)})


async def rotate_secret(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[Nothing]
) -> Response:
    """Replace an endpoint's secret. The new secret is shown in this answer only."""
    receipt = await execute_on(
        request, principal, RotateSecret, endpoint_id, sent, secret=create_secret()
    )
    return with_secret(request, _answer(receipt, 200))


async def recover(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[Recovery]
) -> Response:
    """Retry the failed and pending deliveries since an instant."""
    since = parse_bound(sent.body.since) if sent.body is not None else None
    receipt = await execute_on(request, principal, RecoverEndpoint, endpoint_id, sent, since=since)
    return _answer(receipt, 202)


async def resend(
    request: Request, principal: Principal, endpoint_id: str, event_id: str, sent: Sent[Nothing]
) -> Response:
    """Send one delivery again."""
    is_known = await _has_delivery(request, principal, endpoint_id, event_id)
    receipt = await execute_on(
        request,
        principal,
        ResendDelivery,
        endpoint_id,
        sent,
        event_id=event_id,
        is_known=is_known,
    )
    return _answer(receipt, 202)


async def _has_delivery(
    request: Request, principal: Principal, endpoint_id: str, event_id: str
) -> bool:
    """Whether the endpoint has a delivery of the event, or a test of this id."""
    if not re.fullmatch(EVENT_ID, event_id):
        return False
    asking = Asking(request, principal)
    tenant = asking.tenant
    parameters = {
        **tenant,
        "endpoint_id": endpoint_id,
        "number": event_id.removeprefix("EVT-"),
        "at": position_in(event_id),
    }
    rows = await asking.rows(statements.message_read(frozenset(tenant)), parameters)
    return rows[0][1] is not None


async def send_test(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[Nothing]
) -> Response:
    """Send a test to an endpoint."""
    return _answer(await execute_on(request, principal, TestEndpoint, endpoint_id, sent), 202)


def _named_tenant(sent: Sent[Any]) -> tuple[str | None, str | None]:
    """The named organization and workspace: another tenant is 403 before any field is 422."""
    return (
        id_named(sent.said, "organization_id", ORGANIZATION_ID),
        id_named(sent.said, "workspace_id", WORKSPACE_ID),
    )


async def _fault(request: Request, sent: Sent[Any]) -> Invalid | None:
    """The fault in a request; a URL with a forbidden target is a fault too."""
    url = getattr(sent.body, "url", None)
    if sent.fault is None and url:
        try:
            await services_of(request).check_target(url)
        except ForbiddenTarget as error:
            return Invalid.at("/url", str(error))
    return sent.fault


def _answer(receipt: Receipt, status: int) -> Response:
    return answer((receipt.answer or b"").decode(), receipt.position, status)
