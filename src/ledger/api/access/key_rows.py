"""The statements that read API keys (contract, Access).

The statements read the decision table, which an append writes together with its events. So a list
shows each key as the end of the log has it, also while views are stopped.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ledger.domain.api_key import ApiKey
from ledger.domain.recorded import Actor
from ledger.language.keys import describe_key
from ledger.language.rendering import json_text
from ledger.views.statements import tenant_conditions, where

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("k"),
    "organization_id": "k.organization_id = %(organization_id)s",
    "workspace_id": "k.workspace_id = %(workspace_id)s",
    "key_id": "k.key_id = %(key_id)s",
    "before": "k.created_at < %(before)s",
}
"""Conditions by filter; ``organization`` and ``workspace`` are those of the credential."""

_KEYS = """
SELECT log.position, page.*
FROM (SELECT coalesce(ledger.log_end(), 0) AS position) AS log
LEFT JOIN LATERAL (
    SELECT k.key_id, k.name, k.organization_id, k.workspace_id, k.permissions, k.prefix,
        k.created_at, k.created_by_type, k.created_by_id, k.expires_at, k.revoked_at, u.used_at
    FROM ledger.api_key AS k LEFT JOIN ledger.key_use AS u USING (key_id)
    WHERE {where} ORDER BY k.created_at DESC LIMIT %(limit)s
) AS page ON true
ORDER BY page.created_at DESC
"""

# The last use of a key.
USED_AT = "SELECT used_at FROM ledger.key_use WHERE key_id = %(key_id)s"

CREATED_AT = 7
"""The column by which the list is ordered: no two keys are recorded at the same instant."""


@cache
def keys_statement(filters: frozenset[str]) -> str:
    """(position, key's columns) rows, the newest key first; a row of nulls if there is no key."""
    return _KEYS.format(where=where(filters, _FILTERS))


def key_text(row: Sequence[Any]) -> str:
    """The JSON of a key's row."""
    _, key_id, name, organization_id, workspace_id, permissions, prefix, created_at, *rest = row
    by_type, by_id, expires_at, revoked_at, used_at = rest
    key = ApiKey(
        key_id,
        name=name,
        organization_id=organization_id,
        workspace_id=workspace_id,
        permissions=permissions,
        prefix=prefix,
        created_at=created_at,
        created_by=None if by_type is None else Actor(by_type, by_id),
        expires_at=expires_at,
        revoked_at=revoked_at,
    )
    return json_text(describe_key(key, used_at))
