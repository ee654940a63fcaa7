"""Commands about API keys, for the API's routes and for the forms of the pages.

The answer of a command comes with its receipt, so a replayed request is shown the same secret
again. The last use of the key, which no receipt has, is added to it.
"""

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from fastapi import Request, Response
from pydantic import AfterValidator, Field, WithJsonSchema

from ledger.api.access.key_rows import USED_AT
from ledger.api.models import Changes, CommandBody
from ledger.api.reading import Bound, services_of
from ledger.api.replies import answer
from ledger.api.writing import Sent, execute, execute_on, refusals_of, turn_down, with_secret
from ledger.application.commands.keys import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.application.commands.webhooks import OTHER_TENANT
from ledger.domain.api_key import GRACE, LONGEST_GRACE, SINGLE_PERMISSIONS, Permission
from ledger.domain.errors import Forbidden, Invalid
from ledger.domain.values import ORGANIZATION_ID, WORKSPACE_ID, id_named, parse_bound
from ledger.intake.fact_types import Label
from ledger.intake.principal import Principal
from ledger.intake.request import Receipt
from ledger.intake.tokens import create_token
from ledger.language.rendering import json_text, time_text

_ADMIN: Permission = "admin"
_ALL = (*SINGLE_PERMISSIONS, _ADMIN)


def _once_each(permissions: list[Permission]) -> list[Permission]:
    if len(set(permissions)) < len(permissions):
        raise ValueError("names a permission twice")
    if _ADMIN in permissions and len(permissions) > 1:
        raise ValueError('has "admin" beside other permissions: "admin" must be the only one')
    return permissions


Name = Annotated[Label | None, Field(examples=["billing"])]
Permissions = Annotated[
    list[Permission],
    Field(
        min_length=1,
        description="Permissions that the credential has itself. `admin` stands alone.",
        examples=[["read", "write"]],
    ),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"enum": list(_ALL)},
            "minItems": 1,
            "maxItems": len(SINGLE_PERMISSIONS),
            "uniqueItems": True,
            # Client generators ignore `if`; they cannot tell alternatives of arrays apart.
            "if": {"contains": {"const": _ADMIN}},
            "then": {"maxItems": 1},
        }
    ),
    AfterValidator(_once_each),
]
_Later = Annotated[Bound, Field(examples=["2091-01-01T00:00:00Z"])]
"""An instant in the future. Its example lies so late that it does not expire."""

ExpiresAt = Annotated[
    _Later | None,
    Field(
        description="From this instant on the key is refused. Null: it works until it is revoked."
    ),
]


class NewKey(CommandBody):
    """A new key."""

    name: Name = None
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization. An administrator names it, but"
            " not for a key with the permission `admin`, which belongs to no organization.",
        ),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=WORKSPACE_ID,
            description="The key sees this workspace only. By default the credential's workspace.",
        ),
    ] = None
    permissions: Permissions
    expires_at: ExpiresAt = None


class KeyChanges(Changes):
    """The changes of a key; a field that is left out stays as it is."""

    name: Name = None
    expires_at: ExpiresAt = None


class Rotation(CommandBody):
    """The rotation of a key."""

    grace_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=int(LONGEST_GRACE.total_seconds()),
            description="How long the replaced secret still works.",
        ),
    ] = int(GRACE.total_seconds())

    @property
    def grace(self) -> timedelta:
        """How long the replaced secret still works."""
        return timedelta(seconds=self.grace_seconds)


async def create(request: Request, principal: Principal, sent: Sent[NewKey]) -> Response:
    """Create a key. Its secret is shown in this answer only."""
    organization_id, workspace_id = _named_tenant(principal, sent.said)
    body = sent.body
    command = CreateApiKey(
        principal,
        create_token(),
        name=body.name if body is not None else None,
        organization_id=organization_id,
        workspace_id=workspace_id,
        permissions=_named_permissions(sent.said),
        expires_at=_instant(body.expires_at) if body is not None else None,
        request_id=request.state.request_id,
        fault=sent.fault or _fault(organization_id, body),
        idempotency=sent.key,
    )
    return with_secret(
        request, await _answer(request, principal, await execute(request, command), 201)
    )


