"""Grants: which tenants a person may enter, by the claims of the identity provider.

A TOML file has a table for each grant (contract, Sign-in):

    [[grant]]
    claim = "groups"                      # or a JSON pointer, such as "/realm_access/roles"
    value = "ledger-operators"
    organization_id = "ORG-26-000001"
    workspace_id = "WS-26-000001"         # left out: the whole organization
    permissions = ["read", "service_lines:manage"]

Without a file, a person has the rights of the claims ``organization_id``, ``workspace_id`` and
``permissions``, like the holder of a token. A request reads the file again if the last check is
some seconds old: so sessions follow the present file without a loop.
"""

import json
import logging
import math
import os
import re
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ledger.engine.values.errors import Unavailable
from ledger.engine.values.values import ORGANIZATION_ID, WORKSPACE_ID
from ledger.features.keys.model import Permission
from ledger.features.sign_in.model import TenantAccess

_logger = logging.getLogger(__name__)

CHECK_SECONDS = 4.0
"""Between two checks of the file: a removed grant ends with the next request after a check."""

SETTLED_SECONDS = 1.0
"""A file modified within this time may be half written: the former grants stay."""

_SOON_SECONDS = 0.5
"""Until the next check of such a file. All three together are less than six seconds."""

LARGEST = 256 * 1024

LARGEST_CLAIMS = 64 * 1024
"""The most bytes of the claims that a session stores, as JSON."""

_MOST = 10_000
_INDEX = re.compile("0|[1-9][0-9]{0,4}")
_VERIFIED = "email_verified"
_EMAIL = "email"

_CLAIM = r"^([^/].*|(/([^~/]|~[01])*)+)$"
"""The name of a claim, or a JSON pointer (RFC 6901)."""

_TOKEN_CLAIMS = ("organization_id", "workspace_id", "permissions")

_PERMISSIONS = frozenset(get_args(Permission))


class BrokenGrants(Exception):
    """The file is not a list of grants; the message says where, without any claim's value."""


class ClaimGrant(BaseModel):
    """A grant to everybody whose claim is the value, or contains it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    claim: Annotated[str, Field(pattern=_CLAIM, max_length=500)]
    value: Annotated[str, Field(min_length=1, max_length=2000)]
    organization_id: Annotated[str | None, Field(pattern=ORGANIZATION_ID)] = None
    workspace_id: Annotated[str | None, Field(pattern=WORKSPACE_ID)] = None
    permissions: Annotated[list[Permission], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_a_tenant(self) -> Self:
        if "admin" in self.permissions:
            if len(self.permissions) > 1 or self.organization_id or self.workspace_id:
                raise ValueError("admin stands alone, and belongs to no organization")
        elif self.organization_id is None:
            raise ValueError("organization_id is required")
        return self


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    # An empty list is more likely a half-written file than intended.
    grant: Annotated[list[ClaimGrant], Field(min_length=1, max_length=_MOST)]


_Tenant = tuple[str | None, str | None]
"""(organization, workspace)"""

AllowedTenants = Mapping[_Tenant, TenantAccess]


_Index = Mapping[str, Mapping[Any, Sequence[tuple[_Tenant, list[Permission]]]]]
"""Claim → value → grants: a person has few values, and a file many grants."""


class Grants:
    """The grants of the present file, or of the claims without a file.

    A broken file leaves the former grants. Without a whole file so far, a process grants and ends
    nothing.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._raw: bytes | None = None
        self._why_raw: str | None = None
        """Why the latest bytes are not a list of grants."""
        self._grants: _Index | None = None
        self._check_at = -math.inf
        self.why_broken: str | None = None
        """Why the present file is not a list of grants, so that the former one stays."""
        self.check()

    def check(self) -> None:
        """Read the file again, if the last check is some seconds ago."""
        if self._path is None or self._clock() < self._check_at:
            return
        self._check_at = self._clock() + CHECK_SECONDS
        try:
            self._read(self._path)
        except BrokenGrants as error:
            if self.why_broken is None and self._grants is not None:
                _logger.warning("the former grants stay: %s", error)
            self.why_broken = str(error)

    def _now(self) -> _Index:
        """The present grants. Raises Unavailable if no whole file was ever read."""
        self.check()
        if self._grants is None:
            raise Unavailable("The grants cannot be read: tell the operator of the ledger.")
        return self._grants

    def stored_claims(self, claims: Mapping[str, Any]) -> str:
        """The JSON of the claims that a session stores. Raises ValueError if they are too large."""
        if self._path is None:
            chosen = {name: claims[name] for name in _TOKEN_CLAIMS if name in claims}
        else:
            values = {name: _strings(_found(claims, name)) for name in sorted(self._now())}
            chosen = {name: value for name, value in values.items() if value is not None}
            if claims.get(_VERIFIED) is True:
                chosen[_VERIFIED] = True
        text = json.dumps(chosen, separators=(",", ":"))
        if len(text) > LARGEST_CLAIMS:
            raise ValueError(f"the claims that grants name have more than {LARGEST_CLAIMS} bytes")
        return text

    def judge(self, stored: str) -> AllowedTenants:
        """The tenants that the present grants give a person whose session has these claims."""
        claims: Mapping[str, Any] = json.loads(stored)
        if self._path is None:
            return _of_token(claims)
        found: dict[_Tenant, set[str]] = {}
        for claim, grants in self._now().items():
            values = claims.get(claim)
            if _parts(claim)[0] == _EMAIL and claims.get(_VERIFIED) is not True:
                continue
            for value in values if isinstance(values, list) else [values]:
                for tenant, permissions in grants.get(value, ()):
                    found.setdefault(tenant, set()).update(permissions)
        return {tenant: TenantAccess(*tenant, sorted(may)) for tenant, may in found.items()}

    def wanted(self) -> frozenset[str]:
        named = self._now() if self._path else _TOKEN_CLAIMS
        return frozenset(_parts(claim)[0] for claim in named)

    def _read(self, path: Path) -> None:
        try:
            if not path.is_file():  # opening a pipe would wait for a writer
                raise BrokenGrants("LEDGER_OIDC_GRANTS is no file")
            with path.open("rb") as file:
                raw = file.read(LARGEST + 1)
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError as error:
            raise BrokenGrants(f"LEDGER_OIDC_GRANTS cannot be read: {error.strerror}") from error
        if raw != self._raw:
            if self._grants is not None and 0 <= age < SETTLED_SECONDS:
                self._check_at = self._clock() + _SOON_SECONDS
                return
            self._load(raw)
        self.why_broken = self._why_raw

    def _load(self, raw: bytes) -> None:
        self._raw = raw
        try:
            self._grants, self._why_raw = _indexed(parse_grants(raw)), None
        except BrokenGrants as error:
            self._why_raw = str(error)
            raise


