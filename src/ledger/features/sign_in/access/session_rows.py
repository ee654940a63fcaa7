"""The statements that read sessions, and a session as answers show it (contract, Sign-in)."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ledger.engine.values.principal import USER
from ledger.engine.values.rendering import ViewInstant, doc, time_text
from ledger.engine.values.values import SESSION_ID
from ledger.engine.views.statements import tenant_conditions, where
from ledger.features.keys.model import Permission
from ledger.features.sign_in.model import SignedInBy

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("s"),
    "before": "(s.begun_at, s.session_id) < (%(before)s, %(before_id)s)",
}

_COLUMNS = """
    s.session_id, s.by, s.sub, s.organization_id, s.workspace_id, s.permissions, s.begun_at,
    coalesce(u.used_at, s.begun_at) AS last_seen_at,
    least(s.ends_at, coalesce(u.used_at, s.begun_at) + %(idle)s) AS ends_at, s.browser, s.network"""

_TABLES = "ledger.session AS s LEFT JOIN ledger.key_use AS u ON u.key_id = s.session_id"

_LASTING = "s.ends_at > %(now)s AND coalesce(u.used_at, s.begun_at) + %(idle)s > %(now)s"

_SESSIONS = f"""
SELECT log.position, page.*
FROM (SELECT coalesce(ledger.log_end(), 0) AS position) AS log
LEFT JOIN LATERAL (
    SELECT {_COLUMNS}
    FROM {_TABLES}
    WHERE {_LASTING} AND {{where}}
    ORDER BY s.begun_at DESC, s.session_id DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.begun_at DESC, page.session_id DESC
"""

# The sessions of a person in all tenants, the latest first.
OWN = f"""
SELECT {_COLUMNS}
FROM {_TABLES}
WHERE s.sub = %(sub)s AND s.issuer IS NOT DISTINCT FROM %(issuer)s AND {_LASTING}
ORDER BY s.begun_at DESC LIMIT 100
"""

BEGUN_AT = 7
"""The column that orders the list, together with the position's."""


class ShownSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session of a person at the pages."""

    id: Annotated[str, Meta(pattern=SESSION_ID)]
    sub: Annotated[
        str, doc("The identity provider's name of the person; of an API key, the key's id.")
    ]
    organization_id: Annotated[str | None, doc("Null for an administrator's, or not chosen yet.")]
    workspace_id: Annotated[str | None, doc("Null: the session sees the whole organization.")]
    permissions: Annotated[Sequence[Permission], doc("Empty: no tenant is chosen yet.")]
    begun_at: ViewInstant
    last_seen_at: Annotated[ViewInstant, doc("Within a minute.")]
    ends_at: Annotated[ViewInstant, doc("Unless the session is used until then.")]
    browser: Annotated[str, doc("The browser's family.")]
    network: Annotated[str, doc("The first bits of the browser's address.")]
    by: SignedInBy


@cache
def sessions_statement(filters: frozenset[str]) -> str:
    """(position, session's columns) rows, the newest first; a row of nulls if there is none."""
    return _SESSIONS.format(where=where(filters - {"before_id"}, _FILTERS))


def session_view(row: Sequence[Any]) -> ShownSession:
    session_id, by, sub, organization_id, workspace_id, permissions, *rest = row
    begun_at, last_seen_at, ends_at, browser, network = rest
    return ShownSession(
        id=session_id,
        sub=sub.removeprefix(USER) if by == "token" else sub,
        organization_id=organization_id,
        workspace_id=workspace_id,
        permissions=permissions,
        begun_at=time_text(begun_at),
        last_seen_at=time_text(last_seen_at),
        ends_at=time_text(ends_at),
        browser=browser,
        network=network,
        by=by,
    )
