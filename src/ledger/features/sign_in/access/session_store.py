"""Sessions in the database: rows by secret, sealed parts, and commands that change them."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ledger.engine.http.problems import Unauthorized
from ledger.engine.log.tables import SESSION, SessionRow
from ledger.engine.log.vault import CannotOpen, Vault
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.values.errors import LedgerError, ReadOnly
from ledger.engine.values.principal import EVERYONE, SIGN_IN
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.sign_in.access.grants import Grants
from ledger.features.sign_in.commands import EndSession
from ledger.features.sign_in.model import EndedBy

if TYPE_CHECKING:
    # Only loaded with a configured provider.
    from ledger.features.sign_in.access.open_id import OpenIdProvider

OVER = "Your session has ended. Sign in again."

_PASSING = f"""
SELECT {", ".join(SESSION.columns)}
FROM ledger.sessions_of(%(hashes)s, %(now)s, %(idle)s)
"""


class SessionRules(NamedTuple):
    """The operator's rules of sessions."""

    idle: timedelta
    seconds: float
    allows_tokens: bool
    grants: Grants
    provider: "OpenIdProvider | None"


class SessionSecrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """The secrets of a session, which are stored sealed."""

    token: str | None = None
    refresh_token: str | None = None
    id_token: str | None = None


class SessionStore:
    """The sessions, as one process reads and changes them.

    ``submit`` executes commands; None on a read node, which changes nothing.
    """

    def __init__(
        self,
        pool: ReadPool,
        clock: Callable[[], datetime],
        vault: Vault,
        idle: timedelta,
        submit: Callable[[Sequence[Command]], Awaitable[list[Outcome]]] | None,
    ) -> None:
        self._pool, self._clock, self._vault, self._idle = pool, clock, vault, idle
        self._submit = submit

    @property
    def only_reads(self) -> bool:
        """True if no session can be changed here."""
        return self._submit is None

    async def rows(self, hashes: Sequence[bytes]) -> list[SessionRow]:
        """The unexpired sessions with these hashes of secrets."""
        values = {"hashes": [*hashes], "now": self._clock(), "idle": self._idle}
        return [
            SessionRow._make(row)._replace(secret_hash=bytes(row[1]), kept=bytes(row[10]))
            for row in await self._pool.fetch(EVERYONE, _PASSING, values)
        ]

    def secrets(self, row: SessionRow) -> SessionSecrets:
        """The secrets of a session. Raises Unauthorized under another master key."""
        try:
            opened = self._vault.open(_purpose(row.session_id), row.kept)
        except CannotOpen as error:
            raise Unauthorized(OVER) from error
        return msgspec.json.decode(opened, type=SessionSecrets)

    def seal(self, session_id: str, secrets: SessionSecrets) -> bytes:
        return self._vault.seal(_purpose(session_id), msgspec.json.encode(secrets))

    async def done(self, command: Command) -> Receipt:
        """Execute a command. Raises its refusal, or ReadOnly."""
        if self._submit is None:
            raise ReadOnly
        (outcome,) = await self._submit([command])
        if isinstance(outcome, LedgerError):
            raise outcome
        return outcome

    async def end_quietly(self, row: SessionRow, by: EndedBy) -> None:
        """End a session that no longer passes; if this cannot be recorded, it is refused anyway."""
        with suppress(LedgerError):
            await self.done(EndSession(row.session_id, SIGN_IN, None, by=by))


def _purpose(session_id: str) -> str:
    return f"session|{session_id}"
