"""The idle sweeper: finds lines that look idle and lets the writer decide (contract 3).

The candidates come from a view; the decision is made under the append lock, from what is true
there. So a late view or a second sweeper can cost a look, never a wrong or doubled event.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.application.command import Receipt
from ledger.application.commands import GoIdle
from ledger.application.writer import Writer
from ledger.domain.errors import LedgerError
from projections import reading

_LEADER = 7_300_003
"""Advisory lock of the sweeping process."""

_AT_ONCE = 500

_logger = logging.getLogger(__name__)


class Sweeper:
    """``start``/``stop`` around ``run_once``."""

    def __init__(
        self,
        conninfo: str,
        writer: Writer,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        every_seconds: float,
    ) -> None:
        self._conninfo, self._writer, self._clock = conninfo, writer, clock
        self._idle_after, self._every = idle_after, every_seconds
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ledger-sweeper", daemon=True)

    def start(self) -> None:
        """Start the thread. The writer must have been started."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the sweep in hand."""
        self._stopping.set()
        self._thread.join()

    def run_once(self) -> int:
        """Sweep once; the number of lines that went idle. 0 where another process sweeps."""
        connection = self._connect()
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (_LEADER,)).fetchone() != (True,):
            return 0
        try:
            return self._sweep(connection)
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s)", (_LEADER,))

    def _sweep(self, connection: psycopg.Connection[TupleRow]) -> int:
        now = self._clock()
        deadlines = {
            "agent_runtime": now - self._idle_after("agent_runtime"),
            "default": now - self._idle_after("capacity"),
            "limit": _AT_ONCE,
        }
        rows = connection.execute(reading.IDLE_CANDIDATES, deadlines).fetchall()
        outcomes = self._writer.submit([GoIdle(row[0]) for row in rows]).result()
        return sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)

    def _serve(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                # As long as there is more, without pause; the views need a moment in between.
                while self.run_once() == _AT_ONCE and not self._stopping.wait(0.1):
                    pass
            except LedgerError as error:
                _logger.warning("sweep put off: %s", error)
            except psycopg.Error as error:
                _logger.warning("sweeper lost the database: %s", error)
                self._disconnect()
        self._disconnect()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name="ledger sweeper",
                connect_timeout=5,
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
