"""The client: routes by group, reporting in the background, and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import msgspec

from execution_ledger._async.groups import (
    AsyncCompare,
    AsyncEvents,
    AsyncLines,
    AsyncSums,
)
from execution_ledger._async.routes import (
    AsyncAlerts,
    AsyncAudit,
    AsyncDirectory,
    AsyncKeys,
    AsyncProofs,
    AsyncRuns,
    AsyncService,
    AsyncSessions,
    AsyncStatements,
    AsyncTraces,
    AsyncWatches,
    AsyncWebhooks,
)
from execution_ledger._async.transport import AsyncTransport
from execution_ledger._leases import Leases
from execution_ledger._operations import SHOW_CREDENTIAL
from execution_ledger._outcomes import Flushed
from execution_ledger._refusals import Refusal
from execution_ledger._reporting import AsyncReports
from execution_ledger._requests import settings_of
from execution_ledger._sending import BATCH_FACTS
from execution_ledger._wait import call_async
from execution_ledger.errors import Conflict, Forbidden
from execution_ledger.reporter import Reporter, encoded
from execution_ledger.run import Hosting, Plan, RunScope
from execution_ledger.types import Credential, FactItem


class _Outcomes(msgspec.Struct):
    data: list[FactItem]


class AsyncLedger(AsyncReports):
    """A client of the execution ledger.

    ``url``, ``token`` and ``source`` default to ``ELK_URL``, ``ELK_TOKEN`` and ``ELK_SOURCE``.
    ``source`` names the reporting program; without any, it is ``/`` and the program's name.
    ``timeout`` limits a call with all its attempts, in seconds. ``on_refused`` is called with each
    reported fact that the ledger refuses, and the reason. ``spool`` is a directory for reported
    facts that wait, so that they survive a kill of the process. Raises NotConfigured.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        source: str | None = None,
        timeout: float = 30.0,
        on_refused: Refusal | None = None,
        spool: str | Path | None = None,
        transport: httpx.MockTransport | None = None,
    ) -> None:
        settings = settings_of(url, token, source, timeout)
        self._settings = settings
        self._transport = AsyncTransport(settings, transport)
        self._reporter = Reporter(settings, on_refused, spool, transport)
        self._hosting = Hosting(self._reporter.report_run, Leases(settings, transport), timeout)
        self.lines = AsyncLines(self._transport)
        self.runs = AsyncRuns(self._transport)
        self.traces = AsyncTraces(self._transport)
        self.usage = AsyncSums(self._transport)
        self.compare = AsyncCompare(self._transport)
        self.statements = AsyncStatements(self._transport)
        self.watches = AsyncWatches(self._transport)
        self.alerts = AsyncAlerts(self._transport)
        self.events = AsyncEvents(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.sessions = AsyncSessions(self._transport)
        self.directory = AsyncDirectory(self._transport)
        self.proofs = AsyncProofs(self._transport)
        self.service = AsyncService(self._transport)

    @classmethod
    def from_env(
        cls,
        *,
        source: str | None = None,
        timeout: float = 30.0,
        on_refused: Refusal | None = None,
        spool: str | Path | None = None,
    ) -> Self:
        """A client of ``ELK_URL`` with ``ELK_TOKEN``. Raises NotConfigured."""
        return cls(source=source, timeout=timeout, on_refused=on_refused, spool=spool)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.url!r}, source={self._settings.source!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.aclose()

    async def check(self, line: str | None = None) -> Credential:
        """Check, before a program starts, that it may report, and that it may report about a line.

        Sends one request, and returns the credential. Raises:

        * Unauthorized for a token that is unknown, revoked or expired
        * Forbidden for a credential without ``write``
        * NotFound for a line that is unknown or of another tenant
        * Conflict for a closed line, and Invalid for a text that is no id of a line
        * NotReachable without an answer, and UnexpectedAnswer if something else than a ledger
          answers
        """
        scope = {"service_line_id": line}
        credential = await self._transport.call(SHOW_CREDENTIAL, arguments=scope)
        if "write" not in credential.permissions:
            raise Forbidden(403, "forbidden", "The credential lacks the permission write.")
        found = credential.service_line
        if found is not None and found.state == "closed":
            raise Conflict(409, "invalid_state", "The line is closed.")
        return credential

    async def aclose(self, timeout: float = 10.0) -> Flushed:
        """Flush for at most ``timeout`` seconds, and close the connections; return as ``flush``."""
        flushed = await self._reporter.flush_async(timeout)
        await call_async(self._reporter.end)
        self._hosting.leases.close()
        await self._transport.aclose()
        return flushed

    async def flush(self, timeout: float = 10.0) -> Flushed:
        """Wait for at most ``timeout`` seconds until all facts reported so far have an outcome.

        Returns the numbers of facts that were recorded and refused since the last flush, and of
        those that still wait. The result is true if no fact was refused and none waits.
        """
        return await self._reporter.flush_async(timeout)

    async def send(self, facts: Sequence[Mapping[str, Any]]) -> list[FactItem]:
        """Send CloudEvents now, in order, and return the outcome of each. Raises LedgerError."""
        items: list[FactItem] = []
        for first in range(0, len(facts), BATCH_FACTS):
            batch = [encoded(fact, self._settings.source) for fact in facts[first:][:BATCH_FACTS]]
            answer = await self._transport.facts(list(map(msgspec.Raw, batch)), _Outcomes)
            items += answer.data
        return items

    def run(
        self,
        line: str,
        *,
        name: str | None = None,
        parent: str | None = None,
        lease: int | None = None,
        attempt: int | None = None,
        input: Any = None,
        triggered_by: Mapping[str, str] | None = None,
        on_refused: Literal["run", "raise"] = "run",
        tells_errors: bool = False,
    ) -> RunScope:
        """A run of a line: ``with ledger.run(line) as run:``, or ``@ledger.run(line)``.

        ``name`` and ``parent`` are external ids. They default to a new id, and to the run around
        this one. ``lease`` is in seconds, 5 to 604,800. The ledger fails the run after so long
        without a heartbeat; the client sends the heartbeats.

        A start may be refused, as on a paused line. By default the client's ``on_refused`` gets the
        reason, and the function runs. With ``on_refused="raise"`` the run waits for the start, and
        raises the Problem. ``tells_errors`` reports the text of the exception that fails the run,
        with its type.
        """
        fields = {"input": input, "attempt": attempt, "triggered_by": triggered_by}
        started = {key: value for key, value in fields.items() if value is not None}
        plan = Plan(line, name, parent, lease, on_refused, tells_errors, started)
        return RunScope(self._hosting, plan)
