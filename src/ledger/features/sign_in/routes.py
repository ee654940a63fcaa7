"""Sessions of people at the pages: routes that list and end them (contract, Sign-in)."""

from typing import Annotated, Any

from fastapi import Response

from ledger.engine.http import reading
from ledger.engine.http.lean import ManagedRouter
from ledger.engine.http.lists import Order, instant, text
from ledger.engine.http.writing import Sent, deleted, execute_on
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import SESSION_ID
from ledger.features.sign_in.access.session_rows import (
    BEGUN_AT,
    ShownSession,
    session_view,
    sessions_statement,
)
from ledger.features.sign_in.access.sessions import Sessions
from ledger.features.sign_in.commands import EndSession

_MANAGES = "keys:manage"

router = ManagedRouter("/v1/sessions", "sessions", "session_id", _MANAGES, _MANAGES)

_ORDER = Order(instant("at", BEGUN_AT, "before"), text("id", 1, "before_id"))

AnySessionId = Annotated[str, reading.path_id("A SES id.", "SES-3f9c2a7d1b604e58", SESSION_ID)]


@router.lists(ShownSession, "List sessions")
async def list_sessions(request: reading.ReadRequest, query: reading.TenantQuery) -> Response:
    """List the sessions that last, of the credential's tenant, those that began last first.

    A person with grants in several tenants is shown in the one that they have chosen.
    """
    chosen = query.chosen()
    filters = request.tenant | chosen | _ORDER.after(query.cursor, chosen)
    services = request.services
    parameters = filters | {
        "now": services.clock(),
        "idle": services.of(Sessions).rules.idle,
        "limit": query.limit + 1,
    }
    rows = await request.current_rows(sessions_statement(frozenset(filters)), parameters)
    return _ORDER.page(rows, query.limit, chosen, lambda row: json_text(session_view(row[1:])))


@router.removes(EndSession, "End a session")
async def end_session(
    request: reading.ReadRequest, session_id: AnySessionId, sent: Sent[Any]
) -> Response:
    """End a session, whose permissions must be within the credential's own."""
    return deleted(await execute_on(request, EndSession, session_id, sent))
