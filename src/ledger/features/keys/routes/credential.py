"""The credential of the request itself, and a line that it sees (contract, Access)."""

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from fastapi import Response
from pydantic import Field

from ledger import __version__
from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.problems import FEED_ERRORS
from ledger.engine.http.reading import Present, Query, ReadRequest
from ledger.engine.http.replies import AnswerOf, answer
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import ViewInstant, doc, json_text, time_text
from ledger.engine.values.values import LINE_ID, ActorType, State
from ledger.features.keys.model import Permission
from ledger.features.keys.routes.keys import read_keys
from ledger.features.lines.routes.executions import line_reply, line_rows

router = Router("/v1", "keys")


class CredentialQuery(Present):
    """The line that the credential means to report about."""

    service_line_id: Annotated[
        str | None,
        Field(
            description="A LIN id: the answer has the line's state as of now. The credential then"
            " needs `read` or `write`.",
            examples=["LIN-26-084729"],
            # Only in the document: 403 comes before 422.
            json_schema_extra={"pattern": LINE_ID},
        ),
    ] = None


class ServiceLine(msgspec.Struct):
    """A line that a credential sees."""

    service_line_id: Annotated[str, msgspec.Meta(pattern=LINE_ID)]
    state: State


class ShownCredential(msgspec.Struct):
    """The credential of a request."""

    id: str
    type: ActorType
    name: Annotated[str | None, doc("The name of an API key. Null for other credentials.")]
    organization_id: Annotated[str | None, doc("Null: of no organization, as administrators.")]
    workspace_id: Annotated[str | None, doc("Null: the credential sees all workspaces.")]
    permissions: list[Permission]
    expires_at: Annotated[
        ViewInstant | None, doc("From then on the credential is refused. Null: it does not end.")
    ]
    version: Annotated[str, doc("The version of the service.")]
    service_line: Annotated[
        ServiceLine | None, doc("Null: the request names no `service_line_id`.")
    ]


_line_in = msgspec.json.Decoder(AnswerOf[ServiceLine]).decode


@read_route(
    router,
    "/credential",
    AnswerOf[ShownCredential],
    FEED_ERRORS,
    summary="Show the credential",
    permission=None,
)
async def show_credential(request: ReadRequest, query: CredentialQuery) -> Response:
    """Show who asks: the tenant and the permissions of the token, and when it ends.

    Any valid token may ask, whatever its permissions. A program that will report about a line
    names the line, and learns whether the credential sees it and whether it is closed.
    """
    principal = request.principal
    line, line_position = await _line(request, query.service_line_id)
    rows = await read_keys(request, request.tenant | {"key_id": principal.id}, 1)
    _, _, name, *_, key_ends_at, _, _ = rows[0]
    grant = principal.grant
    ends_at = key_ends_at if grant is None else datetime.fromtimestamp(grant.expires_at, UTC)
    credential = ShownCredential(
        principal.id,
        principal.type,
        name,
        principal.organization_id,
        principal.workspace_id,
        sorted(principal.permissions),  # type: ignore[arg-type]
        time_text(ends_at),
        __version__,
        line,
    )
    position = rows.position if line_position is None else min(rows.position, line_position)
    return answer(f'{{"data":{json_text(credential)}}}', position)


async def _line(request: ReadRequest, line_id: str | None) -> tuple[ServiceLine | None, int | None]:
    """The line, and the position of its row. Raises Forbidden, Invalid, NotFound."""
    if line_id is None:
        return None, None
    if not request.principal.may("read"):
        request.principal.require("write")
    if not re.fullmatch(LINE_ID, line_id):
        raise Invalid.at("/service_line_id", "must be a LIN id")
    reply = (await line_rows(request, line_id, Query())).once(line_reply, False)
    return _line_in(reply.body).data, reply.position