async def update(
    request: Request, principal: Principal, key_id: str, sent: Sent[KeyChanges]
) -> Response:
    """Change the fields that the body names.

    The tenant of a key cannot be changed: another tenant in the body is 403 (contract, Access).
    """
    if not principal.is_admin and not principal.sees(*_named_tenant(principal, sent.said)):
        refusal = Forbidden(OTHER_TENANT)
        await turn_down(request, principal, refusal, refusals_of(UpdateApiKey))
    chosen = sent.body.given if sent.body is not None else {}
    if "expires_at" in chosen:
        chosen["expires_at"] = _instant(chosen["expires_at"])
    receipt = await execute_on(request, principal, UpdateApiKey, key_id, sent, **chosen)
    return await _answer(request, principal, receipt, 200)


async def rotate(
    request: Request, principal: Principal, key_id: str, sent: Sent[Rotation]
) -> Response:
    """Replace a key's secret. The new secret is shown in this answer only."""
    grace = sent.body.grace if sent.body is not None else GRACE
    receipt = await execute_on(
        request, principal, RotateApiKey, key_id, sent, token=create_token(), grace=grace
    )
    return with_secret(request, await _answer(request, principal, receipt, 200))


async def revoke(
    request: Request, principal: Principal, key_id: str, sent: Sent[Any] | None = None
) -> Response:
    """Revoke a key."""
    given: Sent[Any] = sent or Sent(None, None, None)
    receipt = await execute_on(request, principal, RevokeApiKey, key_id, given)
    return Response(status_code=204, headers={"Ledger-Position": str(receipt.position)})


def _named_tenant(principal: Principal, said: Any) -> tuple[str | None, str | None]:
    """The tenant of a new key: the named one, or the credential's; administrators name it.

    Another tenant is 403 before any field is 422, so the tenant is read from the parsed body. A
    workspace that is null is the whole organization.
    """
    organization_id = id_named(said, "organization_id", ORGANIZATION_ID)
    workspace_id = id_named(said, "workspace_id", WORKSPACE_ID)
    if principal.is_admin:
        return organization_id, workspace_id
    is_null = isinstance(said, dict) and said.get("workspace_id", "") is None
    return (
        organization_id or principal.organization_id,
        None if is_null else workspace_id or principal.workspace_id,
    )


def _named_permissions(said: Any) -> tuple[Any, ...]:
    """The known permissions among those that the body names, valid or not."""
    named = said.get("permissions") if isinstance(said, dict) else None
    if not isinstance(named, list):
        return ()
    return tuple(one for one in named if isinstance(one, str) and one in _ALL)


def _fault(organization_id: str | None, body: NewKey | None) -> Invalid | None:
    """The fault in the tenant of a new key: only an administrator's key has no organization."""
    if body is None:
        return None
    if "admin" not in body.permissions:
        return Invalid.at("/organization_id", "is required") if organization_id is None else None
    if body.organization_id is not None or body.workspace_id is not None:
        place = "/workspace_id" if body.organization_id is None else "/organization_id"
        return Invalid.at(place, "must be left out: a key with admin belongs to no organization")
    return None


def _instant(text: str | None) -> Any:
    return None if text is None else parse_bound(text)


async def _answer(
    request: Request, principal: Principal, receipt: Receipt, status: int
) -> Response:
    """The answer of a command, with the key's last use."""
    document = msgspec.json.decode(receipt.answer or b"")
    asked = {"key_id": receipt.subject}
    rows = await services_of(request).door.fetch(principal.tenant, USED_AT, asked)
    document["data"]["last_used_at"] = time_text(rows[0][0] if rows else None)
    return answer(json_text(document), receipt.position, status)
