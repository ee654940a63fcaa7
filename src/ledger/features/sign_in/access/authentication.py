"""From a bearer token to a principal (contract, Access).

The database has API keys as hashes. A process remembers a key for ``_REMEMBER_SECONDS``, so a
revoked key may pass for this long. It never remembers an unknown key, so a new key works at once.
An expiring key and a replaced secret end at their instant. Any other token may be an identity
provider's (``json_web_tokens.py``), if one is configured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ledger.engine.http.machinery.failures import Failures
from ledger.engine.http.problems import Unauthorized
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.features.keys.key_uses import KeyUse, KeyUses
from ledger.features.keys.tokens import hash_token, is_well_formed

if TYPE_CHECKING:
    # Only loaded with a configured provider: the import takes a quarter of a start.
    from ledger.features.sign_in.access.json_web_tokens import TokenVerifier

NOT_VALID = "The bearer token is not valid."

_REMEMBER_SECONDS = 2.0
_REMEMBERED = 10_000

# The given secrets that pass, with their keys, and the end of each: its key's, or its own if a
# rotation has replaced it.
_PASSING = """
SELECT secret_hash, key_id, organization_id, workspace_id, permissions, ends_at
FROM ledger.passing_keys(%(hashes)s, %(now)s)
"""


class _CachedKey(NamedTuple):
    until: float
    """The key is looked up again after this instant of the monotonic clock."""
    ends_at: datetime | None
    principal: Principal


class Authenticator:
    """Looks keys up through the read pool and remembers them for a moment.

    ``uses`` records the uses of keys; None on a read node, which writes none (contract, Several
    nodes). ``verifier`` checks tokens of an identity provider; None without a provider.
    """

    def __init__(
        self,
        pool: ReadPool,
        clock: Callable[[], datetime],
        uses: KeyUses | None,
        verifier: TokenVerifier | None = None,
    ) -> None:
        self._pool, self._clock, self._uses, self._verifier = pool, clock, uses, verifier
        self._cached: dict[str, _CachedKey] = {}
        self._lookups: dict[bytes, asyncio.Task[Rows]] = {}
        """The look-ups under way. Later requests with the same key share one, and its error: a
        look-up of their own would begin only at its end."""
        self.failures = Failures()

    async def authenticate(self, token: str, peer: str | None) -> Principal:
        """The principal of a token that a client with the address ``peer`` sent.

        Raises Unauthorized, or Unavailable if no check is possible.
        """
        now = time.monotonic()
        cached = self._cached.get(token)
        if (
            cached is not None
            and cached.until > now
            and (cached.ends_at is None or cached.ends_at > self._clock())
        ):
            return cached.principal
        try:
            return await self._principal_of(token, now)
        except Unauthorized:
            self.failures.note(peer)
            raise

    async def _principal_of(self, token: str, now: float) -> Principal:
        self._cached.pop(token, None)
        if not is_well_formed(token):
            return await self._verified(token)
        hashed = hash_token(token)
        # A client that disconnects must not cancel the look-up for others.
        rows = await asyncio.shield(self._looked_up(hashed))
        if not rows:
            raise Unauthorized(NOT_VALID)
        secret, key_id, organization_id, workspace_id, permissions, ends_at = rows[0]
        principal = Principal(
            key_id,
            "api_key",
            frozenset(permissions),
            organization_id,
            workspace_id,
            secret=bytes(secret),
        )
        if len(self._cached) >= _REMEMBERED:
            self._cached.clear()
        self._cached[token] = _CachedKey(now + _REMEMBER_SECONDS, ends_at, principal)
        return principal

    def _looked_up(self, hashed: bytes) -> asyncio.Task[Rows]:
        task = self._lookups.get(hashed)
        if task is None:
            task = self._lookups[hashed] = asyncio.create_task(self._passing([hashed]))
            task.add_done_callback(lambda done: self._end_lookup(hashed, done))
        return task

    def _end_lookup(self, hashed: bytes, task: asyncio.Task[Rows]) -> None:
        del self._lookups[hashed]
        if not task.cancelled():
            task.exception()  # retrieved, even if all its clients have disconnected

    async def _passing(self, hashes: Collection[bytes]) -> Rows:
        """The rows of the secrets that pass now. A secret that was sent is a use of its key."""
        now = self._clock()
        rows = await self._pool.fetch(EVERYONE, _PASSING, {"hashes": [*hashes], "now": now})
        if self._uses is not None:
            for _, key_id, organization_id, workspace_id, *_ in rows:
                self._uses.note(KeyUse(key_id, organization_id, workspace_id, now))
        return rows

    async def _verified(self, token: str) -> Principal:
        verifier = self._verifier
        principal = await verifier.verify(token) if verifier is not None else None
        if principal is None:
            raise Unauthorized(NOT_VALID)
        return principal

    async def lapsed(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """The given principals that may no longer pass: for streams and exports, which last long.

        A revoked key is also forgotten, so its holder does not pass again for a moment. An open
        stream is a use of its key.
        """
        keys = [principal for principal in principals if principal.type == "api_key"]
        hashes = sorted({key.secret for key in keys if key.secret is not None})
        passing = {bytes(row[0]) for row in await self._passing(hashes)} if hashes else set()
        lapsed = frozenset(key for key in keys if key.secret not in passing)
        if lapsed:
            gone = {key.secret for key in lapsed}
            cached = self._cached.items()
            self._cached = {token: e for token, e in cached if e.principal.secret not in gone}
        return lapsed | self._ended(principals)

    def _ended(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """The principals whose token has expired, or whose signing key was withdrawn."""
        if self._verifier is None:
            return frozenset()
        has_lapsed = self._verifier.has_lapsed
        return frozenset(p for p in principals if p.grant and has_lapsed(p.grant))
