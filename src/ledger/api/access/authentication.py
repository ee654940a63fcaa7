"""From a bearer token to a principal (contract, Access).

API keys are stored in the database as hashes. A process remembers a key for ``_REMEMBER_SECONDS``,
so a revoked key may still pass for this long. An unknown key is never remembered, so a new key
works at once. A token that is no API key may be a token of an identity provider
(``json_web_tokens.py``), if a provider is configured.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from ledger.api.access.failures import Failures
from ledger.api.machinery.headers import count, header
from ledger.api.problems import Unauthorized
from ledger.intake.principal import Principal
from ledger.intake.tokens import hash_token, is_well_formed
from ledger.postgres.door import Door
from ledger.postgres.scope import EVERYONE

if TYPE_CHECKING:
    # Only loaded if a provider is configured: the import takes as long as a quarter of a start.
    from ledger.api.access.json_web_tokens import TokenVerifier

_REMEMBER_SECONDS = 2.0
_REMEMBERED = 10_000

_BY_HASH = """
SELECT key_id, organization_id, workspace_id, permissions
FROM ledger.api_key WHERE secret_hash = %(hash)s AND revoked_at IS NULL
"""

# The given keys that are not revoked.
_PASSING = "SELECT key_id FROM ledger.api_key WHERE key_id = ANY(%(ids)s) AND revoked_at IS NULL"


class Authenticator:
    """Looks keys up through the door and remembers them for a moment.

    ``verifier`` checks tokens that an identity provider signed; None: there is no provider.
    """

    def __init__(self, door: Door, verifier: TokenVerifier | None = None) -> None:
        self._door, self._verifier = door, verifier
        self._known: dict[str, tuple[float, Principal]] = {}
        self.failures = Failures()

    async def authenticate(self, token: str, peer: str | None) -> Principal:
        """The principal of the token that a client with the address ``peer`` sent.

        Raises Unauthorized, or Unavailable if no check is possible.
        """
        try:
            return await self._principal_of(token)
        except Unauthorized:
            self.failures.note(peer)
            raise

    async def _principal_of(self, token: str) -> Principal:
        now = time.monotonic()
        known = self._known.get(token)
        if known is not None and known[0] > now:
            return known[1]
        self._known.pop(token, None)
        if not is_well_formed(token):
            return await self._verified(token)
        rows = await self._door.fetch(EVERYONE, _BY_HASH, {"hash": hash_token(token)})
        if not rows:
            raise Unauthorized("The bearer token is not valid.")
        key_id, organization_id, workspace_id, permissions = rows[0]
        principal = Principal(
            key_id, "api_key", frozenset(permissions), organization_id, workspace_id
        )
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = (now + _REMEMBER_SECONDS, principal)
        return principal

    async def _verified(self, token: str) -> Principal:
        verifier = self._verifier
        principal = await verifier.verify(token) if verifier is not None else None
        if principal is None:
            raise Unauthorized("The bearer token is not valid.")
        return principal

    async def lapsed(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """The given principals that may no longer pass: for streams and exports, which last long.

        A revoked key is also forgotten, so its holder does not pass again for a moment.
        """
        keys = [principal for principal in principals if principal.type == "api_key"]
        ids = sorted({key.id for key in keys})
        passing = {row[0] for row in await self._door.fetch(EVERYONE, _PASSING, {"ids": ids})}
        lapsed = frozenset(key for key in keys if key.id not in passing)
        if lapsed:
            known = self._known.items()
            self._known = {token: entry for token, entry in known if entry[1] not in lapsed}
        return lapsed | self._ended(principals)

    def _ended(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """The principals whose token has expired, or whose signing key was withdrawn."""
        if self._verifier is None:
            return frozenset()
        has_lapsed = self._verifier.has_lapsed
        return frozenset(p for p in principals if p.grant and has_lapsed(p.grant))


_bearer = HTTPBearer(
    auto_error=False,
    description="An API key (`elk_…`), or a JWT if the service has an identity provider.",
)

Authenticated = Annotated[Principal, Security(_bearer)]
"""The principal among an endpoint's parameters; OpenAPI shows the bearer scheme for it."""


async def authenticate(request: Request) -> Principal:
    """The request's principal. Raises Unauthorized."""
    if count(request.scope, b"authorization") > 1:
        # A proxy may have checked the other header.
        raise Unauthorized("Exactly one Authorization header is needed.")
    sent = (header(request.scope, b"authorization") or b"").decode("latin-1")
    scheme, _, token = sent.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("A bearer token is needed.")
    authenticator: Authenticator = request.app.state.services.authenticator
    return await authenticator.authenticate(token.strip(), address_of(request))


def address_of(request: Request) -> str | None:
    """The address from which the request came: behind a proxy, the proxy's."""
    return request.client.host if request.client is not None else None
