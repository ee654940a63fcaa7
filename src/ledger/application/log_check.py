"""The check of the log's older rows, once after an upgrade (contract, Health).

A constraint ties each row's ``recorded_at`` to the stored event. PostgreSQL enforces it on new rows
from the migration on. The rows before it are checked here, in the background: that reads the whole
log, and neither appends nor reads wait for it. A user that may not change the schema may not check
them: the nightly verification compares these rows, too.
"""

import contextlib
import logging

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.background import BackgroundLoop
from ledger.log.verifications import RECORDED_AT, Finding, keep
from ledger.postgres import locks
from ledger.postgres.leadership import LOOK_SECONDS, Candidate

_logger = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
"""The pause before the check is made again, if the database was lost meanwhile."""

_OWNER = "only the table's owner may check them at once"

_CANCEL_SECONDS = 0.2
"""The time between two requests to cancel the check, when the service stops."""

# Whether a constraint of the log was not checked on the rows that are older than it.
_UNCHECKED = """
SELECT EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = 'ledger.ledger_events'::regclass AND NOT convalidated)
"""
_VALIDATE = """
ALTER TABLE ledger.ledger_events VALIDATE CONSTRAINT ledger_events_recorded_at_as_stored
"""
_NOW = "SELECT clock_timestamp(), coalesce(max(notification_id), 0) FROM ledger.ledger_events"


class LogCheck(BackgroundLoop):
    """Runs ``run_once`` until the rows were checked; then its thread ends.

    A check that found a difference is made again at the next start.
    """

    def __init__(self, conninfo: str) -> None:
        super().__init__("log-check")
        self._conninfo = conninfo
        self._candidate = Candidate("log-check", locks.LOG_CHECK)
        self._connection: psycopg.Connection[TupleRow] | None = None

    def run_once(self) -> bool:
        """Check the rows, unless that was done, and keep what was found.

        Returns whether that is done: another process may be at it. Raises PostgreSQL's error if it
        is lost, or if the check is cancelled.
        """
        # Of psycopg's own class, without a time limit: the check of a large log takes minutes.
        with psycopg.connect(
            self._conninfo,
            autocommit=True,
            row_factory=tuple_row,
            application_name="ledger log check",
        ) as connection:
            self._connection = connection
            if connection.execute(_UNCHECKED).fetchone() != (True,):
                return True
            if not self._candidate.take(connection):
                return False
            ((started_at, last),) = connection.execute(_NOW)
            try:
                connection.execute(_VALIDATE)
                differs = False
            except (psycopg.IntegrityError, psycopg.DataError):
                _logger.error("rows of the log differ from their events: ledger verify names them")
                differs = True
            ((ended_at, _),) = connection.execute(_NOW)
            # PostgreSQL names no row, and stops at the first.
            found = Finding(RECORDED_AT, started_at, ended_at, min(last, 1), last, 0, int(differs))
            keep(connection, found)
            return True

    def _serve(self) -> None:
        while not self._stopping.is_set():
            pause = LOOK_SECONDS
            try:
                if self.run_once():
                    return
            except psycopg.errors.InsufficientPrivilege:
                _logger.info("the nightly verification checks the log's older rows: %s", _OWNER)
                return
            except psycopg.Error as error:
                if not self._stopping.is_set():
                    _logger.warning("the log's older rows are not checked yet: %s", error)
                pause = _RETRY_SECONDS
            self._stopping.wait(pause)

    def _interrupt(self) -> None:
        while self._thread.is_alive():
            if self._connection is not None:
                with contextlib.suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=1.0)
            self._thread.join(_CANCEL_SECONDS)
