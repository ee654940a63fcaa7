"""Sessions at the pages: from a cookie's secret to a principal (contract, Sign-in).

    secret ─▶ row ─┬─ by token:    its key or token is looked up, as for each request
                   └─ by provider: claims ─▶ the present grants ─▶ the chosen tenant
                        └─ older than 5 minutes: the claims are refreshed first

No process remembers a session: each request looks up the row, so a session ends everywhere at
once.
"""

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger.engine.http.machinery.failures import network_of
from ledger.engine.http.problems import Unauthorized
from ledger.engine.log.tables import PersonRow, SessionRow
from ledger.engine.values.errors import LedgerError, RateLimited, Unavailable
from ledger.engine.values.principal import Principal, person
from ledger.engine.values.values import EARLIEST
from ledger.features.keys.key_uses import KeyUse, KeyUses
from ledger.features.sign_in.access.authentication import Authenticator
from ledger.features.sign_in.access.grants import AllowedTenants
from ledger.features.sign_in.access.refreshing import UNREFRESHED_SECONDS, Refresher
from ledger.features.sign_in.access.session_store import (
    OVER,
    SessionRules,
    SessionSecrets,
    SessionStore,
)
from ledger.features.sign_in.commands import BeginSession, EndSession, EnterTenant, in_tenant
from ledger.features.sign_in.model import NOWHERE, TenantAccess

if TYPE_CHECKING:
    # Only loaded with a configured provider.
    from ledger.features.sign_in.access.open_id import SignedIn

SIGN_INS_A_MINUTE = 60
"""Sign-ins of a person or key per minute and worker."""

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")

_NOT_GRANTED = "You no longer have access. Ask an administrator, then sign in again."
_KEY_LOST = "Your API key is unknown, has expired or was revoked. Sign in with another key."
_TOKEN_EXPIRED = "Your token has expired. Sign in with a new token."

_BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
"""Browser families in the order of the search: a browser also names families that come later."""


class Visitor(NamedTuple):
    """The person of a session."""

    row: SessionRow
    principal: Principal | None
    """None if several tenants are granted, and none is chosen."""
    allowed: AllowedTenants
    """The tenants that the provider's claims grant; empty for a token, which has its own."""


