"""Sessions at the pages: from a cookie's secret to a principal (contract, Sign-in).

    secret ─▶ row ─┬─ by token:    its key or token is looked up, as for each request
                   └─ by provider: claims ─▶ the grants of now ─▶ the chosen tenant
                        └─ older than 5 minutes: the provider is asked first

No process remembers a session: the row is looked up for each request, so that an ended session ends
on all nodes at once.
"""

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger.api.access.authentication import Authenticator
from ledger.api.access.failures import network_of
from ledger.api.access.grants import Grants, Places
from ledger.api.access.key_uses import KeyUse, KeyUses
from ledger.api.problems import Unauthorized
from ledger.application.command import Command
from ledger.application.commands.sessions import (
    ASK_SECONDS,
    AskForClaims,
    BeginSession,
    EndSession,
    EnterPlace,
    KeepClaims,
)
from ledger.domain.errors import LedgerError, RateLimited, ReadOnly, Unavailable
from ledger.domain.session import EndedBy, Place
from ledger.domain.values import EARLIEST
from ledger.intake.principal import SIGN_IN, USER, Principal
from ledger.intake.request import Outcome, Receipt
from ledger.log.tables import SESSION, PersonRow, SessionRow
from ledger.log.vault import CannotOpen, Vault
from ledger.postgres.door import Door
from ledger.postgres.scope import EVERYONE

if TYPE_CHECKING:
    # Only loaded where a provider is configured.
    from ledger.api.access.open_id import OpenIdProvider, SignedIn

_logger = logging.getLogger(__name__)

CLAIMS_SECONDS = 300.0
"""The age of claims from which on the provider is asked again, at the session's next use."""

AWAY_SECONDS = 3600.0
"""So much older may claims be while the provider does not answer."""

PAUSE_SECONDS = 15.0
"""So long after a failure no session is refreshed: pages wait for no provider that is away."""

UNREFRESHED_SECONDS = 43_200
"""The longest session of a person whose provider gives no refresh token."""

SIGN_INS_A_MINUTE = 60
"""Sign-ins of a person or key in a minute, in each worker."""

_POLL_SECONDS = 0.2
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_PURPOSE = "session"

_OVER = "Your session has ended. Sign in again."
_NOT_GRANTED = "You have no rights here any more. Ask an administrator, then sign in again."
_KEY_LOST = "Your API key is unknown, has expired or was revoked. Sign in with another key."
_TOKEN_EXPIRED = "Your token has expired. Sign in with a new token."

_PASSING = f"""
SELECT {", ".join(SESSION.columns)}
FROM ledger.sessions_of(%(hashes)s, %(now)s, %(idle)s)
"""

_BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
"""The words of a browser's family, each before those that it also names."""


class SessionSecrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """The secrets that a session keeps, sealed."""

    token: str | None = None
    """The key or token with which the person signed in."""
    refresh_token: str | None = None
    id_token: str | None = None


class Visitor(NamedTuple):
    """The person of a session."""

    row: SessionRow
    principal: Principal | None
    """None: several tenants are granted, and none is chosen."""
    places: Places
    """The tenants that the provider's claims grant; empty for a token, which has its own."""


