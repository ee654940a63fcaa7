"""The positions of the views on a read node, whose server may be a standby.

The contract, Several nodes, says what such a node answers.

A standby takes no LISTEN. So the process polls the replicated positions of the views some thirty
times a second, with the last beat of the log. The beat tells how old this state is, and up to which
instant every event is there. The age counts by the clock of the database that is read, as for
writers: this machine's may be wrong.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg

from ledger.engine.postgres.clocks import is_wrong, skew
from ledger.engine.postgres.exchange import SilentServer
from ledger.engine.postgres.pool.scope import FOR_EVERYONE
from ledger.engine.postgres.session import AsyncRoundConnection, options_of
from ledger.engine.postgres.timing import BEAT_ANSWER_SECONDS, LATE_SECONDS, WAIT_SECONDS
from ledger.engine.reads.positions import Versions, View, ViewPositions

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.03

# The state of the log, with a row for each view.
_STATE = """
SELECT known.*, p.name, p.position, p.stopped_at IS NOT NULL, p.version
FROM (
    SELECT pg_is_in_recovery(), COALESCE(ledger.log_end(), 0), ledger.beaten_at(),
        ledger.known_until(), clock_timestamp()
) AS known (is_standby, log_end, beaten_at, until, now)
LEFT JOIN ledger.projection AS p ON true
"""


class _PollConnection(AsyncRoundConnection[Any]):
    """The polling connection: its server counts as silent without a reply in this time."""

    max_wait = BEAT_ANSWER_SECONDS


class ReplicatedPositions(ViewPositions):
    """The positions, polled from the database that the reads of this process use."""

    def __init__(
        self, conninfo: str, clock: Callable[[], datetime], versions: Versions | None = None
    ) -> None:
        super().__init__(conninfo, versions, name="ledger api looker")
        self._clock = clock
        self._log_end = 0
        self._is_standby: bool | None = None
        """True if the server is a standby; None before the first poll."""
        self._beaten_at: datetime | None = None
        self._rose_at = self._made_at = 0.0
        """When the beat was last seen to rise, and when it was made, by the monotonic clock."""
        self._complete_until: datetime | None = None
        self._looked = asyncio.Event()
        """Set by each poll; waiters take the event before they wait, and find a new one then."""

    @property
    def beat_seconds(self) -> float:
        """The age of the last beat that this process has seen; infinite before the first one."""
        return float("inf") if self._beaten_at is None else time.monotonic() - self._made_at

    @property
    def why_late(self) -> str | None:
        """Why the server, a standby, is too far behind; unknown counts as late."""
        if self._is_standby is False or (age := self.beat_seconds) <= LATE_SECONDS:
            return None
        if self._beaten_at is None:
            return "no beat of the log has been seen yet"
        silence = time.monotonic() - self._rose_at
        if silence > LATE_SECONDS:
            return f"the log's last beat came {silence:.0f} s ago"
        return (
            f"the log's last beat is {age:.0f} s old, though beats come: the replication is slow,"
            " or the clocks of the standby and the primary differ"
        )

    async def wait_for_instant(self, instant: datetime) -> bool:
        """Wait until every event by the instant is there. Return False if it is late."""
        time_ = asyncio.get_running_loop().time
        deadline = time_() + WAIT_SECONDS
        while self._complete_until is None or self._complete_until <= instant:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._looked.wait()
            except TimeoutError:
                return False
        return True

    async def listen(self, begun: Callable[[], None] = lambda: None) -> None:
        connection = await _PollConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name=self._name,
            options=options_of(self._conninfo, FOR_EVERYONE),
        )
        async with connection:
            await self._apply(*await self._poll(connection), is_first=True)
            begun()
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                await self._apply(*await self._poll(connection))

    async def _poll(self, connection: psycopg.AsyncConnection[Any]) -> tuple[float, list[Any]]:
        """Return the monotonic time before the poll, and its rows."""
        began, sent_at = time.monotonic(), self._clock_seconds()
        try:
            cursor = await connection.execute(_STATE)
            rows = await cursor.fetchall()
        except psycopg.OperationalError as error:
            if time.monotonic() - began >= _PollConnection.max_wait:
                raise SilentServer from error
            raise
        self._note_skew(skew(sent_at, rows[0][4].timestamp(), self._clock_seconds()))
        return began, rows

    def _clock_seconds(self) -> float:
        return self._clock().timestamp()

    def _note_skew(self, found: float) -> None:
        was_wrong, self.clock_skew = is_wrong(self.clock_skew), found
        if is_wrong(found) and not was_wrong:
            _logger.error("the clock is %+.1f s off, compared with the database's", found)
        elif was_wrong and not is_wrong(found):
            _logger.warning("the clock is right again")

    async def _apply(self, began: float, rows: list[Any], *, is_first: bool = False) -> None:
        """Take the rows of a poll that began then: perhaps the process stood still since."""
        views = [View(*row[-4:]) for row in rows if row[-4] is not None]
        await self.versions.load({view.name: view.version for view in views})
        self._is_standby, log_end, beaten_at, self._complete_until, now, *_ = rows[0]
        if beaten_at is not None and (self._beaten_at is None or beaten_at > self._beaten_at):
            self._beaten_at, self._rose_at = beaten_at, began
            self._made_at = began - max(0.0, (now - beaten_at).total_seconds())
        if is_first or log_end != self._log_end:
            # Among the new events may be an erasure, which no notification tells here.
            self._log_end = log_end
            self._announce_erased(None)
        self._show(views, log_end if is_first else None)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
