"""The sweeper: makes quiet lines idle, and lifts holds at their ends.

The view names candidates; the writer decides anew (``engine/writer/periodic.py``).
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.writer.command import Command
from ledger.engine.writer.periodic import LeaderSession, Periodic, decided
from ledger.engine.writer.writer import Writer
from ledger.features.lines.commands.lines import GoIdle, LiftHold
from projections.lines.statements import DUE_HOLDS, IDLE_CANDIDATES

_LINES_AT_ONCE = 500

_HOLDS_AT_ONCE = 10_000
"""As many holds as several requests may put on with one end. If a round comes before the views show
what the last one lifted, it finds little to do, and leaves the rest for some seconds."""


class Sweeper(Periodic):
    """Makes lines without activity idle, and lifts holds at their ends.

    ``run_once`` returns how many lines changed.
    """

    def __init__(
        self,
        session: LeaderSession,
        writer: Writer,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        every_seconds: float,
    ) -> None:
        super().__init__(session, "sweeper", every_seconds)
        self._writer, self._clock, self._idle_after = writer, clock, idle_after

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Submit the candidates of both kinds. After a full batch there may be more."""
        now = self._clock()
        deadlines = {
            "agent_runtime": now - self._idle_after("agent_runtime"),
            "default": now - self._idle_after("capacity"),
            "limit": _LINES_AT_ONCE,
        }
        due = {"now": now, "limit": _HOLDS_AT_ONCE}
        holds = connection.execute(DUE_HOLDS.encode(), due).fetchall()
        rows = connection.execute(IDLE_CANDIDATES.encode(), deadlines).fetchall()
        commands: list[Command] = [LiftHold(row[0]) for row in holds]
        commands += [GoIdle(row[0]) for row in rows]
        changed = decided(connection, self._writer, commands)
        return changed, changed >= _LINES_AT_ONCE
