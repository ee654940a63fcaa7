"""API keys: routes that list, create, change, rotate and revoke them (contract, Access).

The answer of a command comes with its receipt (``key_commands.py``); lists read the table of keys.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from ledger.api.access.key_rows import CREATED_AT, key_text, keys_statement
from ledger.api.lean import LeanRoute, NoParameters, command_route, read_route
from ledger.api.problems import FEED_ERRORS, InvalidCursor
from ledger.api.reading import (
    Asking,
    Present,
    TenantQuery,
    decode_cursor,
    encode_cursor,
    paged,
    path_id,
    read_at,
)
from ledger.api.replies import AnswerOf, PageOf, answer
from ledger.api.routes import key_commands as commands
from ledger.api.writing import read_command
from ledger.application.commands.keys import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.domain.errors import Behind, NotFound
from ledger.domain.values import KEY_ID, format_instant, parse_instant
from ledger.intake.principal import Principal
from ledger.language.rendering import KeyWithSecret, ShownKey
from ledger.reads.question import Answer

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=LeanRoute)

_PERMISSION = "keys:manage"

AnyKeyId = Annotated[str, path_id("A KEY id.", "KEY-26-000419", KEY_ID)]


@command_route(
    router,
    "",
    CreateApiKey,
    _PERMISSION,
    summary="Create an API key",
    body=commands.NewKey,
    answer=AnswerOf[KeyWithSecret],
    status=201,
)
async def create_api_key(request: Request, principal: Principal, _: NoParameters) -> Response:
    """Create a key within the credential's own permissions, tenant and expiry.

    The key's secret is shown in this answer only.
    """
    sent = await read_command(request, principal, commands.NewKey)
    return await commands.create(request, principal, sent)


@read_route(router, "", PageOf[ShownKey], summary="List API keys", permission=_PERMISSION)
async def list_api_keys(asking: Asking, query: TenantQuery) -> Response:
    """List the keys of the credential's tenant, newest first, revoked and expired ones too."""
    chosen = query.chosen()
    filters = asking.tenant | chosen
    if query.cursor is not None:
        filters["before"] = _instant_in(decode_cursor(query.cursor, chosen))
    rows = await _read(asking, filters, query.limit + 1)

    def cursor_after(row: Any) -> str:
        return encode_cursor({"at": format_instant(row[CREATED_AT])}, chosen)

    return paged(rows, query.limit, 1, cursor_after, key_text)


def _instant_in(key: dict[str, Any]) -> Any:
    try:
        return parse_instant(key["at"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidCursor("The cursor is not valid for this request.") from error


@read_route(
    router,
    "/{key_id}",
    AnswerOf[ShownKey],
    FEED_ERRORS,
    summary="Show an API key",
    permission=_PERMISSION,
)
async def show_api_key(asking: Asking, key_id: AnyKeyId, query: Present) -> Response:
    """Show a key. No answer shows its secret again."""
    unknown = NotFound("No such key.")
    if not re.fullmatch(KEY_ID, key_id):
        raise unknown
    filters = asking.tenant | {"key_id": key_id}
    rows = await _read(asking, filters, 1)
    if rows[0][1] is None:
        raise read_at(rows, unknown)
    return answer(f'{{"data":{key_text(rows[0])}}}', rows.position)


async def _read(asking: Asking, filters: Mapping[str, Any], limit: int) -> Answer:
    """The keys that the filters let through, at a position that is as high as asked at least.

    Raises Behind if the log does not reach that position in time.
    """
    parameters, least = {**filters, "limit": limit}, asking.min_position or 0
    statement = keys_statement(frozenset(filters))
    rows = Answer(await asking.fetch(statement, parameters))
    if rows.position < least:
        await asking.services.positions.wait(least)
        rows = Answer(await asking.fetch(statement, parameters))
        if rows.position < least:
            raise Behind("The log has not reached the asked position.")
    return rows


@command_route(
    router,
    "/{key_id}",
    UpdateApiKey,
    _PERMISSION,
    method="PATCH",
    summary="Change an API key",
    body=commands.KeyChanges,
    answer=AnswerOf[ShownKey],
)
async def update_api_key(
    request: Request, principal: Principal, key_id: AnyKeyId, _: NoParameters
) -> Response:
    """Change the name or the expiry, as far as the body names them."""
    sent = await read_command(request, principal, commands.KeyChanges)
    return await commands.update(request, principal, key_id, sent)


@command_route(
    router,
    "/{key_id}/rotate",
    RotateApiKey,
    _PERMISSION,
    summary="Replace an API key's secret",
    body=commands.Rotation,
    answer=AnswerOf[KeyWithSecret],
)
async def rotate_api_key(
    request: Request, principal: Principal, key_id: AnyKeyId, _: NoParameters
) -> Response:
    """Give the key a new secret under the same id. The new secret is shown in this answer only.

    The replaced secret still works for 24 hours, or for `grace_seconds`.
    """
    sent = await read_command(request, principal, commands.Rotation)
    return await commands.rotate(request, principal, key_id, sent)


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
    request: Request, principal: Principal, key_id: AnyKeyId, _: NoParameters
) -> Response:
    """Revoke a key for good, with all its secrets. Lists still show the key."""
    return await commands.revoke(request, principal, key_id)
