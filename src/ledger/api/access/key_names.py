"""The names of API keys, for entries of the audit log (contract, Feeds)."""

from collections.abc import Iterable, Mapping
from typing import Any

from ledger.postgres.door import Door
from ledger.postgres.scope import Tenant
from ledger.views.statements import where_tenant

_REMEMBERED = 10_000
"""So many names are remembered: the users of an identity provider are credentials too."""

_NAMES = "SELECT k.key_id, k.name FROM ledger.api_key AS k WHERE k.key_id = ANY(%(ids)s) AND "


class KeyNames:
    """The names that keys have when they are first asked for; a revoked key keeps its name.

    A reader is told the names of those keys that the list of keys shows in the reader's tenant:
    of an administrator's key a tenant learns the id alone, and so does a workspace of a key of the
    whole organization.
    """

    def __init__(self, door: Door, tenant: Tenant, filters: Mapping[str, Any]) -> None:
        """``filters`` limit the statement to the reader's ``tenant`` once more."""
        self._door, self._tenant, self._filters = door, tenant, filters
        self._statement = _NAMES + where_tenant(frozenset(filters), "k")
        self._known: dict[str, str | None] = {}

    async def of(self, credentials: Iterable[str]) -> dict[str, str | None]:
        """A name for each credential; None: no key that the reader sees, or a key without a name.

        Raises PostgreSQL's error.
        """
        asked = {one: self._known.get(one) for one in credentials}
        ids = [one for one in asked if one not in self._known]
        if ids:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            values = {"ids": ids, **self._filters}
            found = await self._door.fetch(self._tenant, self._statement, values)
            self._known |= dict.fromkeys(ids) | dict(found)
            asked |= {one: self._known[one] for one in ids}
        return asked
