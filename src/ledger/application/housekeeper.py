"""The housekeeper: records how many refusals were only counted, and drops expired outcomes."""

from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import TupleRow

from ledger.application.carry_out import TellOmitted
from ledger.application.idempotency import KEPT_FOR
from ledger.application.periodic import Periodic, assert_decided
from ledger.application.writer import Writer
from ledger.log.side_tables import DROP_EXPIRED, DUE_OMITTED
from ledger.postgres import locks

_EVERY_SECONDS = 15.0
_TELL_AFTER = timedelta(minutes=1)
"""How long refusals are counted before an event records the count.

A flood of refusals therefore costs one event a minute for each credential.
"""

_CREDENTIALS = 500
_OUTCOMES = 5000
"""Rows of each kind in one round, so that no statement takes long."""


class Housekeeper(Periodic):
    """``run_once`` returns the number of counts recorded and outcomes dropped."""

    def __init__(self, conninfo: str, writer: Writer, clock: Callable[[], datetime]) -> None:
        super().__init__(conninfo, "housekeeper", locks.HOUSEKEEPER, _EVERY_SECONDS)
        self._writer, self._clock = writer, clock

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Record the counts that are due, and drop the outcomes that have expired."""
        now = self._clock()
        due = connection.execute(DUE_OMITTED, (now - _TELL_AFTER, _CREDENTIALS)).fetchall()
        assert_decided(self._writer.submit([TellOmitted(row[0]) for row in due]).result())
        expired = {"until": now - KEPT_FOR, "limit": _OUTCOMES}
        dropped = connection.execute(DROP_EXPIRED, expired).rowcount
        return len(due) + dropped, len(due) == _CREDENTIALS or dropped == _OUTCOMES