class Sessions:
    """The sessions, as one process sees and changes them.

    ``submit`` hands in a command; None: the process of a read node, which changes nothing.
    """

    def __init__(
        self,
        door: Door,
        clock: Callable[[], datetime],
        vault: Vault,
        authenticator: Authenticator,
        uses: KeyUses | None,
        submit: Callable[[Sequence[Command]], Awaitable[list[Outcome]]] | None,
        rules: "SessionRules",
    ) -> None:
        self._door, self._clock, self._vault = door, clock, vault
        self._authenticator, self._uses, self._submit = authenticator, uses, submit
        self.rules = rules
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        """The questions for fresh claims that are under way in this process, by session."""
        self._away_until = EARLIEST
        """The provider is asked for no claims before."""
        self._minute, self._begun = 0, Counter[str]()
        """The minute, by the monotonic clock, and the sign-ins in it by person."""

    # Looking up.

    async def visitor(self, secret: str, peer: str | None) -> Visitor:
        """The person of a cookie. Raises Unauthorized, or Unavailable if no check is possible."""
        hashed = hash_of(secret)
        row = next(iter(await self._rows([hashed])), None) if hashed is not None else None
        if row is None:
            raise Unauthorized(_OVER if hashed is not None else "Sign in to see this page.")
        if self._uses is not None:
            self._uses.note(KeyUse(row.session_id, *row_tenant(row), self._clock()))
        return await self._visitor_of(row, peer)

    async def _visitor_of(self, row: SessionRow, peer: str | None) -> Visitor:
        if row.by == "token":
            return Visitor(row, await self._of_token(row, peer), {})
        provider = self.rules.provider
        if provider is None or provider.config.issuer != row.issuer:
            raise Unauthorized(_OVER)
        row = await self._with_fresh_claims(row)
        places = self.rules.grants.judge(row.claims)
        if not places:
            await self._end_quietly(row, "administrator")
            raise Unauthorized(_NOT_GRANTED)
        place = self._place_of(row, places)
        if place is None:
            return Visitor(row, None, places)
        if (place.tenant, [*place.permissions]) != (row_tenant(row), [*row.permissions]):
            # The file has changed: those who manage sessions are shown what a session may now.
            with suppress(LedgerError):
                await self._done(EnterPlace(row.session_id, principal_in(row, place), None, place))
        return Visitor(row, principal_in(row, place), places)

    async def _of_token(self, row: SessionRow, peer: str | None) -> Principal:
        token = self._kept(row).token or ""
        if not self.rules.takes_tokens:
            raise Unauthorized("Signing in with a token is turned off here.")
        try:
            principal = await self._authenticator.authenticate(token, peer)
        except Unauthorized as error:
            is_key = row.sub.startswith("KEY-")
            await self._end_quietly(row, "administrator" if is_key else "provider")
            raise Unauthorized(_KEY_LOST if is_key else _TOKEN_EXPIRED) from error
        return msgspec.structs.replace(principal, session=row.secret_hash)

    def _place_of(self, row: SessionRow, places: Places) -> Place | None:
        """The chosen tenant, or the only one; None: there are several."""
        place = places.get(row_tenant(row)) if row.permissions else None
        return next(iter(places.values())) if place is None and len(places) == 1 else place

    async def lapsed(self, principals: Collection[Principal]) -> frozenset[Principal]:
        """Those of these principals of sessions that may no longer pass: for streams."""
        hashes = sorted({each.session for each in principals if each.session is not None})
        rows = {row.secret_hash: row for row in await self._rows(hashes)} if hashes else {}
        found = set[Principal]()
        for principal in principals:
            if principal.session is None:
                continue
            row = rows.get(principal.session)
            if row is None or not self._still(row, principal):
                found.add(principal)
        return frozenset(found)

    def _still(self, row: SessionRow, principal: Principal) -> bool:
        if row.by == "token":
            return self.rules.takes_tokens
        is_asked = self._submit is not None and self._clock() >= self._away_until
        if is_asked and self._is_stale(row):
            self._ask(row)  # what comes of it is seen by the next look
        tenant = principal.organization_id, principal.workspace_id
        try:
            place = self.rules.grants.judge(row.claims).get(tenant)
        except Unavailable:
            return True
        return place is not None and frozenset(place.permissions) == principal.permissions

    async def _rows(self, hashes: Sequence[bytes]) -> list[SessionRow]:
        asked = {"hashes": [*hashes], "now": self._clock(), "idle": self.rules.idle}
        return [
            SessionRow._make(row)._replace(secret_hash=bytes(row[1]), kept=bytes(row[10]))
            for row in await self._door.fetch(EVERYONE, _PASSING, asked)
        ]

    def _kept(self, row: SessionRow) -> SessionSecrets:
        """What the session keeps. Raises Unauthorized under another master key."""
        try:
            opened = self._vault.open(f"{_PURPOSE}|{row.session_id}", row.kept)
        except CannotOpen as error:
            raise Unauthorized(_OVER) from error
        return msgspec.json.decode(opened, type=SessionSecrets)

    def seal(self, session_id: str, kept: SessionSecrets) -> bytes:
        return self._vault.seal(f"{_PURPOSE}|{session_id}", msgspec.json.encode(kept))

    # Fresh claims.

    def _is_stale(self, row: SessionRow) -> bool:
        age = (self._clock() - row.checked_at).total_seconds()
        return age >= CLAIMS_SECONDS and self._kept(row).refresh_token is not None

    async def _with_fresh_claims(self, row: SessionRow) -> SessionRow:
        """The row with claims that are at most five minutes old, or as old as an outage allows."""
        if not self._is_stale(row):
            return row
        if self._submit is not None and self._clock() >= self._away_until:
            # A client that goes away takes the answer from no other.
            await asyncio.wait([self._ask(row)], timeout=ASK_SECONDS)
            found = await self._rows([row.secret_hash])
            if not found:
                raise Unauthorized(_OVER)
            (row,) = found
        age = (self._clock() - row.checked_at).total_seconds()
        if age >= CLAIMS_SECONDS + AWAY_SECONDS:
            raise Unavailable("The identity provider has not answered for an hour.")
        return row

    def _ask(self, row: SessionRow) -> asyncio.Task[None]:
        task = self._refreshing.get(row.session_id)
        if task is None:
            task = self._refreshing[row.session_id] = asyncio.create_task(self._refresh(row))
            task.add_done_callback(lambda done: self._asked(row.session_id, done))
        return task

    def _asked(self, session_id: str, task: "asyncio.Task[None]") -> None:
        del self._refreshing[session_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LedgerError):
            _logger.error("a session could not be refreshed", exc_info=error)

    async def _refresh(self, row: SessionRow) -> None:
        """Ask the provider for the claims of a person, or wait while another node asks it."""
        reserved = await self._done(AskForClaims(row.session_id, row.checked_at))
        if reserved.duplicate:
            await self._await_other(row)
            return
        answer = None
        try:
            answer = await self._fresh(row)
        except LedgerError:
            # Others need not wait for it either: they go on with the claims that they have.
            self._away_until = self._clock() + timedelta(seconds=PAUSE_SECONDS)
        if answer is None or answer:
            await self._done(KeepClaims(row.session_id, answer, UNREFRESHED_SECONDS))

    async def _fresh(self, row: SessionRow) -> tuple[str | None, bytes] | tuple[()]:
        """The claims as the provider tells them now; nothing: the session has ended.

        Raises Unavailable, or SignInRefused for an answer that is not valid.
        """
        from ledger.api.access.open_id import NoLongerGranted

        provider, known = self.rules.provider, self._kept(row)
        assert provider is not None
        assert known.refresh_token is not None
        try:
            said = await provider.refresh(known.refresh_token, row.sub, self.wanted())
            claims = None if said.claims is None else self.rules.grants.kept(said.claims)
        except (NoLongerGranted, ValueError):
            await self._end_quietly(row, "provider")
            return ()
        kept = SessionSecrets(None, said.refresh_token, said.id_token or known.id_token)
        return claims, self.seal(row.session_id, kept)

    async def _await_other(self, row: SessionRow) -> None:
        """Wait until the claims are newer, the session is over, or nobody asks any more."""
        for _ in range(int(ASK_SECONDS / _POLL_SECONDS)):
            found = await self._rows([row.secret_hash])
            if not found or found[0].checked_at != row.checked_at:
                return
            if (self._clock() - found[0].asked_at).total_seconds() >= ASK_SECONDS:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._away_until = self._clock() + timedelta(seconds=PAUSE_SECONDS)

    def wanted(self) -> frozenset[str]:
        """The claims that the provider is asked for."""
        return self.rules.grants.wanted() | {"name", "email"}

    # Changes.

    async def begin_by_token(self, principal: Principal, token: str, made: "Made") -> str:
        """Begin a session for a token that was authenticated; return the cookie's secret."""
        tenant = principal.organization_id, principal.workspace_id
        row = self._new_row(
            made,
            "token",
            None,
            principal.id,
            None,
            Place(*tenant, sorted(principal.permissions)),
        )
        row = row._replace(kept=self.seal(row.session_id, SessionSecrets(token=token)))
        seconds = self.rules.seconds
        command = BeginSession(row, principal, made.request_id, seconds=seconds, former=made.former)
        await self._done(command)
        return made.secret

    async def begin_by_provider(
        self, person: "SignedIn", claims: str, place: Place | None, made: "Made"
    ) -> str:
        """Begin a session for a person whom the provider signed in; return the secret.

        ``place`` is the tenant to begin in; None: the person chooses one.
        """
        assert self.rules.provider is not None
        issuer = self.rules.provider.config.issuer
        row = self._new_row(made, "provider", issuer, person.sub, person.sid, place)
        kept = SessionSecrets(None, person.refresh_token, person.id_token)
        row = row._replace(
            claims=claims, signed_at=person.signed_at, kept=self.seal(row.session_id, kept)
        )
        seconds = self.rules.seconds
        if person.refresh_token is None:
            seconds = min(seconds, UNREFRESHED_SECONDS)
        name, email = (_shown(person.claims.get(each)) for each in ("name", "email"))
        command = BeginSession(
            row,
            principal_in(row, place or Place(None, None, ())),
            made.request_id,
            seconds=seconds,
            former=made.former,
            person=PersonRow(person.sub, name, email, self._clock(), ()),
        )
        await self._done(command)
        return made.secret

    def _new_row(
        self,
        made: "Made",
        by: str,
        issuer: str | None,
        sub: str,
        sid: str | None,
        place: Place | None,
    ) -> SessionRow:
        self._admit(f"{issuer} {sub}")
        now = self._clock()
        hashed = hash_of(made.secret)
        assert hashed is not None
        organization_id, workspace_id, permissions = place or Place(None, None, ())
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
        """Raise RateLimited for more sign-ins than people make: each is an event of the log."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._begun = minute, Counter()
        self._begun[person] += 1
        if self._begun[person] > SIGN_INS_A_MINUTE:
            raise RateLimited("You signed in too often in this minute. Try again in the next one.")

    async def enter(self, visitor: Visitor, place: Place, request_id: str | None) -> None:
        """Choose a tenant of the person's. Raises NotFound if the session has ended."""
        row = visitor.row
        await self._done(EnterPlace(row.session_id, principal_in(row, place), request_id, place))

    async def end_own(
        self, visitor: Visitor, session_id: str, request_id: str | None
    ) -> str | None:
        """End a session of the person's own; return the ID token that the visitor's kept.

        Raises NotFound if it is nobody's, or somebody else's.
        """
        row = visitor.row
        principal = visitor.principal or principal_in(row, Place(None, None, ()))
        await self._done(
            EndSession(session_id, principal, request_id, by="self", person=(row.sub, row.issuer))
        )
        return self._kept(row).id_token if row.by == "provider" else None

    async def _end_quietly(self, row: SessionRow, by: EndedBy) -> None:
        """End a session that no longer passes; what cannot be recorded now is refused anyway."""
        with suppress(LedgerError):
            await self._done(EndSession(row.session_id, SIGN_IN, None, by=by))

    async def _done(self, command: Command) -> Receipt:
        """The receipt of a command. Raises its refusal, or ReadOnly."""
        if self._submit is None:
            raise ReadOnly
        (outcome,) = await self._submit([command])
        if isinstance(outcome, LedgerError):
            raise outcome
        return outcome


