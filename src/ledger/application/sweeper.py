"""The idle sweeper: finds lines that look idle and lets the writer decide (contract, State).

The candidates come from a view. The decision is made under the append lock, from the state that is
current there. A lagging view or a second sweeper can therefore cost a needless check, but never a
wrong or duplicate event.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from ledger.application.commands.lines import GoIdle
from ledger.application.periodic import Periodic, assert_decided
from ledger.application.writer import Writer
from ledger.intake.request import Receipt
from ledger.postgres import locks

_AT_ONCE = 500


@contextmanager
def sweepers_kept_away(conninfo: str) -> Iterator[None]:
    """Let no process decide by time meanwhile: no line becomes idle, and no lease ends.

    A caller that records facts under another time than now needs this: the loops decide by the
    present time.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.STORY,))
        yield


class Sweeper(Periodic):
    """``run_once`` returns the number of lines that went idle.

    ``candidates`` is the statement that finds at most ``limit`` lines that look idle: lines without
    activity since the instant ``agent_runtime`` or, for the other models, ``default``.
    """

    decides_by_time = True

    def __init__(
        self,
        conninfo: str,
        candidates: str,
        writer: Writer,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        every_seconds: float,
    ) -> None:
        super().__init__(conninfo, "sweeper", locks.SWEEPER, every_seconds)
        self._candidates = candidates
        self._writer, self._clock, self._idle_after = writer, clock, idle_after

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Have at most ``_AT_ONCE`` candidates decided; if all went idle, there may be more."""
        now = self._clock()
        deadlines = {
            "agent_runtime": now - self._idle_after("agent_runtime"),
            "default": now - self._idle_after("capacity"),
            "limit": _AT_ONCE,
        }
        rows = connection.execute(self._candidates.encode(), deadlines).fetchall()
        outcomes = self._writer.submit([GoIdle(row[0]) for row in rows]).result()
        assert_decided(outcomes)
        idle = sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)
        return idle, idle == _AT_ONCE
