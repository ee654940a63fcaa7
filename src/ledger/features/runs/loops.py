"""The lease watch: fails the runs whose leases have ended.

An index names candidates; the writer decides anew (``engine/writer/periodic.py``).
"""

import psycopg
from prometheus_client import Counter
from psycopg.rows import TupleRow

from ledger.engine.log.leases import CHECK_DUE
from ledger.engine.writer.periodic import LeaderSession, Periodic, decided
from ledger.engine.writer.writer import Writer
from ledger.features.runs.commands import ExpireLease

_EXPIRIES = Counter("ledger_lease_expiries", "Runs that failed because their leases had ended.")

_WATCH_SECONDS = 1.0

_LEASES_AT_ONCE = 1000


class LeaseWatch(Periodic):
    """Fails the runs whose leases have ended. ``run_once`` returns how many."""

    def __init__(self, session: LeaderSession, writer: Writer) -> None:
        super().__init__(session, "leases", _WATCH_SECONDS)
        self._writer = writer

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Check ``_LEASES_AT_ONCE`` due leases; after a full batch, there may be more."""
        due = connection.execute(CHECK_DUE.encode(), {"limit": _LEASES_AT_ONCE}).fetchall()
        runs = [run_id for run_id, has_ended in due if has_ended]
        commands = [ExpireLease(run_id, runs) for run_id in runs]
        expired = decided(connection, self._writer, commands)
        _EXPIRIES.inc(expired)
        put_off = sum(1 for _, has_ended in due if has_ended is False)
        # Without progress another round would find the same leases.
        return expired, len(due) == _LEASES_AT_ONCE and put_off + expired > 0