class SessionRules(NamedTuple):
    """The operator's rules of sessions."""

    idle: timedelta
    seconds: float
    takes_tokens: bool
    grants: Grants
    provider: "OpenIdProvider | None"


class Made(NamedTuple):
    """The part of a new session that its request tells."""

    secret: str
    former: bytes | None
    """The hash of the secret of the browser's former session."""
    user_agent: str
    peer: str | None
    request_id: str | None


def new_secret() -> str:
    """The secret of a new cookie: 32 random bytes."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes | None:
    """The hash by which a cookie's secret is stored; None: it is none."""
    return hashlib.sha256(secret.encode()).digest() if _SECRET.fullmatch(secret) else None


def principal_in(row: SessionRow, place: Place) -> Principal:
    """The person of a provider's session in a tenant."""
    return Principal(
        f"{USER}{row.sub}",
        "user",
        frozenset(place.permissions),
        place.organization_id,
        place.workspace_id,
        session=row.secret_hash,
    )


def row_tenant(row: SessionRow) -> tuple[str | None, str | None]:
    """The tenant that a session has entered; (None, None) too if it has entered none."""
    return row.organization_id, row.workspace_id


def browser_of(user_agent: str) -> str:
    """The family of a browser, by the first word that is known; its other words are dropped."""
    names = {"Edg": "Edge", "OPR": "Opera"}
    found = next((word for word in _BROWSERS if f"{word}/" in user_agent), None)
    return names.get(found, found) if found is not None else "another program"


def _shown(said: object) -> str | None:
    """A name as it is kept: a line of at most 200 characters."""
    if not isinstance(said, str):
        return None
    line = "".join(each for each in said if each.isprintable()).strip()[:200]
    return line or None
