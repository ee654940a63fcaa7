"""The idle sweeper: finds lines that look idle and lets the writer decide (contract 3).

The candidates come from a view; the decision is made under the append lock, from what is true
there. So a late view or a second sweeper can cost a look, never a wrong or doubled event.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from ledger.application.commands.lines import GoIdle
from ledger.application.periodic import Periodic
from ledger.application.writer import Writer
from ledger.intake.request import Receipt
from ledger.postgres import locks

_AT_ONCE = 500


@contextmanager
def sweepers_kept_away(conninfo: str) -> Iterator[None]:
    """No process sweeps meanwhile: for who records what was true at another time than now."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.SWEEPER,))
        yield


class Sweeper(Periodic):
    """``run_once`` gives the number of lines that went idle.

    ``candidates`` is the statement that finds lines which look idle: quiet since ``agent_runtime``
    or, of the other models, since ``default``; at most ``limit`` of them.
    """

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
        """Sweep once."""
        now = self._clock()
        deadlines = {
            "agent_runtime": now - self._idle_after("agent_runtime"),
            "default": now - self._idle_after("capacity"),
            "limit": _AT_ONCE,
        }
        rows = connection.execute(self._candidates.encode(), deadlines).fetchall()
        outcomes = self._writer.submit([GoIdle(row[0]) for row in rows]).result()
        idle = sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)
        return idle, idle == _AT_ONCE