class Sessions:
    """The sessions at the pages of one process."""

    def __init__(
        self,
        store: SessionStore,
        clock: Callable[[], datetime],
        authenticator: Authenticator,
        uses: KeyUses | None,
        rules: SessionRules,
    ) -> None:
        """``uses`` records the uses of sessions; None on a read node, which writes none."""
        self._store, self._clock = store, clock
        self._authenticator, self._uses = authenticator, uses
        self.rules = rules
        self.refresher = Refresher(store, rules, clock)
        self._minute, self._begun = 0, Counter[str]()
        """The minute, by the monotonic clock, and its sign-ins by person."""

    # Looking up.

    async def row_of(self, secret: str) -> SessionRow:
        """The session of a cookie, whatever its rights. Raises Unauthorized."""
        hashed = hash_of(secret)
        if hashed is None:
            raise Unauthorized("Sign in to see this page.")
        found = await self._store.rows([hashed])
        if not found:
            raise Unauthorized(OVER)
        return found[0]

    async def visitor(self, secret: str, peer: str | None) -> Visitor:
        """The person of a cookie. Raises Unauthorized, or Unavailable if no check is possible."""
        row = await self.row_of(secret)
        if self._uses is not None:
            self._uses.note(KeyUse(row.session_id, *row.tenant, self._clock()))
        if row.by == "token":
            return Visitor(row, await self._of_token(row, peer), {})
        provider = self.rules.provider
        if provider is None or provider.config.issuer != row.issuer:
            raise Unauthorized(OVER)
        row = await self.refresher.fresh(row)
        allowed = self.rules.grants.judge(row.claims)
        if not allowed:
            await self._store.end_quietly(row, "administrator")
            raise Unauthorized(_NOT_GRANTED)
        access = self._access_of(row, allowed)
        now = access or NOWHERE
        if (now.tenant, [*now.permissions]) != (row.tenant, [*row.permissions]):
            # The file has changed: show session managers what the session may do now.
            with suppress(LedgerError):
                await self._store.done(
                    EnterTenant(row.session_id, principal_in(row, now), None, now)
                )
            row = in_tenant(row, now)
        return Visitor(row, None if access is None else principal_in(row, access), allowed)

    async def _of_token(self, row: SessionRow, peer: str | None) -> Principal:
        token = self._store.secrets(row).token or ""
        if not self.rules.allows_tokens:
            raise Unauthorized("Signing in with a token is turned off here.")
        try:
            principal = await self._authenticator.authenticate(token, peer)
        except Unauthorized as error:
            is_key = row.sub.startswith("KEY-")
            await self._store.end_quietly(row, "administrator" if is_key else "provider")
            raise Unauthorized(_KEY_LOST if is_key else _TOKEN_EXPIRED) from error
        return msgspec.structs.replace(principal, session=row.secret_hash)

    def _access_of(self, row: SessionRow, allowed: AllowedTenants) -> TenantAccess | None:
        """The chosen tenant, or the only one; None if there are several."""
        access = allowed.get(row.tenant) if row.permissions else None
        return next(iter(allowed.values())) if access is None and len(allowed) == 1 else access

    async def lapsed(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """The principals that may no longer pass: for streams and exports, which last long."""
        found = {*await self._authenticator.lapsed(principals)}
        hashes = sorted({each.session for each in principals if each.session is not None})
        rows = {row.secret_hash: row for row in await self._store.rows(hashes)} if hashes else {}
        for principal in principals:
            if principal.session is None:
                continue
            row = rows.get(principal.session)
            if row is None or not self._still(row, principal):
                found.add(principal)
        return frozenset(found)

    def _still(self, row: SessionRow, principal: Principal) -> bool:
        if row.by == "token":
            return self.rules.allows_tokens
        tenant = principal.organization_id, principal.workspace_id
        try:
            self.refresher.ask(row)  # the next check sees the answer
            access = self.rules.grants.judge(row.claims).get(tenant)
            is_recent = not self.refresher.is_too_old(row)
        except Unauthorized:
            return False
        except Unavailable:
            return True
        may = frozenset() if access is None else frozenset(access.permissions)
        return is_recent and may == principal.permissions

    # Changes.

    async def begin_by_token(self, principal: Principal, token: str, made: "Made") -> None:
        tenant = principal.organization_id, principal.workspace_id
        access = TenantAccess(*tenant, sorted(principal.permissions))
        row = self._new_row(made, "token", None, principal.id, None, access)
        row = row._replace(kept=self._store.seal(row.session_id, SessionSecrets(token=token)))
        await self._begin(row, principal, made, self.rules.seconds)

    async def begin_by_provider(
        self, signed_in: "SignedIn", claims: str, access: TenantAccess | None, made: "Made"
    ) -> None:
        """Begin a session for a person whom the provider signed in.

        ``access`` is the tenant to begin in; with None, the person chooses one.
        """
        assert self.rules.provider is not None
        sub, access = signed_in.sub, access or NOWHERE
        issuer = self.rules.provider.config.issuer
        row = self._new_row(made, "provider", issuer, sub, signed_in.sid, access)
        stored = SessionSecrets(None, signed_in.refresh_token, signed_in.id_token)
        row = row._replace(
            claims=claims,
            signed_at=signed_in.signed_at,
            kept=self._store.seal(row.session_id, stored),
        )
        seconds = self.rules.seconds
        if signed_in.refresh_token is None:
            seconds = min(seconds, UNREFRESHED_SECONDS)
        name, email = (_printable(signed_in.claims.get(each)) for each in ("name", "email"))
        names = PersonRow(sub, name, email, self._clock(), ())
        await self._begin(row, principal_in(row, access), made, seconds, names)

    async def _begin(
        self,
        row: SessionRow,
        who: Principal,
        made: "Made",
        seconds: float,
        names: PersonRow | None = None,
    ) -> None:
        """Begin a session. Raises RateLimited for more sign-ins than people make."""
        self._admit(f"{row.issuer} {row.sub}")
        await self._store.done(
            BeginSession(
                row, who, made.request_id, seconds=seconds, former=made.former, person=names
            )
        )

    def _new_row(
        self,
        made: "Made",
        by: str,
        issuer: str | None,
        sub: str,
        sid: str | None,
        access: TenantAccess,
    ) -> SessionRow:
        now = self._clock()
        hashed = hash_of(made.secret)
        assert hashed is not None
        organization_id, workspace_id, permissions = access
        return SessionRow(
            session_id=f"SES-{secrets.token_hex(8)}",
            secret_hash=hashed,
            by=by,
            issuer=issuer,
            sub=sub,
            sid=sid,
            organization_id=organization_id,
            workspace_id=workspace_id,
            permissions=permissions,
            claims="{}",
            kept=b"",
            signed_at=now,
            checked_at=now,
            asked_at=EARLIEST,
            begun_at=now,
            ends_at=now,
            browser=browser_of(made.user_agent),
            network=network_of(made.peer),
        )

    def _admit(self, person: str) -> None:
        """Raise RateLimited for one sign-in too many: each is an event of the log."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._begun = minute, Counter()
        self._begun[person] += 1
        if self._begun[person] > SIGN_INS_A_MINUTE:
            raise RateLimited("You signed in too often in this minute. Try again in the next one.")

    async def enter(self, visitor: Visitor, access: TenantAccess, request_id: str | None) -> None:
        """Choose a tenant of the person's. Raises NotFound if the session has ended."""
        row = visitor.row
        await self._store.done(
            EnterTenant(row.session_id, principal_in(row, access), request_id, access)
        )

    async def end_own(
        self, visitor: Visitor, session_id: str, request_id: str | None
    ) -> str | None:
        """End one of the person's own sessions; return the ID token of the visitor's session.

        Raises NotFound if no such session of this person exists.
        """
        row = visitor.row
        principal = visitor.principal or principal_in(row, NOWHERE)
        await self._store.done(
            EndSession(session_id, principal, request_id, by="self", person=(row.sub, row.issuer))
        )
        return self._store.secrets(row).id_token if row.by == "provider" else None


class Made(NamedTuple):
    """The part of a new session that comes from its request."""

    secret: str
    former: bytes | None
    user_agent: str
    peer: str | None
    request_id: str | None


def new_secret() -> str:
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes | None:
    """The hash that stores a cookie's secret; None if the form is wrong."""
    return hashlib.sha256(secret.encode()).digest() if _SECRET.fullmatch(secret) else None


def principal_in(row: SessionRow, access: TenantAccess) -> Principal:
    return person(row.sub, access.permissions, *access.tenant, session=row.secret_hash)


def browser_of(user_agent: str) -> str:
    """The browser's family, by the first known word; the other words are dropped."""
    names = {"Edg": "Edge", "OPR": "Opera"}
    found = next((word for word in _BROWSERS if f"{word}/" in user_agent), None)
    return names.get(found, found) if found is not None else "another program"


def _printable(name: object) -> str | None:
    """A name for storage: one line of at most 200 characters."""
    if not isinstance(name, str):
        return None
    line = "".join(each for each in name if each.isprintable()).strip()[:200]
    return line or None
