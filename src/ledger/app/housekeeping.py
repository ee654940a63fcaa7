"""The loops that hand due commands to the writer: sweeper, lease watch, housekeeper.

Candidates come from a view, an index or a table. The decision is made under the append lock,
from the state that is current there. A lagging view or a second process can therefore cost a
needless check, but never a wrong or duplicate event (contract, State, Facts).
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import psycopg
from prometheus_client import Counter
from psycopg.rows import TupleRow

from ledger.engine.log.leases import LOOK_AT_DUE
from ledger.engine.values.values import EARLIEST
from ledger.engine.writer.command import Command
from ledger.engine.writer.group import KEPT_FOR
from ledger.engine.writer.periodic import LedSession, Periodic, assert_decided, present
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.keys.commands import TellOmitted
from ledger.features.lines.commands.lines import GoIdle, LiftHold
from ledger.features.runs.commands import ExpireLease
from ledger.features.sign_in import tables as sessions
from ledger.features.traces.tables import DROP_OLD
from ledger.features.usage.tables import DROP_UNISSUED

_LINES_AT_ONCE = 500

_HOLDS_AT_ONCE = 10_000
"""As many as several requests may put on with one end: a round that comes before the views show
what the last one lifted finds little to do, and leaves the rest for some seconds."""

_EXPIRIES = Counter("ledger_lease_expiries", "Runs that failed because their leases had ended.")

_WATCH_SECONDS = 1.0
"""Between two rounds of the lease watch."""

_LEASES_AT_ONCE = 1000

_EVERY_SECONDS = 15.0
"""Between two rounds of the housekeeper."""

_TELL_AFTER = timedelta(minutes=1)
"""How long refusals are counted before an event records the count.

A flood of refusals therefore costs one event a minute for each credential.
"""

_UNISSUED_AFTER = timedelta(hours=1)
"""So long a document waits for its statement; a request takes seconds."""

_CREDENTIALS = 500
_OUTCOMES = 5000
_SPANS = 20_000
_SESSIONS = 5000
"""Rows of each kind in one round of the housekeeper, so that no statement takes long."""

# The credentials whose counts have waited long enough to become events.
_DUE_OMITTED = "SELECT credential FROM ledger.refusals_omitted WHERE since <= %s LIMIT %s"

# Delete outcomes older than their 24 hours. An append may be replacing such a row at this moment.
# Then this DELETE waits for its commit and evaluates the outer condition again, on the new row
# (READ COMMITTED); the new row is young and stays.
DROP_EXPIRED = """
DELETE FROM ledger.idempotency WHERE recorded_at <= %(until)s AND (credential, path, key) IN (
    SELECT credential, path, key FROM ledger.idempotency
    WHERE recorded_at <= %(until)s ORDER BY recorded_at LIMIT %(limit)s)
"""


def _decided(
    connection: psycopg.Connection[TupleRow], writer: Writer, commands: Sequence[Command]
) -> int:
    """Have the writer decide by the present time; return how many commands changed something.

    None does while a story is told.
    """
    if not commands:
        return 0
    with present(connection) as is_now:
        outcomes = writer.submit(commands).result() if is_now else []
    assert_decided(outcomes)
    return sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)


class Sweeper(Periodic):
    """Makes lines without activity idle, and lifts holds at their ends.

    ``candidates`` is the statement that finds at most ``limit`` lines that look idle: lines without
    activity since the instant ``agent_runtime`` or, for the other models, ``default``. ``holds``
    finds lines whose holds look due at the instant ``now``. ``run_once`` returns how many changed.
    """

    def __init__(
        self,
        session: LedSession,
        candidates: str,
        holds: str,
        writer: Writer,
        clock: Callable[[], datetime],
        idle_after: Callable[[str], timedelta],
        every_seconds: float,
    ) -> None:
        super().__init__(session, "sweeper", every_seconds)
        self._candidates, self._holds = candidates, holds
        self._writer, self._clock, self._idle_after = writer, clock, idle_after

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Have the writer decide about both; if so many changed, there may be more."""
        now = self._clock()
        deadlines = {
            "agent_runtime": now - self._idle_after("agent_runtime"),
            "default": now - self._idle_after("capacity"),
            "limit": _LINES_AT_ONCE,
        }
        due = {"now": now, "limit": _HOLDS_AT_ONCE}
        holds = connection.execute(self._holds.encode(), due).fetchall()
        rows = connection.execute(self._candidates.encode(), deadlines).fetchall()
        commands: list[Command] = [LiftHold(row[0]) for row in holds]
        commands += [GoIdle(row[0]) for row in rows]
        changed = _decided(connection, self._writer, commands)
        return changed, changed >= _LINES_AT_ONCE


class LeaseWatch(Periodic):
    """Fails the runs whose leases have ended. ``run_once`` returns how many."""

    def __init__(self, session: LedSession, writer: Writer) -> None:
        super().__init__(session, "leases", _WATCH_SECONDS)
        self._writer = writer

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Look at ``_LEASES_AT_ONCE`` due leases; if there were so many, there may be more."""
        due = connection.execute(LOOK_AT_DUE.encode(), {"limit": _LEASES_AT_ONCE}).fetchall()
        runs = [run_id for run_id, has_ended in due if has_ended]
        commands = [ExpireLease(run_id, runs) for run_id in runs]
        expired = _decided(connection, self._writer, commands)
        _EXPIRIES.inc(expired)
        put_off = sum(1 for _, has_ended in due if has_ended is False)
        # Without progress another look would find the same leases.
        return expired, len(due) == _LEASES_AT_ONCE and put_off + expired > 0


class Housekeeper(Periodic):
    """Records how many refusals were only counted; drops what is beside the log and has expired.

    Outcomes, documents without a statement, spans and sessions expire; a session that was not used
    for ``idle`` does. ``run_once`` returns the number of counts recorded and of rows dropped.
    """

    def __init__(
        self,
        session: LedSession,
        writer: Writer,
        clock: Callable[[], datetime],
        idle: timedelta,
    ) -> None:
        super().__init__(session, "housekeeper", _EVERY_SECONDS)
        self._writer, self._clock, self._idle = writer, clock, idle
        self._looked_until = EARLIEST
        """Each document that was stored by this instant has its statement, or was dropped."""

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        now = self._clock()
        due = connection.execute(_DUE_OMITTED, (now - _TELL_AFTER, _CREDENTIALS)).fetchall()
        assert_decided(self._writer.submit([TellOmitted(row[0]) for row in due]).result())
        expired = {"until": now - KEPT_FOR, "limit": _OUTCOMES}
        dropped = connection.execute(DROP_EXPIRED, expired).rowcount
        stored = {"after": self._looked_until, "until": now - _UNISSUED_AFTER}
        unissued = connection.execute(DROP_UNISSUED, stored).rowcount
        self._looked_until = stored["until"]
        spans = connection.execute(DROP_OLD.encode(), {"limit": _SPANS}).rowcount
        over = {"now": now, "unused_since": now - self._idle, "limit": _SESSIONS}
        ended = connection.execute(sessions.DROP_OLD.encode(), over).rowcount
        connection.execute(sessions.DROP_USES.encode(), {"now": now})
        has_more = (
            len(due) == _CREDENTIALS
            or dropped == _OUTCOMES
            or spans == _SPANS
            or ended == _SESSIONS
        )
        return len(due) + dropped + unissued + spans + ended, has_more
