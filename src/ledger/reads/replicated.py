"""The positions of the views on a read node, whose server may be a standby.

The contract, Several nodes, says what such a node answers.

A standby takes no LISTEN. So the process looks at the views' positions some thirty times a second:
at those that have been replicated. With them it looks at the last beat of the log, by which it
knows how old its picture is, and up to which instant every event is there.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg

from ledger.postgres.exchange import SilentServer
from ledger.postgres.scope import FOR_EVERYONE
from ledger.postgres.session import AsyncRoundConnection, options_of
from ledger.reads.positions import WAIT_SECONDS, ViewPositions
from ledger.reads.versions import Versions

_LOOK_SECONDS = 0.03
"""The time between two looks."""

_LATE = timedelta(seconds=5)
"""A standby whose last beat is older answers no read (contract, Several nodes)."""

# The state of the log, with a row for each view.
_LOOK = """
SELECT known.*, p.name, p.position, p.stopped_at IS NOT NULL, p.version
FROM (
    SELECT pg_is_in_recovery(), COALESCE(ledger.log_end(), 0), ledger.beaten_at(),
        ledger.known_until()
) AS known (is_standby, log_end, beaten_at, until)
LEFT JOIN ledger.projection AS p ON true
"""


class _LookConnection(AsyncRoundConnection[Any]):
    """The connection of the looks: its server is silent if no reply comes in this time."""

    patience = 3.0


class ReplicatedPositions(ViewPositions):
    """The positions, by looks at the database that the reads of this process ask."""

    def __init__(
        self, conninfo: str, clock: Callable[[], datetime], versions: Versions | None = None
    ) -> None:
        super().__init__(conninfo, versions)
        self._clock = clock
        self._log_end = 0
        self._is_standby: bool | None = None
        """Whether the server is a standby; None before the first look."""
        self._beaten_at: datetime | None = None
        self._rose_at = 0.0
        """When the beat was last seen to rise, by the monotonic clock."""
        self._known_until: datetime | None = None
        self._looked = asyncio.Event()
        """Set with each look; waiters take the event before they wait, and find a new one then."""

    @property
    def beat_seconds(self) -> float:
        """The age of the last beat that this process has seen: infinite before the first one.

        The clocks of the node and of the writers may differ. So a beat also grows old while none
        follows it.
        """
        if self._beaten_at is None:
            return float("inf")
        by_clock = (self._clock() - self._beaten_at).total_seconds()
        return max(0.0, by_clock, time.monotonic() - self._rose_at)

    @property
    def is_late(self) -> bool:
        """Whether the server is a standby that is too far behind; unknown counts as late."""
        return self._is_standby is not False and self.beat_seconds > _LATE.total_seconds()

    async def wait_known(self, instant: datetime) -> bool:
        """Wait until every event by the instant is there. Return whether it is, in time."""
        time_ = asyncio.get_running_loop().time
        deadline = time_() + WAIT_SECONDS
        while self._known_until is None or self._known_until <= instant:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._looked.wait()
            except TimeoutError:
                return False
        return True

    async def _listen(self) -> None:
        connection = await _LookConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name="ledger api looker",
            options=options_of(self._conninfo, FOR_EVERYONE),
        )
        async with connection:
            await self._take(await self._look(connection), is_first=True)
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._take(await self._look(connection))

    async def _look(self, connection: psycopg.AsyncConnection[Any]) -> list[Any]:
        began = time.monotonic()
        try:
            cursor = await connection.execute(_LOOK)
            return await cursor.fetchall()
        except psycopg.OperationalError as error:
            if time.monotonic() - began >= _LookConnection.patience:
                raise SilentServer from error
            raise

    async def _take(self, rows: list[Any], *, is_first: bool = False) -> None:
        """Take what a look has found."""
        await self.versions.load({name: version for *_, name, _, _, version in rows if name})
        self._is_standby, log_end, beaten_at, self._known_until, *_ = rows[0]
        if beaten_at is not None and (self._beaten_at is None or beaten_at > self._beaten_at):
            self._beaten_at, self._rose_at = beaten_at, time.monotonic()
        views = {name: (position, stopped) for *_, name, position, stopped, _ in rows if name}
        self._stopped = {name for name, (_, stopped) in views.items() if stopped}
        if is_first or log_end != self._log_end:
            # Among the new events may be an erasure, which no notification tells here.
            self._log_end = log_end
            self._announce_erased(None)
        for name, (position, _) in views.items():
            if self._positions.get(name) != position:
                self._positions[name] = position
                self._announce(name, position)
        if is_first:
            self._expect({n: p if stopped else log_end for n, (p, stopped) in views.items()})
        self._settle()
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
