"""The leaders: each loop is led by one session at a time (contract, Several nodes).

A session leads a loop from the moment it gets the loop's advisory lock until it ends, so there are
never two leaders. All writes of a leader go through that session, or are decided anew under the
append lock: a leader that was frozen and wakes finds its session ended, and can do no harm.

    rival ── the lock is taken ──▶ look again in a second ── no beat for 8 s ──▶ end the session
      └──── the lock is free ────▶ leader ── session lost ──▶ rival

PostgreSQL gives the lock of a dead process back at once, but that of a frozen one never. So each
process beats: a thread of its own writes each second, for all loops that the process leads, the
row's ``beaten_at``. A frozen process beats no more; a process in a long statement does. A rival
that sees the same beat for ``FROZEN_SECONDS`` ends the session that holds the lock, and leads.
"""

import logging
import os
import select
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from ledger.postgres import timing
from ledger.postgres.beat import Beat
from ledger.postgres.clocks import is_wrong, skew
from ledger.postgres.session import RoundConnection, options_of

_logger = logging.getLogger(__name__)

# Try to lead a loop: take its lock, and write its row in the same statement. Else the row tells who
# leads.
_TAKE = """
WITH took AS MATERIALIZED (SELECT pg_try_advisory_lock(%(lock)s::bigint) AS leads),
noted AS (
    INSERT INTO ledger.leader AS l (loop, node_id, process, pid, led_since, beaten_at)
    SELECT %(loop)s, coalesce(current_setting('ledger.node_id', true), ''),
        coalesce(current_setting('ledger.process', true), ''), pg_backend_pid(),
        clock_timestamp(), clock_timestamp()
    FROM took WHERE leads
    ON CONFLICT (loop) DO UPDATE SET node_id = excluded.node_id, process = excluded.process,
        pid = excluded.pid, led_since = excluded.led_since, beaten_at = excluded.beaten_at
)
SELECT took.leads, l.pid, l.beaten_at::text
FROM took LEFT JOIN ledger.leader AS l ON l.loop = %(loop)s
"""

# End the session that leads a loop, if it still holds the loop's lock in this database, and has not
# beaten since. A lock of one key has its halves in classid and objid.
_END = """
SELECT pg_terminate_backend(l.pid, 1000)
FROM ledger.leader AS l
WHERE l.loop = %(loop)s AND l.pid = %(pid)s AND l.beaten_at = %(beaten_at)s::timestamptz
  AND EXISTS (
    SELECT FROM pg_locks AS k
    WHERE k.locktype = 'advisory' AND k.granted AND k.pid = l.pid AND k.objsubid = 1
      AND k.classid::bigint = %(lock)s::bigint >> 32
      AND k.objid::bigint = %(lock)s::bigint & 4294967295
      AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""

# Beat for all loops that the process leads. A row whose session has ended beats no more.
_BEAT = """
WITH beat AS (
    UPDATE ledger.leader AS l SET beaten_at = clock_timestamp()
    WHERE l.process = %(process)s AND EXISTS (
        SELECT FROM pg_locks AS k WHERE k.locktype = 'advisory' AND k.granted AND k.pid = l.pid)
)
SELECT extract(epoch FROM clock_timestamp())::float8
"""


def at_node(conninfo: str, node_id: str) -> str:
    """The connection string of a node: the loops that its sessions lead have its name."""
    return make_conninfo(conninfo, options=options_of(conninfo, f"-c ledger.node_id={node_id}"))


class _Seen(NamedTuple):
    """A leader as a rival has seen it."""

    pid: int
    beaten_at: str


class Candidate:
    """A loop's attempts to lead, by sessions of one process, one after the other."""

    def __init__(self, loop: str, lock: int) -> None:
        self._loop, self._lock = loop, lock
        self._seen: _Seen | None = None
        self._since = self._looked_at = 0.0
        """When the leader was first seen with this beat, and last."""
        self._left_until = 0.0

    def take(self, connection: psycopg.Connection[Any]) -> bool:
        """Try to lead for as long as the connection lives. A session that leads asks no more.

        False while the lead is left to others. A leader that is frozen is ended first. After an
        error the caller closes the connection: it may hold the lock.
        """
        if self._leaves():
            return False
        row = connection.execute(_TAKE, self._values()).fetchone()
        if (frozen := self._frozen(row)) is not None:
            self._tell(connection.execute(_END, self._values(frozen)).fetchone())
            row = connection.execute(_TAKE, self._values()).fetchone()
        return bool(row and row[0])

    async def take_soon(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        """The same on an event loop."""

        async def ask(statement: str, frozen: _Seen | None = None) -> TupleRow | None:
            cursor = await connection.execute(statement.encode(), self._values(frozen))
            row: TupleRow | None = await cursor.fetchone()
            return row

        if self._leaves():
            return False
        row = await ask(_TAKE)
        if (frozen := self._frozen(row)) is not None:
            self._tell(await ask(_END, frozen))
            row = await ask(_TAKE)
        return bool(row and row[0])

    def leave(self) -> None:
        """Leave the lead to other nodes for a while, since this one cannot do the work.

        The caller closes the connection of the session that leads.
        """
        self._left_until = time.monotonic() + timing.LEFT_SECONDS

    def _leaves(self) -> bool:
        return time.monotonic() < self._left_until

    def _values(self, frozen: _Seen | None = None) -> dict[str, Any]:
        values: dict[str, Any] = {"loop": self._loop, "lock": self._lock}
        return values if frozen is None else values | frozen._asdict()

    def _frozen(self, row: TupleRow | None) -> _Seen | None:
        """Note what a look has found. Return the leader if it is frozen."""
        now = time.monotonic()
        leads, pid, beaten_at = row or (False, None, None)
        if leads or pid is None:
            self._seen = None
            return None
        seen = _Seen(pid, beaten_at)
        if seen != self._seen or now - self._looked_at > timing.APART_SECONDS:
            self._seen, self._since = seen, now
        self._looked_at = now
        if now - self._since < timing.FROZEN_SECONDS:
            return None
        self._seen = None
        return seen

    def _tell(self, ended: TupleRow | None) -> None:
        if ended is not None:
            _logger.warning("the leader of %s was frozen: its session is ended", self._loop)


class _LeadConnection(RoundConnection[TupleRow]):
    """The connection of beats: a silent server is given up before a rival loses patience."""

    patience = timing.BEAT_ANSWER_SECONDS


class LeadBeat(Beat):
    """Beats for the loops that this process leads, by sessions of ``conninfo``."""

    connects_by = _LeadConnection
    # A beat need not reach the disk, nor any standby.
    commits = "off"

    def __init__(self, conninfo: str) -> None:
        self._process = os.urandom(8).hex()
        marked = options_of(conninfo, f"-c ledger.process={self._process}")
        super().__init__(make_conninfo(conninfo, options=marked))
        self._skew = 0.0

    def corrected(self, clock: Callable[[], datetime]) -> Callable[[], datetime]:
        """The clock, set right by the database's if the machine's is clearly wrong."""
        return lambda: clock() - timedelta(seconds=self._skew)

    def beat(self, connection: psycopg.Connection[TupleRow]) -> None:
        """Beat, and compare the clocks."""
        sent_at = time.time()
        ((at,),) = connection.execute(_BEAT, {"process": self._process})
        found = skew(sent_at, at, time.time())
        self._skew = found if is_wrong(found) else 0.0


def assert_alive(connection: psycopg.Connection[Any]) -> None:
    """Raise psycopg.OperationalError if the server has ended a session that waits for nothing."""
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    while socket.poll(0):
        connection.pgconn.consume_input()
