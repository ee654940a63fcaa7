"""Tokens that an identity provider signed: from a JWT to a principal (contract, Access).

joserfc verifies, with a key of the configured set, that a token is genuine and in time. This module
checks the rest: size, header, types of the claims, and the lifetime, which is limited because a
token cannot be revoked.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, NamedTuple, get_args

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry, extract_compact
from joserfc.jwt import JWTClaimsRegistry
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.engine.values.principal import Grant, Principal, person
from ledger.engine.values.values import ORGANIZATION_ID, WORKSPACE_ID
from ledger.features.keys.model import Permission
from ledger.features.sign_in.access.key_set import ALGORITHMS, KeySet

LONGEST = 8 * 1024

LEEWAY_SECONDS = 30.0
"""The accepted difference between the provider's clock and ours."""

LONGEST_LIFE_SECONDS = 24 * 3600.0
"""The most seconds until a token's expiry. For longer access use API keys, which can be revoked."""

_REMEMBER_SECONDS = 60.0
_REMEMBERED = 10_000

# Otherwise a missing signature would be noticed only after its key was fetched.
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""The accepted values of the optional ``typ``, compared in lower case (RFC 7519, RFC 9068)."""

_PERMISSIONS = frozenset(get_args(Permission))

_SUBJECT = r"^[!-~]([ -~]{0,198}[!-~])?$"

SUBJECT = re.compile(_SUBJECT)
"""Visible ASCII with inner spaces, at most as long as an actor's id: ``sub`` becomes one."""


class Claims(BaseModel):
    """A token's claims about its holder; other claims are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    sub: str = Field(pattern=_SUBJECT)
    exp: float
    organization_id: str | None = Field(default=None, pattern=ORGANIZATION_ID)
    workspace_id: str | None = Field(default=None, pattern=WORKSPACE_ID)
    permissions: list[str]


class CheckedToken(NamedTuple):
    """A token with a verified signature, and unchecked claims."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed_by: str
    """The thumbprint of the key (RFC 7638)."""


class _Rules(JWSRegistry):
    """Checks headers by ``_key_name``, and allows EdDSA, which the library warns about."""

    max_header_length = max_signature_length = 64 * 1024

    def check_header(self, header: dict[str, Any]) -> None: ...

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_RULES = _Rules()


async def verified(token: str, keys: KeySet, types: Collection[str]) -> CheckedToken | None:
    """Verify the signature and ``typ`` of a token. Returns None if either does not match.

    The caller limits its size. Raises Unavailable if the keys cannot be fetched.
    """
    name = None
    with contextlib.suppress(Exception):  # the library may raise any error for an invalid token
        if _FORM.fullmatch(token):
            name = _key_name(extract_compact(token.encode(), registry=_RULES).headers(), types)
    key = await keys.find(*name) if name is not None else None
    if key is None or (isinstance(key, RSAKey) and key.public_key.key_size < 2048):
        return None
    with contextlib.suppress(Exception):
        found = jwt.decode(token, key, registry=_RULES)
        if all(isinstance(found.claims.get(claim, ""), str) for claim in ("sub", "jti")):
            return CheckedToken(found.header, found.claims, key.thumbprint())
    return None


class _CachedToken(msgspec.Struct, frozen=True):
    until: float
    principal: Principal
    signed_by: str


class TokenVerifier:
    """Checks tokens of one issuer for one audience, and remembers accepted tokens for a while.

    Only digests of tokens are stored. Each use of a remembered token looks up its signing key, so
    the token ends with its key.
    """

    def __init__(
        self, keys: KeySet, issuer: str, audience: str, clock: Callable[[], datetime]
    ) -> None:
        self.keys, self._clock = keys, clock
        self._rules = JWTClaimsRegistry(
            leeway=int(LEEWAY_SECONDS),
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
        )
        self._cached: dict[bytes, _CachedToken] = {}

    async def verify(self, token: str) -> Principal | None:
        """The principal of a token; None if the token is refused.

        Raises Unavailable if the token cannot be checked.
        """
        if len(token) > LONGEST:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock().timestamp()
        cached = self._cached.get(digest)
        if cached is not None and cached.until > now and self.keys.holds(cached.signed_by):
            return cached.principal
        self._cached.pop(digest, None)
        found = await verified(token, self.keys, _TYPES)
        if found is None:
            return None
        try:
            self._rules.validate(found.claims)
            claims = Claims.model_validate(found.claims)
        except (JoseError, ValidationError):
            return None
        if not now - LEEWAY_SECONDS < claims.exp <= now + LONGEST_LIFE_SECONDS + LEEWAY_SECONDS:
            return None
        principal = _principal(claims, found.signed_by)
        if principal is not None:
            if len(self._cached) >= _REMEMBERED:
                self._cached.clear()
            until = min(now + _REMEMBER_SECONDS, claims.exp)
            self._cached[digest] = _CachedToken(until, principal, found.signed_by)
        return principal

    def has_lapsed(self, grant: Grant) -> bool:
        """True if a token that was accepted before would be refused now."""
        is_over = self._clock().timestamp() >= grant.expires_at
        return is_over or not self.keys.holds(grant.signed_by)


def _key_name(header: dict[str, Any], types: Collection[str]) -> tuple[str, str] | None:
    """The key id and the algorithm of a header; None if the header is refused."""
    key_id, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in types:
        return None
    # No extension is supported (RFC 7515, 4.1.11).
    if not isinstance(key_id, str) or algorithm not in ALGORITHMS or "crit" in header:
        return None
    return key_id, algorithm


def _principal(claims: Claims, signed_by: str) -> Principal | None:
    """The principal of a token's claims; None if the token names no tenant.

    Unknown permissions belong to other services. As with API keys, ``admin`` permits everything in
    every tenant, whatever tenant the token names.
    """
    permissions = _PERMISSIONS & frozenset(claims.permissions)
    grant = Grant(claims.exp + LEEWAY_SECONDS, signed_by)
    if "admin" in permissions:
        return person(claims.sub, permissions, grant=grant)
    if claims.organization_id is None:
        return None
    tenant = claims.organization_id, claims.workspace_id
    return person(claims.sub, permissions, *tenant, grant=grant)
