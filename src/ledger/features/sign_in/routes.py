"""Sessions of people at the pages: routes that list and end them (contract, Sign-in)."""

from typing import Annotated, Any

from fastapi import Response

from ledger.engine.http import reading
from ledger.engine.http.lean import Router, command_route, read_route
from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.replies import PageOf
from ledger.engine.http.writing import Sent, deleted, execute_on
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import SESSION_ID, format_instant, parse_instant
from ledger.features.sign_in.access.session_rows import (
    BEGUN_AT,
    ShownSession,
    sessions_statement,
    shown_session,
)
from ledger.features.sign_in.access.sessions import Sessions
from ledger.features.sign_in.commands import EndSession

router = Router("/v1/sessions", "sessions")

_PERMISSION = "keys:manage"

AnySessionId = Annotated[str, reading.path_id("A SES id.", "SES-3f9c2a7d1b604e58", SESSION_ID)]


@read_route(router, "", PageOf[ShownSession], summary="List sessions", permission=_PERMISSION)
async def list_sessions(asking: reading.Asking, query: reading.TenantQuery) -> Response:
    """List the sessions that last, of the credential's tenant, those that began last first.

    A person with grants in several tenants is shown in the one that they have chosen.
    """
    chosen = query.chosen()
    filters = asking.tenant | chosen
    if query.cursor is not None:
        key = reading.decode_cursor(query.cursor, chosen)
        try:
            filters |= {"before": parse_instant(key["at"]), "before_id": str(key["id"])}
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCursor from error
    services = asking.services
    parameters = filters | {
        "now": services.clock(),
        "idle": services.of(Sessions).rules.idle,
        "limit": query.limit + 1,
    }
    rows = await asking.beside(sessions_statement(frozenset(filters)), parameters)

    def cursor_after(row: Any) -> str:
        return reading.encode_cursor({"at": format_instant(row[BEGUN_AT]), "id": row[1]}, chosen)

    return reading.paged(
        rows, query.limit, 1, cursor_after, lambda row: json_text(shown_session(row[1:]))
    )


@command_route(
    router,
    "/{session_id}",
    EndSession,
    _PERMISSION,
    method="DELETE",
    summary="End a session",
    status=204,
)
async def end_session(
    asking: reading.Asking, session_id: AnySessionId, sent: Sent[Any]
) -> Response:
    """End a session, whose permissions must be within the credential's own."""
    return deleted(await execute_on(asking, EndSession, session_id, sent))
