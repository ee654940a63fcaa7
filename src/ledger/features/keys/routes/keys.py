"""API keys: routes that list, create, change, rotate and revoke them (contract, Access).

Lists read the table of keys. The answer of a command is in its receipt, so a replayed request
receives the same secret again. The last use of the key, which no receipt has, is added.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, get_args

import msgspec
from fastapi import Response
from pydantic import AfterValidator, Field

from ledger.engine.http import reading, writing
from ledger.engine.http.lean import ManagedRouter
from ledger.engine.http.lists import Order, instant
from ledger.engine.http.models import Changes, CommandBody, Label, distinct, set_of
from ledger.engine.http.replies import answer
from ledger.engine.reads.question import Answer
from ledger.engine.values import values
from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import json_text, time_text
from ledger.engine.writer.request import Receipt
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.features.keys.key_rows import CREATED_AT, USED_AT, key_text, keys_statement
from ledger.features.keys.model import (
    GRACE,
    LONGEST_GRACE,
    SINGLE_PERMISSIONS,
    KeyWithSecret,
    Permission,
    ShownKey,
)
from ledger.features.keys.tokens import create_token

_MANAGES = "keys:manage"

router = ManagedRouter(
    "/v1/keys", "keys", "key_id", _MANAGES, _MANAGES, words={"Permission": get_args(Permission)}
)

AnyKeyId = Annotated[str, reading.path_id("A KEY id.", "KEY-26-000419", values.KEY_ID)]


_ADMIN: Permission = "admin"

Name = Annotated[Label | None, Field(examples=["billing"])]
Permissions = Annotated[
    list[Permission],
    Field(
        min_length=1,
        description="Permissions that the credential has itself. `admin` stands alone.",
        examples=[["read", "write"]],
    ),
    set_of(SINGLE_PERMISSIONS, _ADMIN),
    AfterValidator(
        lambda permissions: distinct(permissions, _ADMIN, "a permission", "permissions")
    ),
]
_Later = Annotated[reading.Bound, Field(examples=["2091-01-01T00:00:00Z"])]
"""An instant in the future. The example is late enough not to expire."""

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
            pattern=values.ORGANIZATION_ID,
            description="By default the credential's organization. An administrator names it, but"
            " not for a key with the permission `admin`, which belongs to no organization.",
        ),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=values.WORKSPACE_ID,
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
        return timedelta(seconds=self.grace_seconds)


@router.creates(CreateApiKey, KeyWithSecret, "Create an API key")
async def create_api_key(request: reading.ReadRequest, sent: writing.Sent[NewKey]) -> Response:
    """Create a key within the credential's own permissions, tenant and expiry.

    The key's secret is shown in this answer only.
    """
    body = sent.body
    receipt = await writing.execute_new(
        request,
        CreateApiKey,
        sent._replace(fault=sent.fault or _fault(request.principal, sent)),
        token=create_token(),
        name=body.name if body is not None else None,
        permissions=_named_permissions(sent.parsed),
        expires_at=_instant(body.expires_at) if body is not None else None,
    )
    return writing.with_secret(request.http, await _answer(request, receipt, 201))


_ORDER = Order(instant("at", CREATED_AT, "before"))


@router.lists(ShownKey, "List API keys")
async def list_api_keys(request: reading.ReadRequest, query: reading.TenantQuery) -> Response:
    """List the keys of the credential's tenant, newest first, revoked and expired ones too."""
    chosen = query.chosen()
    filters = request.tenant | chosen | _ORDER.after(query.cursor, chosen)
    rows = await read_keys(request, filters, query.limit + 1)
    return _ORDER.page(rows, query.limit, chosen, key_text)


@router.shows(ShownKey, "Show an API key")
async def show_api_key(
    request: reading.ReadRequest, key_id: AnyKeyId, query: reading.Present
) -> Response:
    """Show a key. No answer shows its secret again."""
    reading.require_id("api_key", key_id)
    rows = await read_keys(request, request.tenant | {"key_id": key_id}, 1)
    return reading.subject_reply("api_key", rows, rows[0][1] and key_text(rows[0]))


async def read_keys(request: reading.ReadRequest, filters: Mapping[str, Any], limit: int) -> Answer:
    """The keys that match the filters, at a position at least as high as requested.

    Raises Behind if the log does not reach that position in time.
    """
    return await request.current_rows(
        keys_statement(frozenset(filters)), {**filters, "limit": limit}
    )


@router.changes(UpdateApiKey, ShownKey, "Change an API key")
async def update_api_key(
    request: reading.ReadRequest, key_id: AnyKeyId, sent: writing.Sent[KeyChanges]
) -> Response:
    """Change the name or the expiry, as far as the body names them."""
    await writing.require_named_tenant(request, UpdateApiKey, sent)
    chosen = sent.body.provided if sent.body is not None else {}
    if "expires_at" in chosen:
        chosen["expires_at"] = _instant(chosen["expires_at"])
    receipt = await writing.execute_on(request, UpdateApiKey, key_id, sent, **chosen)
    return await _answer(request, receipt, 200)


@router.acts("rotate", RotateApiKey, KeyWithSecret, "Replace an API key's secret")
async def rotate_api_key(
    request: reading.ReadRequest, key_id: AnyKeyId, sent: writing.Sent[Rotation]
) -> Response:
    """Give the key a new secret under the same id. The new secret is shown in this answer only.

    The replaced secret still works for 24 hours, or for `grace_seconds`.
    """
    grace = sent.body.grace if sent.body is not None else GRACE
    receipt = await writing.execute_on(
        request, RotateApiKey, key_id, sent, token=create_token(), grace=grace
    )
    return writing.with_secret(request.http, await _answer(request, receipt, 200))


@router.removes(RevokeApiKey, "Revoke an API key", 409)
async def revoke_api_key(
    request: reading.ReadRequest, key_id: AnyKeyId, sent: writing.Sent[Any]
) -> Response:
    """Revoke a key for good, with all its secrets. Lists still show the key."""
    receipt = await writing.execute_on(request, RevokeApiKey, key_id, sent)
    return writing.deleted(receipt)


def _named_permissions(body: Any) -> tuple[Any, ...]:
    """The known permissions that the body names, valid or not."""
    named = body.get("permissions") if isinstance(body, dict) else None
    if not isinstance(named, list):
        return ()
    return tuple(
        one for one in named if isinstance(one, str) and one in (*SINGLE_PERMISSIONS, _ADMIN)
    )


def _fault(principal: Principal, sent: writing.Sent[NewKey]) -> Invalid | None:
    """The fault in the tenant of a new key: only an administrator's key has no organization."""
    body = sent.body
    if body is None:
        return None
    if "admin" not in body.permissions:
        organization_id, _ = writing.named_tenant(principal, sent.parsed)
        return Invalid.at("/organization_id", "is required") if organization_id is None else None
    if body.organization_id is not None or body.workspace_id is not None:
        pointer = "/workspace_id" if body.organization_id is None else "/organization_id"
        return Invalid.at(pointer, "must be left out: a key with admin belongs to no organization")
    return None


def _instant(text: str | None) -> Any:
    return None if text is None else values.parse_bound(text)


async def _answer(request: reading.ReadRequest, receipt: Receipt, status: int) -> Response:
    document = msgspec.json.decode(receipt.answer or b"")
    values = {"key_id": receipt.subject}
    rows = await request.fetch(USED_AT, values)
    document["data"]["last_used_at"] = time_text(rows[0][0] if rows else None)
    return answer(json_text(document), receipt.position, status)
