"""Leadership: one session at a time leads the loops of a process (contract, Several nodes).

A session leads from the moment it gets the advisory locks of all loops of its process until it
ends, so there are never two leaders. A leader writes through that session, or asserts where the
write goes on, or is decided anew under the append lock. So a leader that was frozen and wakes finds
its session ended, and can do no harm.

    rival ── a lock is taken ──▶ check again in a second ── no beat for 8 s ──▶ end the session
      └──── all are free ────▶ leader ── session lost ──▶ rival

Each loop has its own lock, which means the same to every version, even to one that groups the loops
otherwise. A session that gets only some of its locks gives them back at once, so a newer node leads
once the older nodes have left each of its loops.

PostgreSQL gives back the locks of a dead process at once, but never those of a frozen one. So each
process beats: every second a thread of its own writes the rows' ``beaten_at``, for all loops that
the process leads. A frozen process stops beating; a process in a long statement goes on. A rival
that sees the same beat for ``FROZEN_SECONDS`` ends all sessions by which that process leads.
"""

import logging
import os
import select
import time
from collections.abc import Callable, Generator, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.background import BackgroundLoop
from ledger.engine.postgres import timing
from ledger.engine.postgres.clocks import is_wrong, skew
from ledger.engine.postgres.session import RoundConnection, options_of

_logger = logging.getLogger(__name__)

# Try to lead: take the locks in order, up to the first that is taken, and write the rows in the
# same statement. If one is taken, its loop's row names the leader, and the others are given back.
_TRY_LEAD = """
WITH taken AS MATERIALIZED (
    SELECT loop FROM unnest(%(loops)s::text[], %(locks)s::bigint[]) AS l (loop, lock)
    WHERE NOT pg_try_advisory_lock(lock) LIMIT 1
), noted AS (
    INSERT INTO ledger.leader AS l (loop, node_id, process, pid, led_since, beaten_at)
    SELECT loop, coalesce(current_setting('ledger.node_id', true), ''),
        coalesce(current_setting('ledger.process', true), ''), pg_backend_pid(),
        clock_timestamp(), clock_timestamp()
    FROM unnest(%(loops)s::text[]) AS loop WHERE NOT EXISTS (SELECT FROM taken)
    ON CONFLICT (loop) DO UPDATE SET node_id = excluded.node_id, process = excluded.process,
        pid = excluded.pid, led_since = excluded.led_since, beaten_at = excluded.beaten_at
)
SELECT taken.loop, l.pid, l.beaten_at::text, pg_advisory_unlock_all()
FROM taken LEFT JOIN ledger.leader AS l USING (loop)
"""

# End the session that leads a loop, if it still holds the loop's lock in this database and its
# process has not beaten since. End the other sessions by which that process leads too. A lock of
# one key has its halves in classid and objid.
_END = """
WITH held AS MATERIALIZED (
    SELECT pid, objsubid = 1 AND classid::bigint = %(lock)s::bigint >> 32
        AND objid::bigint = %(lock)s::bigint & 4294967295 AS is_asked
    FROM pg_locks WHERE locktype = 'advisory' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT pg_terminate_backend(ended.pid, 1000) FROM (
    SELECT DISTINCT l.pid
    FROM ledger.leader AS seen JOIN ledger.leader AS l
        ON l.process = seen.process AND l.process <> '' OR l.loop = seen.loop
    WHERE seen.loop = %(loop)s AND seen.pid = %(pid)s
      AND seen.beaten_at = %(beaten_at)s::timestamptz
      AND seen.pid IN (SELECT pid FROM held WHERE is_asked) AND l.pid IN (SELECT pid FROM held)
) AS ended
"""

# Beat for all loops that the process leads. A row whose session has ended gets no beat.
_BEAT = """
WITH beat AS (
    UPDATE ledger.leader AS l SET beaten_at = clock_timestamp()
    WHERE l.process = %(process)s AND EXISTS (
        SELECT FROM pg_locks AS k WHERE k.locktype = 'advisory' AND k.granted AND k.pid = l.pid)
)
SELECT extract(epoch FROM clock_timestamp())::float8
"""

_Statement = tuple[str, Mapping[str, Any]]
"""A statement with its values."""


def at_node(conninfo: str, node_id: str) -> str:
    """The connection string of a node: its name marks the loops that its sessions lead."""
    return make_conninfo(conninfo, options=options_of(conninfo, f"-c ledger.node_id={node_id}"))


class _Leader(NamedTuple):
    """A leader as a rival has seen it, at the first loop that it holds."""

    loop: str
    pid: int
    beaten_at: str