def _indexed(grants: Sequence[ClaimGrant]) -> _Index:
    index: dict[str, dict[Any, list[tuple[_Tenant, list[Permission]]]]] = {}
    for grant in grants:
        granted = (grant.organization_id, grant.workspace_id), grant.permissions
        index.setdefault(grant.claim, {}).setdefault(grant.value, []).append(granted)
    return index


def parse_grants(raw: bytes) -> tuple[ClaimGrant, ...]:
    if len(raw) > LARGEST:
        raise BrokenGrants(f"the file of LEDGER_OIDC_GRANTS has more than {LARGEST} bytes")
    try:
        content = tomllib.loads(raw.decode())
        return tuple(_File.model_validate(content).grant)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BrokenGrants("the file of LEDGER_OIDC_GRANTS is no TOML in UTF-8") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        location = ".".join(map(str, first["loc"]))
        raise BrokenGrants(
            f"the file of LEDGER_OIDC_GRANTS is wrong at {location}: {first['msg']}"
        ) from error


def _parts(claim: str) -> list[str]:
    """The names of a claim: its own, or those along a JSON pointer (RFC 6901)."""
    if not claim.startswith("/"):
        return [claim]
    return [part.replace("~1", "/").replace("~0", "~") for part in claim[1:].split("/")]


def _found(claims: Any, claim: str) -> Any:
    found = claims
    for part in _parts(claim):
        if isinstance(found, list) and _INDEX.fullmatch(part):
            found = found[int(part)] if int(part) < len(found) else None
        else:
            found = found.get(part) if isinstance(found, dict) else None
    return found


def _strings(value: Any) -> str | list[str] | None:
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    return value if isinstance(value, str) else None


class _TokenClaims(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    organization_id: str | None = Field(default=None, pattern=ORGANIZATION_ID)
    workspace_id: str | None = Field(default=None, pattern=WORKSPACE_ID)
    permissions: list[str]


def _of_token(payload: Mapping[str, Any]) -> AllowedTenants:
    """The tenant of a token's claims, by the rules of tokens (contract, Access)."""
    try:
        claims = _TokenClaims.model_validate(payload)
    except ValidationError:
        return {}
    may = _PERMISSIONS & frozenset(claims.permissions)
    if "admin" in may:
        return {(None, None): TenantAccess(None, None, ["admin"])}
    if claims.organization_id is None or not may:
        return {}
    tenant = claims.organization_id, claims.workspace_id
    return {tenant: TenantAccess(*tenant, sorted(may))}
