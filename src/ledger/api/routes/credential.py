"""The credential of the request itself (contract, Access)."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Response

from ledger import __version__
from ledger.api.lean import LeanRoute, read_route
from ledger.api.reading import Asking, Present
from ledger.api.replies import AnswerOf, answer
from ledger.api.routes.keys import read_keys
from ledger.domain.api_key import Permission
from ledger.domain.values import ActorType
from ledger.language.rendering import ShownInstant, doc, json_text, time_text

router = APIRouter(prefix="/v1", tags=["keys"], route_class=LeanRoute)


class ShownCredential(msgspec.Struct):
    """The credential of a request."""

    id: str
    type: ActorType
    name: Annotated[str | None, doc("The name of an API key. Null for other credentials.")]
    organization_id: Annotated[str | None, doc("Null: of no organization, as administrators.")]
    workspace_id: Annotated[str | None, doc("Null: the credential sees all workspaces.")]
    permissions: list[Permission]
    expires_at: Annotated[
        ShownInstant | None, doc("From then on the credential is refused. Null: it does not end.")
    ]
    version: Annotated[str, doc("The version of the service.")]


@read_route(
    router,
    "/credential",
    AnswerOf[ShownCredential],
    summary="Show the credential",
    permission=None,
)
async def show_credential(asking: Asking, query: Present) -> Response:
    """Show who asks: the tenant and the permissions of the token, and when it ends.

    Any valid token may ask, whatever its permissions.
    """
    principal = asking.principal
    rows = await read_keys(asking, asking.tenant | {"key_id": principal.id}, 1)
    _, _, name, *_, key_ends_at, _, _ = rows[0]
    grant = principal.grant
    ends_at = key_ends_at if grant is None else datetime.fromtimestamp(grant.expires_at, UTC)
    shown = ShownCredential(
        principal.id,
        principal.type,
        name,
        principal.organization_id,
        principal.workspace_id,
        sorted(principal.permissions),  # type: ignore[arg-type]
        time_text(ends_at),
        __version__,
    )
    return answer(f'{{"data":{json_text(shown)}}}', rows.position)
