"""Fresh claims of sessions: the provider is queried again for a person whose session is in use.

    claims older than 5 minutes ─▶ reserved by one process ─▶ provider ─┬─▶ new claims
                                   others wait for it                   ├─▶ the session ends
                                                                        └─▶ no answer: the former

While the provider is away, pages go on with their present claims, for an hour.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import Counter

from ledger.engine.http.problems import Unauthorized
from ledger.engine.log.tables import SessionRow
from ledger.engine.values.errors import LedgerError, Refused, Unavailable
from ledger.engine.values.values import EARLIEST
from ledger.features.sign_in.access.session_store import (
    OVER,
    SessionRules,
    SessionSecrets,
    SessionStore,
)
from ledger.features.sign_in.commands import ASK_SECONDS, AskForClaims, KeepClaims

if TYPE_CHECKING:
    from ledger.features.sign_in.access.open_id import Refreshed

_logger = logging.getLogger(__name__)

CLAIMS_SECONDS = 300.0
"""Claims older than this are refreshed at the session's next use."""

AWAY_SECONDS = 3600.0
"""Claims may be so much older while the provider does not answer."""

PAUSE_SECONDS = 15.0
"""No requests for this time after a failure: pages never wait for an absent provider."""

UNREFRESHED_SECONDS = 43_200
"""The longest session of a person whose claims the provider does not refresh."""

_POLL_SECONDS = 0.2
_KEEP_SECONDS = (0, 1, 2, 4, 8)
"""The delays of the attempts to store an answer: a refresh token may be used up by then."""

_MOST_PAUSED = 10_000

_MOST_REFUSED = 3
"""So many successive refusals are not one person's problem."""

_REFUSED_SECONDS = 3600.0
"""Refusals are reported for this time after the last one."""

_REFRESHES = Counter(
    "ledger_session_refreshes", "Questions for fresh claims, by how they ended.", ["outcome"]
)
for _outcome in ("refreshed", "ended", "refused", "unavailable"):
    _REFRESHES.labels(_outcome)


class Unconfirmed(Unavailable):
    """The provider has not confirmed the session for too long; a new sign-in may help."""

    def __init__(self) -> None:
        super().__init__("The identity provider has not confirmed your session for an hour.")


