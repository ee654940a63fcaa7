"""A periodic loop on a thread; only one process at a time works for a database."""

import logging

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.background import BackgroundLoop
from ledger.domain.errors import LedgerError
from ledger.postgres.session import RoundConnection

_logger = logging.getLogger(__name__)

_BREATH_SECONDS = 0.1
"""The pause between two rounds if there is more to do: the views need a moment to catch up."""


class Periodic(BackgroundLoop):
    """Does a round every ``every_seconds``; a subclass implements ``work``.

    The advisory lock ``leader`` keeps other processes from doing a round at the same time. The
    writer must be started before the loop.
    """

    def __init__(self, conninfo: str, name: str, leader: int, every_seconds: float) -> None:
        super().__init__(name)
        self._conninfo, self._name = conninfo, name
        self._leader, self._every = leader, every_seconds
        self._connection: psycopg.Connection[TupleRow] | None = None

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round; return the amount of work done, and whether there is more to do."""
        raise NotImplementedError

    def run_once(self) -> int:
        """Do one round; return the amount of work done, 0 if another process has the lock."""
        return self._round()[0]

    def _round(self) -> tuple[int, bool]:
        connection = self._connect()
        locked = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._leader,)).fetchone()
        if locked != (True,):
            return 0, False
        try:
            return self.work(connection)
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s)", (self._leader,))

    def _serve(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                # As long as there is more to do, rounds follow each other almost without pause.
                while self._round()[1] and not self._stopping.wait(_BREATH_SECONDS):
                    pass
            except LedgerError as error:
                _logger.warning("%s: round postponed: %s", self._name, error)
            except psycopg.Error as error:
                # The connection was lost, or the view that the round reads is still being built.
                _logger.warning("%s: round postponed, database error: %s", self._name, error)
                self.disconnect()
            except Exception:
                # A bug: the next round may succeed nevertheless.
                _logger.exception("%s: a round failed", self._name)
                self.disconnect()
        self.disconnect()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = RoundConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name=f"ledger {self._name}",
            )
        return self._connection

    def disconnect(self) -> None:
        """Close the connection. The next round opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
