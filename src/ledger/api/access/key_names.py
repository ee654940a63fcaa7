"""The names of API keys, for entries of the audit log (contract, Feeds)."""

from collections.abc import Iterable

from ledger.postgres.door import Door
from ledger.postgres.scope import EVERYONE

_REMEMBERED = 10_000
"""So many names are remembered: the users of an identity provider are credentials too."""

_NAMES = "SELECT key_id, name FROM ledger.api_key WHERE key_id = ANY(%(ids)s)"


class KeyNames:
    """The names that keys have when they are first asked for; a revoked key keeps its name.

    An entry in a tenant's audit log names its key to the tenant, even an administrator's key.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._known: dict[str, str | None] = {}

    async def of(self, credentials: Iterable[str]) -> dict[str, str | None]:
        """A name for each credential; None: the credential is no key, or has no name.

        Raises PostgreSQL's error.
        """
        asked = {one: self._known.get(one) for one in credentials}
        ids = [one for one in asked if one not in self._known]
        if ids:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = await self._door.fetch(EVERYONE, _NAMES, {"ids": ids})
            self._known |= dict.fromkeys(ids) | dict(found)
            asked |= {one: self._known[one] for one in ids}
        return asked
