"""Tokens that an identity provider signed: from a JWT to a principal (contract, Access).

PyJWT decides, with a key of the configured set, whether a token is genuine and in time. This module
checks the rest: the size, the header's ``typ`` and ``kid``, the types of the claims, and the
lifetime, which is limited because a token cannot be revoked.
"""

import hashlib
import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, NamedTuple, get_args

import jwt
import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.engine.values.principal import Grant, Principal, person
from ledger.engine.values.values import ORGANIZATION_ID, WORKSPACE_ID
from ledger.features.keys.model import Permission
from ledger.features.sign_in.access.key_set import ALGORITHMS, KeySet, SigningKey

LONGEST = 8 * 1024
"""Characters of a token."""

LEEWAY_SECONDS = 30.0
"""The accepted difference between the provider's clock and ours."""

LONGEST_LIFE_SECONDS = 24 * 3600.0
"""A token that expires later than this from now is refused: for longer access there are API keys,
which can be revoked."""

_REMEMBER_SECONDS = 60.0
_REMEMBERED = 10_000

# PyJWT would accept padding too, and so more than one spelling of the same token.
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""The accepted values of the optional ``typ``, compared in lower case (RFC 7519, RFC 9068)."""

_PERMISSIONS = frozenset(get_args(Permission))

_SUBJECT = r"^[!-~]([ -~]{0,198}[!-~])?$"

SUBJECT = re.compile(_SUBJECT)
"""Visible ASCII with inner spaces, no longer than an actor's id: ``sub`` becomes one."""


class Claims(BaseModel):
    """A token's claims about its holder; other claims are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    sub: str = Field(pattern=_SUBJECT)
    # PyJWT would accept numbers in text too.
    exp: float
    nbf: float | None = None
    iat: float | None = None
    organization_id: str | None = Field(default=None, pattern=ORGANIZATION_ID)
    workspace_id: str | None = Field(default=None, pattern=WORKSPACE_ID)
    permissions: list[str]


class CheckedToken(NamedTuple):
    """A token whose signature was checked; nobody has looked at its claims yet."""

    header: dict[str, Any]
    claims: dict[str, Any]


async def verified(token: str, keys: KeySet, types: Collection[str]) -> CheckedToken | None:
    """A token of one of these ``typ`` that one of the keys signed; None: it is none.

    The caller bounds its size. Raises Unavailable if the keys cannot be fetched.
    """
    name = _key_name(token, types)
    key = await keys.find(*name) if name is not None else None
    if key is None:
        return None
    options: Any = {"enforce_minimum_key_length": True}
    options |= {f"verify_{claim}": False for claim in ("aud", "iss", "exp", "nbf", "iat")}
    try:
        found = jwt.decode_complete(token, key.jwk, algorithms=ALGORITHMS, options=options)
    except jwt.PyJWTError:
        return None
    return CheckedToken(found["header"], found["payload"])


class _Known(msgspec.Struct, frozen=True):
    until: float
    principal: Principal
    signed_by: bytes


class TokenVerifier:
    """Checks tokens of one issuer for one audience, and remembers accepted tokens for a while.

    Only digests of tokens are kept. At each use of a remembered token its signing key is looked up,
    so the token ends with its key.
    """

    def __init__(
        self, keys: KeySet, issuer: str, audience: str, clock: Callable[[], datetime]
    ) -> None:
        self.keys = keys
        self._issuer, self._audience, self._clock = issuer, audience, clock
        self._known: dict[bytes, _Known] = {}

    async def verify(self, token: str) -> Principal | None:
        """The principal of a token; None: the token is refused.

        Raises Unavailable if the token cannot be checked.
        """
        if len(token) > LONGEST:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock().timestamp()
        known = self._known.get(digest)
        if known is not None and known.until > now and self.keys.holds(known.signed_by):
            return known.principal
        self._known.pop(digest, None)
        name = _key_name(token, _TYPES)
        key = await self.keys.find(*name) if name is not None else None
        claims = self._claims(token, key) if key is not None else None
        if key is None or claims is None:
            return None
        if not now - LEEWAY_SECONDS < claims.exp <= now + LONGEST_LIFE_SECONDS + LEEWAY_SECONDS:
            return None
        principal = _principal(claims, key)
        if principal is not None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            until = min(now + _REMEMBER_SECONDS, claims.exp)
            self._known[digest] = _Known(until, principal, key.fingerprint)
        return principal

    def has_lapsed(self, grant: Grant) -> bool:
        """Whether a token that was accepted before would be refused now."""
        is_over = self._clock().timestamp() >= grant.expires_at
        return is_over or not self.keys.holds(grant.signed_by)

    def _claims(self, token: str, key: SigningKey) -> Claims | None:
        # PyJWT requires ``iss`` and ``aud``, as both are given here; ``Claims`` requires the rest.
        try:
            decoded = jwt.decode(
                token,
                key.jwk,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"enforce_minimum_key_length": True},
            )
            return Claims.model_validate(decoded)
        except (jwt.PyJWTError, ValidationError):
            return None


def _key_name(token: str, types: Collection[str]) -> tuple[str, str] | None:
    """The key id and the algorithm that a token names; None: the token's form is refused."""
    if not _FORM.fullmatch(token):
        return None
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None
    key_id, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in types:
        return None
    if not isinstance(key_id, str) or algorithm not in ALGORITHMS:
        return None
    return key_id, algorithm


def _principal(claims: Claims, key: SigningKey) -> Principal | None:
    """The principal of a token's claims; None: the token names no tenant.

    Unknown permissions belong to other services. As with API keys, ``admin`` permits everything in
    every tenant, whatever tenant the token names.
    """
    permissions = _PERMISSIONS & frozenset(claims.permissions)
    grant = Grant(claims.exp + LEEWAY_SECONDS, key.fingerprint)
    if "admin" in permissions:
        return person(claims.sub, permissions, grant=grant)
    if claims.organization_id is None:
        return None
    tenant = claims.organization_id, claims.workspace_id
    return person(claims.sub, permissions, *tenant, grant=grant)
