"""The housekeeper: records how many refusals were only counted, and drops expired outcomes.

After an upgrade, the housekeeper also has PostgreSQL check the rows of the log that are older than
a constraint.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from ledger.application.carry_out import TellOmitted
from ledger.application.idempotency import KEPT_FOR
from ledger.application.periodic import Periodic
from ledger.application.writer import Writer
from ledger.log.side_tables import DROP_EXPIRED, DUE_OMITTED
from ledger.postgres import locks

_logger = logging.getLogger(__name__)

_EVERY_SECONDS = 15.0
_TELL_AFTER = timedelta(minutes=1)
"""How long refusals are counted before an event records the count.

A flood of refusals therefore costs one event a minute for each credential.
"""

# Whether a constraint of the log was not checked on the rows that are older than it.
_UNCHECKED = """
SELECT EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = 'ledger.ledger_events'::regclass AND NOT convalidated)
"""
_VALIDATE = """
ALTER TABLE ledger.ledger_events VALIDATE CONSTRAINT ledger_events_recorded_at_as_stored
"""
_VERIFIED = """
INSERT INTO ledger.verification (name, verified_at, differs)
VALUES ('recorded_at', clock_timestamp(), %s)
ON CONFLICT (name) DO UPDATE SET verified_at = excluded.verified_at, differs = excluded.differs
"""

_CREDENTIALS = 500
_OUTCOMES = 5000
"""Rows of each kind in one round, so that no statement takes long."""


class Housekeeper(Periodic):
    """``run_once`` returns the number of counts recorded and outcomes dropped."""

    def __init__(self, conninfo: str, writer: Writer, clock: Callable[[], datetime]) -> None:
        super().__init__(conninfo, "housekeeper", locks.HOUSEKEEPER, _EVERY_SECONDS)
        self._writer, self._clock = writer, clock
        self._has_validated = False

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Record the counts that are due, and drop the outcomes that have expired."""
        if not self._has_validated:
            self._validate(connection)
            self._has_validated = True
        now = self._clock()
        due = connection.execute(DUE_OMITTED, (now - _TELL_AFTER, _CREDENTIALS)).fetchall()
        self._writer.submit([TellOmitted(row[0]) for row in due]).result()
        expired = {"until": now - KEPT_FOR, "limit": _OUTCOMES}
        dropped = connection.execute(DROP_EXPIRED, expired).rowcount
        return len(due) + dropped, len(due) == _CREDENTIALS or dropped == _OUTCOMES

    def _validate(self, connection: psycopg.Connection[TupleRow]) -> None:
        """Check the older rows against the log's constraint, and keep what was found.

        The check reads the whole log. Neither appends nor reads wait for it. A check that failed is
        made again at the next start.
        """
        if connection.execute(_UNCHECKED).fetchone() != (True,):
            return
        try:
            connection.execute(_VALIDATE)
            differs = False
        except (psycopg.IntegrityError, psycopg.DataError):
            _logger.error("rows of the log differ from their events: ledger verify names them")
            differs = True
        connection.execute(_VERIFIED, (differs,))
