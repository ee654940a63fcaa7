"""The watch over leases: finds leases that are due and lets the writer decide (contract, Facts).

The due leases come from an index. Whether a lease has ended is decided under the append lock, from
its row there. A second process that watches can therefore cost a needless check, but never an
expiry too many.
"""

import psycopg
from prometheus_client import Counter
from psycopg.rows import TupleRow

from ledger.application.commands.runs import ExpireLease
from ledger.application.periodic import Periodic, assert_decided
from ledger.application.writer import Writer
from ledger.intake.request import Receipt
from ledger.log.leases import LOOK_AT_DUE
from ledger.postgres import locks

_EXPIRIES = Counter("ledger_lease_expiries", "Runs that failed because their leases had ended.")

_EVERY_SECONDS = 1.0
_AT_ONCE = 1000


class LeaseWatch(Periodic):
    """``run_once`` returns the number of runs that failed."""

    decides_by_time = True

    def __init__(self, conninfo: str, writer: Writer) -> None:
        super().__init__(conninfo, "leases", locks.LEASES, _EVERY_SECONDS)
        self._writer = writer

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Look at ``_AT_ONCE`` due leases; if there were so many, there may be more."""
        due = connection.execute(LOOK_AT_DUE.encode(), {"limit": _AT_ONCE}).fetchall()
        runs = [run_id for run_id, has_ended in due if has_ended]
        outcomes = self._writer.submit([ExpireLease(run_id, runs) for run_id in runs]).result()
        assert_decided(outcomes)
        expired = sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)
        _EXPIRIES.inc(expired)
        put_off = sum(1 for _, has_ended in due if has_ended is False)
        # Without progress another look would find the same leases.
        return expired, len(due) == _AT_ONCE and put_off + expired > 0
