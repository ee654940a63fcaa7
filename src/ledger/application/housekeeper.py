"""The housekeeper: tells how many refusals were only counted, drops outcomes that have expired."""

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

_EVERY_SECONDS = 15.0
_TELL_AFTER = timedelta(minutes=1)
"""How long refusals are counted before an event says so: a flood costs one a minute."""

_CREDENTIALS = 500
_OUTCOMES = 5000
"""At once, so that no statement takes long."""


class Housekeeper(Periodic):
    """``run_once`` gives the number of rows that were seen to."""

    def __init__(self, conninfo: str, writer: Writer, clock: Callable[[], datetime]) -> None:
        super().__init__(conninfo, "housekeeper", locks.HOUSEKEEPER, _EVERY_SECONDS)
        self._writer, self._clock = writer, clock

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """One round of everything."""
        now = self._clock()
        due = connection.execute(DUE_OMITTED, (now - _TELL_AFTER, _CREDENTIALS)).fetchall()
        self._writer.submit([TellOmitted(row[0]) for row in due]).result()
        expired = {"until": now - KEPT_FOR, "limit": _OUTCOMES}
        dropped = connection.execute(DROP_EXPIRED, expired).rowcount
        return len(due) + dropped, len(due) == _CREDENTIALS or dropped == _OUTCOMES
