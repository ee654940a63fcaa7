"""The statements that read API keys, and the names of keys for the audit log (contract, Access).

They read the decision table, which an append writes together with its events. So a list shows each
key as of the end of the log, even while views are stopped.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.values.principal import Tenant
from ledger.engine.values.recorded import Actor
from ledger.engine.values.rendering import json_text, render_as, time_text
from ledger.engine.views.statements import tenant_conditions, where, where_tenant
from ledger.features.keys.model import ApiKey, ShownKey

_FILTERS: Mapping[str, str] = {
    **tenant_conditions("k"),
    "key_id": "k.key_id = %(key_id)s",
    "before": "k.created_at < %(before)s",
}

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

USED_AT = "SELECT used_at FROM ledger.key_use WHERE key_id = %(key_id)s"

CREATED_AT = 7
"""The column that orders the list: no two keys are recorded at the same instant."""

_REMEMBERED = 10_000
"""The most remembered names: the users of an identity provider are credentials too."""

_NAMES = "SELECT k.key_id, k.name FROM ledger.api_key AS k WHERE k.key_id = ANY(%(ids)s) AND "


@cache
def keys_statement(filters: frozenset[str]) -> str:
    """(position, key's columns) rows, the newest key first; a row of nulls if there is no key."""
    return _KEYS.format(where=where(filters, _FILTERS))


def key_text(row: Sequence[Any]) -> str:
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
        created_by=Actor(by_type, by_id),
        expires_at=expires_at,
        revoked_at=revoked_at,
    )
    return json_text(render_as(ShownKey, key, last_used_at=time_text(used_at)))


class KeyNames:
    """The names of keys when first requested; a revoked key keeps its name.

    A reader sees the names of the keys in the list of keys of the reader's tenant. So a tenant sees
    only the id of an administrator's key, and a workspace only that of an organization's key.
    """

    def __init__(self, pool: ReadPool, tenant: Tenant, filters: Mapping[str, Any]) -> None:
        """``filters`` limit the statement to the reader's ``tenant`` a second time."""
        self._pool, self._tenant, self._filters = pool, tenant, filters
        self._statement = _NAMES + where_tenant(frozenset(filters), "k")
        self._cached: dict[str, str | None] = {}

    async def of(self, credentials: Iterable[str]) -> dict[str, str | None]:
        """A name per credential; None for a key without a name, and for what is not a visible key.

        Raises PostgreSQL's error.
        """
        names = {one: self._cached.get(one) for one in credentials}
        ids = [one for one in names if one not in self._cached]
        if ids:
            if len(self._cached) >= _REMEMBERED:
                self._cached.clear()
            values = {"ids": ids, **self._filters}
            found = await self._pool.fetch(self._tenant, self._statement, values)
            self._cached |= dict.fromkeys(ids) | dict(found)
            names |= {one: self._cached[one] for one in ids}
        return names