class Candidate:
    """A process's attempts to lead its loops, by one session after the other.

    ``loops`` has the lock of each. All are led, or none.
    """

    def __init__(self, loops: Mapping[str, int]) -> None:
        self._loops = loops
        self.leads = False
        """True if a session leads, as far as its owner knows. The owner sets it to False at its
        end."""
        self._leader: _Leader | None = None
        self._since = self._looked_at = 0.0
        """When the leader was first seen with this beat, and when last."""
        self._left_until = 0.0

    def try_lead(self, connection: psycopg.Connection[Any]) -> bool:
        """Try to lead for as long as the connection lives. A session that leads sends nothing more.

        Returns False while the lead is left to others. A frozen leader is ended first. After an
        error, close the connection: it may hold the locks.
        """
        attempt = self._attempt()
        try:
            query = next(attempt)
            while True:
                query = attempt.send(connection.execute(*_sent(query)).fetchone())
        except StopIteration:
            return self.leads

    async def try_lead_async(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        """Do the same on an event loop."""
        attempt = self._attempt()
        try:
            query = next(attempt)
            while True:
                query = attempt.send(await (await connection.execute(*_sent(query))).fetchone())
        except StopIteration:
            return self.leads

    def _attempt(self) -> Generator[_Statement, TupleRow | None]:
        """Yield the statements of an attempt, and get the row of each."""
        self.leads = False
        if self.is_left:
            return
        wanted = {"loops": [*self._loops], "locks": [*self._loops.values()]}
        row = yield _TRY_LEAD, wanted
        if (frozen := self._frozen(row)) is not None:
            if (yield _END, frozen._asdict() | {"lock": self._loops[frozen.loop]}) is not None:
                _logger.warning("the leader of %s was frozen: its session is ended", frozen.loop)
            row = yield _TRY_LEAD, wanted
        self.leads = row is None

    @property
    def is_left(self) -> bool:
        """True if the lead is left to others; the owner of the leading session then closes it."""
        return time.monotonic() < self._left_until

    def leave(self) -> None:
        """Leave the lead to other nodes for a while, since this one cannot do the work."""
        self._left_until = time.monotonic() + timing.LEFT_SECONDS

    def _frozen(self, row: TupleRow | None) -> _Leader | None:
        """Note the result of a check. Return the leader if it is frozen."""
        now = time.monotonic()
        if row is None or row[1] is None:
            self._leader = None
            return None
        leader = _Leader(*row[:3])
        if leader != self._leader or now - self._looked_at > timing.APART_SECONDS:
            self._leader, self._since = leader, now
        self._looked_at = now
        if now - self._since < timing.FROZEN_SECONDS:
            return None
        self._leader = None
        return leader


def _sent(query: _Statement) -> tuple[bytes, Mapping[str, Any]]:
    return query[0].encode(), query[1]


class _BeatConnection(RoundConnection[TupleRow]):
    """The connection of beats. It gives up a silent server before a rival's time limit is over."""

    max_wait = timing.BEAT_ANSWER_SECONDS


class LeadBeat(BackgroundLoop):
    """Beats each second for the loops that this process leads, by sessions of ``conninfo``.

    It has its own thread and connection, so neither a long statement nor a long round delays the
    beat.
    """

    commits: ClassVar[str] = "off"
    """PostgreSQL's ``synchronous_commit`` of the beats: they need not reach the disk."""

    def __init__(self, conninfo: str) -> None:
        super().__init__("beat")
        self._process = os.urandom(8).hex()
        marked = options_of(conninfo, f"-c ledger.process={self._process}")
        self.conninfo = make_conninfo(conninfo, options=marked)
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._fault: str | None = None
        self._skew = 0.0

    def corrected(self, clock: Callable[[], datetime]) -> Callable[[], datetime]:
        """The clock, corrected by the database's if the machine's is clearly wrong."""
        return lambda: clock() - timedelta(seconds=self._skew)

    def beat(self, connection: psycopg.Connection[TupleRow]) -> str | None:
        """Beat, and compare the clocks. Return the fault, or None."""
        sent_at = time.time()
        ((at,),) = connection.execute(_BEAT, {"process": self._process})
        found = skew(sent_at, at, time.time())
        self._skew = found if is_wrong(found) else 0.0
        return None

    def beat_once(self) -> None:
        """Beat, and log a fault. Raises psycopg.Error if the database cannot be used."""
        if self._connection is None:
            self._connection = _BeatConnection.connect(
                self.conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name="ledger beat",
                options=options_of(
                    self.conninfo,
                    f"-c synchronous_commit={self.commits}",
                    # A process that freezes within a beat must not keep the rows from a rival.
                    f"-c idle_in_transaction_session_timeout={timing.HELD_SECONDS}s",
                ),
            )
        self._tell(self.beat(self._connection))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self.beat_once()
            except psycopg.Error as error:
                why = str(error).partition("\n")[0]
                self._tell(f"the database cannot be used: {why}")
                self.disconnect()
            except Exception:
                _logger.exception("beat: failed")
                self.disconnect()
            self._stopping.wait(max(0.0, timing.BEAT_SECONDS - (time.monotonic() - began)))
        self.disconnect()

    def _tell(self, fault: str | None) -> None:
        """Log each fault once."""
        if fault is not None and self._fault is None:
            _logger.warning("beat: %s", fault)
        self._fault = fault

    def disconnect(self) -> None:
        """Close the connection. The next beat opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def assert_alive(connection: psycopg.Connection[Any]) -> None:
    """Raise psycopg.OperationalError if the server has ended an idle session."""
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    while socket.poll(0):
        connection.pgconn.consume_input()
