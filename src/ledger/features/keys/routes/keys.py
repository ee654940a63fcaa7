"""API keys: routes that list, create, change, rotate and revoke them (contract, Access).

Lists read the table of keys. The answer of a command comes with its receipt, so a replayed request
is shown the same secret again. The last use of the key, which no receipt has, is added to it.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, get_args

import msgspec
from fastapi import Response
from pydantic import AfterValidator, Field

from ledger.engine.http import reading, writing
from ledger.engine.http.lean import Router, command_route, read_route
from ledger.engine.http.models import Changes, CommandBody, Label, distinct, set_of
from ledger.engine.http.problems import FEED_ERRORS, InvalidCursor
from ledger.engine.http.replies import AnswerOf, PageOf, answer
from ledger.engine.reads.question import Answer
from ledger.engine.values import values
from ledger.engine.values.errors import Forbidden, Invalid, NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import json_text, time_text
from ledger.engine.writer.command import OTHER_TENANT
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

router = Router("/v1/keys", "keys", words={"Permission": get_args(Permission)})

_PERMISSION = "keys:manage"

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
        """How long the replaced secret still works."""
        return timedelta(seconds=self.grace_seconds)


@command_route(
    router,
    "",
    CreateApiKey,
    _PERMISSION,
    summary="Create an API key",
    answer=AnswerOf[KeyWithSecret],
    status=201,
)
async def create_api_key(asking: reading.Asking, sent: writing.Sent[NewKey]) -> Response:
    """Create a key within the credential's own permissions, tenant and expiry.

    The key's secret is shown in this answer only.
    """
    organization_id, workspace_id = named_tenant(asking.principal, sent.said)
    body = sent.body
    command = CreateApiKey(
        asking.principal,
        create_token(),
        name=body.name if body is not None else None,
        organization_id=organization_id,
        workspace_id=workspace_id,
        permissions=_named_permissions(sent.said),
        expires_at=_instant(body.expires_at) if body is not None else None,
        request_id=asking.request.state.request_id,
        fault=sent.fault or _fault(organization_id, body),
        idempotency=sent.key,
    )
    return writing.with_secret(
        asking.request, await _answer(asking, await writing.execute(asking.request, command), 201)
    )


@read_route(router, "", PageOf[ShownKey], summary="List API keys", permission=_PERMISSION)
async def list_api_keys(asking: reading.Asking, query: reading.TenantQuery) -> Response:
    """List the keys of the credential's tenant, newest first, revoked and expired ones too."""
    chosen = query.chosen()
    filters = asking.tenant | chosen
    if query.cursor is not None:
        filters["before"] = _instant_in(reading.decode_cursor(query.cursor, chosen))
    rows = await read_keys(asking, filters, query.limit + 1)

    def cursor_after(row: Any) -> str:
        return reading.encode_cursor({"at": values.format_instant(row[CREATED_AT])}, chosen)

    return reading.paged(rows, query.limit, 1, cursor_after, key_text)


def _instant_in(key: dict[str, Any]) -> Any:
    try:
        return values.parse_instant(key["at"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCursor from error


@read_route(
    router,
    "/{key_id}",
    AnswerOf[ShownKey],
    FEED_ERRORS,
    summary="Show an API key",
    permission=_PERMISSION,
)
async def show_api_key(
    asking: reading.Asking, key_id: AnyKeyId, query: reading.Present
) -> Response:
    """Show a key. No answer shows its secret again."""
    unknown = NotFound("No such key.")
    if not re.fullmatch(values.KEY_ID, key_id):
        raise unknown
    filters = asking.tenant | {"key_id": key_id}
    rows = await read_keys(asking, filters, 1)
    if rows[0][1] is None:
        raise reading.read_at(rows, unknown)
    return answer(f'{{"data":{key_text(rows[0])}}}', rows.position)


async def read_keys(asking: reading.Asking, filters: Mapping[str, Any], limit: int) -> Answer:
    """The keys that the filters let through, at a position that is as high as asked at least.

    Raises Behind if the log does not reach that position in time.
    """
    return await asking.beside(keys_statement(frozenset(filters)), {**filters, "limit": limit})


@command_route(
    router,
    "/{key_id}",
    UpdateApiKey,
    _PERMISSION,
    method="PATCH",
    summary="Change an API key",
    answer=AnswerOf[ShownKey],
)
async def update_api_key(
    asking: reading.Asking, key_id: AnyKeyId, sent: writing.Sent[KeyChanges]
) -> Response:
    """Change the name or the expiry, as far as the body names them."""
    if not asking.principal.is_admin and not asking.principal.sees(
        *named_tenant(asking.principal, sent.said)
    ):
        refusal = Forbidden(OTHER_TENANT)
        await writing.turn_down(
            asking.request, asking.principal, refusal, writing.refusals_of(UpdateApiKey)
        )
    chosen = sent.body.given if sent.body is not None else {}
    if "expires_at" in chosen:
        chosen["expires_at"] = _instant(chosen["expires_at"])
    receipt = await writing.execute_on(asking, UpdateApiKey, key_id, sent, **chosen)
    return await _answer(asking, receipt, 200)


@command_route(
    router,
    "/{key_id}/rotate",
    RotateApiKey,
    _PERMISSION,
    summary="Replace an API key's secret",
    answer=AnswerOf[KeyWithSecret],
)
async def rotate_api_key(
    asking: reading.Asking, key_id: AnyKeyId, sent: writing.Sent[Rotation]
) -> Response:
    """Give the key a new secret under the same id. The new secret is shown in this answer only.

    The replaced secret still works for 24 hours, or for `grace_seconds`.
    """
    grace = sent.body.grace if sent.body is not None else GRACE
    receipt = await writing.execute_on(
        asking, RotateApiKey, key_id, sent, token=create_token(), grace=grace
    )
    return writing.with_secret(asking.request, await _answer(asking, receipt, 200))


@command_route(
    router,
    "/{key_id}",
    RevokeApiKey,
    _PERMISSION,
    method="DELETE",
    summary="Revoke an API key",
    status=204,
    further=(409,),
)
async def revoke_api_key(
    asking: reading.Asking, key_id: AnyKeyId, sent: writing.Sent[Any]
) -> Response:
    """Revoke a key for good, with all its secrets. Lists still show the key."""
    receipt = await writing.execute_on(asking, RevokeApiKey, key_id, sent)
    return writing.deleted(receipt)


def named_tenant(principal: Principal, said: Any) -> tuple[str | None, str | None]:
    """The tenant of something new: the named one, or the credential's; administrators name it.

    Another tenant is 403 before any field is 422, so the tenant is read from the parsed body. A
    workspace that is null is the whole organization.
    """
    organization_id = values.id_named(said, "organization_id", values.ORGANIZATION_ID)
    workspace_id = values.id_named(said, "workspace_id", values.WORKSPACE_ID)
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
    return tuple(
        one for one in named if isinstance(one, str) and one in (*SINGLE_PERMISSIONS, _ADMIN)
    )


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
    return None if text is None else values.parse_bound(text)


async def _answer(asking: reading.Asking, receipt: Receipt, status: int) -> Response:
    """The answer of a command, with the key's last use."""
    document = msgspec.json.decode(receipt.answer or b"")
    asked = {"key_id": receipt.subject}
    rows = await asking.fetch(USED_AT, asked)
    document["data"]["last_used_at"] = time_text(rows[0][0] if rows else None)
    return answer(json_text(document), receipt.position, status)
