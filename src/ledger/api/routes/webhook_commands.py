"""Commands about webhook endpoints, carried out: for the API's routes and for the page's forms.

What a command answers comes with its receipt, so a request that is replayed is shown the same
secret again.
"""

import re
from typing import Any

from fastapi import Request, Response

from ledger.api import webhook_models as models
from ledger.api.reading import services_of
from ledger.api.replies import answer
from ledger.api.writing import Sent, execute, refused_command, turn_down
from ledger.application.commands.webhooks import (
    OTHER_TENANT,
    CreateEndpoint,
    DeleteEndpoint,
    RecoverEndpoint,
    RotateSecret,
    Settings,
    TestEndpoint,
    UpdateEndpoint,
)
from ledger.domain.errors import Forbidden, Invalid, NotFound
from ledger.domain.values import (
    ENDPOINT_ID,
    ORGANIZATION_ID,
    WORKSPACE_ID,
    id_named,
    parse_bound,
)
from ledger.feed.signing import create_secret
from ledger.feed.target import ForbiddenTarget
from ledger.intake.principal import Principal
from ledger.intake.request import Receipt

UNKNOWN = "No such webhook endpoint."


async def create(request: Request, principal: Principal, sent: Sent[models.NewWebhook]) -> Response:
    """Set an endpoint up. Its secret is in this answer only."""
    fault, body = await _fault(request, sent), sent.body
    chosen = Settings()
    if body is not None:
        chosen = Settings(body.url, tuple(body.event_types), body.description, body.enabled)
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
    return _with_secret(request, _answer(await execute(request, command), 201))


async def update(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[models.WebhookChanges]
) -> Response:
    """Change what is named. Whose it is cannot be, and another tenant's is 403 (contract 7)."""
    organization_id, workspace_id = _named_tenant(sent)
    if not principal.sees(
        organization_id or principal.organization_id, workspace_id or principal.workspace_id
    ):
        about = refused_command(UpdateEndpoint.action, "webhook", "endpoint_id")
        await turn_down(request, principal, Forbidden(OTHER_TENANT), about)
    chosen = sent.body.given if sent.body is not None else {}
    if "event_types" in chosen:
        chosen["event_types"] = tuple(chosen["event_types"])
    fault = await _fault(request, sent)
    settings = Settings(**chosen)
    return await _manage(
        request, principal, endpoint_id, UpdateEndpoint, sent, 200, fault, settings=settings
    )


async def delete(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[Any] | None = None
) -> Response:
    """Remove it."""
    given: Sent[Any] = sent or Sent(None, None, None)
    done = await _manage(request, principal, endpoint_id, DeleteEndpoint, given, 204)
    return Response(status_code=204, headers={"Ledger-Position": done.headers["Ledger-Position"]})


async def rotate_secret(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[models.Nothing]
) -> Response:
    """Replace its secret. The new one is in this answer only."""
    secret = create_secret()
    done = await _manage(request, principal, endpoint_id, RotateSecret, sent, 200, secret=secret)
    return _with_secret(request, done)


async def recover(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[models.Recovery]
) -> Response:
    """Send again what was not delivered since an instant."""
    since = parse_bound(sent.body.since) if sent.body is not None else None
    return await _manage(request, principal, endpoint_id, RecoverEndpoint, sent, 202, since=since)


async def send_test(
    request: Request, principal: Principal, endpoint_id: str, sent: Sent[models.Nothing]
) -> Response:
    """Send a test."""
    return await _manage(request, principal, endpoint_id, TestEndpoint, sent, 202)


async def _manage(
    request: Request,
    principal: Principal,
    endpoint_id: str,
    command: Any,
    sent: Sent[Any],
    status: int,
    fault: Invalid | None = None,
    **more: Any,
) -> Response:
    """Carry out a command about an endpoint."""
    if not re.fullmatch(ENDPOINT_ID, endpoint_id):
        await turn_down(request, principal, NotFound(UNKNOWN), refused_command(command.action))
    made = command(
        endpoint_id,
        principal,
        request.state.request_id,
        fault=fault or sent.fault,
        idempotency=sent.key,
        **more,
    )
    return _answer(await execute(request, made), status)


def _named_tenant(sent: Sent[Any]) -> tuple[str | None, str | None]:
    """Organization and workspace: another tenant is 403 before anything is 422."""
    return (
        id_named(sent.said, "organization_id", ORGANIZATION_ID),
        id_named(sent.said, "workspace_id", WORKSPACE_ID),
    )


async def _fault(request: Request, sent: Sent[Any]) -> Invalid | None:
    """What is wrong with a request, where its URL leads to included."""
    url = getattr(sent.body, "url", None)
    if sent.fault is None and url:
        try:
            await services_of(request).check_target(url)
        except ForbiddenTarget as error:
            return Invalid.at("/url", str(error))
    return sent.fault


def _with_secret(request: Request, response: Response) -> Response:
    """An answer that shows a secret, a replayed one too: no cache may keep it."""
    request.state.holds_secret = True
    return response


def _answer(receipt: Receipt, status: int) -> Response:
    """What a command is answered."""
    return answer((receipt.answer or b"").decode(), receipt.position, status)