class Refresher:
    """Refreshes the claims of sessions, in one process."""

    def __init__(
        self, store: SessionStore, rules: SessionRules, clock: Callable[[], datetime]
    ) -> None:
        self._store, self._rules, self._clock = store, rules, clock
        self._refreshes: dict[str, asyncio.Task[None]] = {}
        """The refreshes under way in this process, by session."""
        self._away_until = EARLIEST
        self._paused = dict[str, datetime]()
        """No refresh before this instant for sessions with an unusable answer."""
        self._refused, self._refused_at = 0, EARLIEST
        """The refusals since the last success, and the instant of the last one."""

    @property
    def is_refused(self) -> bool:
        """True if the provider refuses to refresh several sessions, or one again and again."""
        age = (self._clock() - self._refused_at).total_seconds()
        return self._refused >= _MOST_REFUSED and age < _REFUSED_SECONDS

    def wanted(self) -> frozenset[str]:
        """The claims to request from the provider."""
        return self._rules.grants.wanted() | {"name"}

    def age(self, row: SessionRow) -> float:
        return (self._clock() - row.checked_at).total_seconds()

    def is_too_old(self, row: SessionRow) -> bool:
        return self._is_stale(row) and self.age(row) >= CLAIMS_SECONDS + AWAY_SECONDS

    async def fresh(self, row: SessionRow) -> SessionRow:
        """The row with claims that are at most five minutes old, or as old as an outage allows.

        Raises Unauthorized for a session that has ended, or Unconfirmed.
        """
        if not self._is_stale(row):
            return row
        if (task := self.ask(row)) is not None:
            # A client that disconnects must not cancel the answer for others.
            await asyncio.wait([task], timeout=ASK_SECONDS)
            found = await self._store.rows([row.secret_hash])
            if not found:
                raise Unauthorized(OVER)
            (row,) = found
        if self.is_too_old(row):
            raise Unconfirmed
        return row

    def ask(self, row: SessionRow) -> asyncio.Task[None] | None:
        """Begin to refresh the claims of a session, if due; None if nothing is under way."""
        now = self._clock()
        until = max(self._away_until, self._paused.get(row.session_id, EARLIEST))
        if self._store.only_reads or now < until or not self._is_stale(row):
            return None
        task = self._refreshes.get(row.session_id)
        if task is None:
            task = self._refreshes[row.session_id] = asyncio.create_task(self._refresh(row))
            task.add_done_callback(lambda done: self._finished(row.session_id, done))
        return task

    def _is_stale(self, row: SessionRow) -> bool:
        is_old = self.age(row) >= CLAIMS_SECONDS
        return is_old and self._store.secrets(row).refresh_token is not None

    def _finished(self, session_id: str, task: "asyncio.Task[None]") -> None:
        del self._refreshes[session_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LedgerError):
            _logger.error("a session could not be refreshed", exc_info=error)

    async def _refresh(self, row: SessionRow) -> None:
        """Request a person's claims from the provider, or wait while another process does."""
        from ledger.features.sign_in.access.open_id import NoLongerGranted, SignInRefused

        reserved = await self._store.done(AskForClaims(row.session_id, row.checked_at))
        if reserved.duplicate:
            await self._await_other(row)
            return
        provider, secrets = self._rules.provider, self._store.secrets(row)
        assert provider is not None
        assert secrets.refresh_token is not None
        try:
            refreshed = await provider.refresh(secrets.refresh_token, row.sub, self.wanted())
            claims = (
                None
                if refreshed.claims is None
                else self._rules.grants.stored_claims(refreshed.claims)
            )
        except (NoLongerGranted, ValueError):
            self._count("ended")
            await self._store.end_quietly(row, "provider")
        except LedgerError as error:
            self._count("refused" if isinstance(error, SignInRefused) else "unavailable")
            self._pause(row, error)
            await self._keep(KeepClaims(row.session_id))
        else:
            self._count("refreshed" if refreshed.failure is None else "unavailable")
            if refreshed.failure is not None:
                self._pause(row, refreshed.failure)
            await self._keep(self._answer(row, secrets, refreshed, claims))

    def _count(self, outcome: str) -> None:
        _REFRESHES.labels(outcome).inc()
        if outcome == "refused":
            self._refused, self._refused_at = self._refused + 1, self._clock()
        elif outcome == "refreshed":
            self._refused = 0

    def _answer(
        self, row: SessionRow, secrets: SessionSecrets, refreshed: "Refreshed", claims: str | None
    ) -> KeepClaims:
        stored = SessionSecrets(
            None, refreshed.refresh_token, refreshed.id_token or secrets.id_token
        )
        sealed = self._store.seal(row.session_id, stored)
        if refreshed.failure is not None:
            return KeepClaims(row.session_id, sealed)
        ends_at = None
        if claims is None:
            ends_at = row.begun_at + timedelta(seconds=UNREFRESHED_SECONDS)
        return KeepClaims(row.session_id, sealed, claims or row.claims, ends_at=ends_at)

    async def _keep(self, command: KeepClaims) -> None:
        """Store an answer, even if the database is away for some seconds."""
        for wait in _KEEP_SECONDS:
            await asyncio.sleep(wait)
            try:
                await self._store.done(command)
            except Refused:
                return  # the session has ended meanwhile
            except LedgerError:
                continue
            return

    def _pause(self, row: SessionRow, error: LedgerError) -> None:
        """Note that the provider is away, or gives an unusable answer about this person."""
        until = self._clock() + timedelta(seconds=PAUSE_SECONDS)
        if isinstance(error, Unavailable):
            self._away_until = until
            return
        if len(self._paused) >= _MOST_PAUSED:
            self._paused.clear()
        self._paused[row.session_id] = until

    async def _await_other(self, row: SessionRow) -> None:
        """Wait until the claims are newer, the session is over, or no other process is waiting."""
        for _ in range(int(ASK_SECONDS / _POLL_SECONDS)):
            found = await self._store.rows([row.secret_hash])
            if not found or found[0].checked_at != row.checked_at:
                return
            if (self._clock() - found[0].asked_at).total_seconds() >= ASK_SECONDS:
                break
            await asyncio.sleep(_POLL_SECONDS)
        self._pause(row, LedgerError("another process had no answer"))
