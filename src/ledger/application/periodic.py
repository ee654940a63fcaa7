"""A loop that works now and then, in one process a database at a time: ``run_once`` on a thread."""

import logging

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.background import BackgroundLoop
from ledger.domain.errors import LedgerError
from ledger.postgres.session import RoundConnection

_logger = logging.getLogger(__name__)

_BREATH_SECONDS = 0.1
"""Between two rounds where there is more to do: the views need a moment."""


class Periodic(BackgroundLoop):
    """Runs ``run_once`` now and then; a subclass gives ``work``. The writer starts before it."""

    def __init__(self, conninfo: str, name: str, leader: int, every_seconds: float) -> None:
        super().__init__(name)
        self._conninfo, self._name = conninfo, name
        self._leader, self._every = leader, every_seconds
        self._connection: psycopg.Connection[TupleRow] | None = None

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """One round: how much was done, and whether there is more."""
        raise NotImplementedError

    def run_once(self) -> int:
        """One round; how much was done. 0 where another process is at it."""
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
                # As long as there is more, almost without pause.
                while self._round()[1] and not self._stopping.wait(_BREATH_SECONDS):
                    pass
            except LedgerError as error:
                _logger.warning("%s: put off: %s", self._name, error)
            except psycopg.Error as error:
                # Lost, or without the view that is asked, which is being built.
                _logger.warning("%s: put off, says the database: %s", self._name, error)
                self._disconnect()
            except Exception:
                # A fault of ours: the next round may well be without it.
                _logger.exception("%s: a round failed", self._name)
                self._disconnect()
        self._disconnect()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = RoundConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name=f"ledger {self._name}",
            )
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
