"""The log of a process: its appends, on a connection of its own, and reads in log order.

The events table, the mapper and the stored event are those of the eventsourcing library. The
library's recorder is not used, for three reasons. Its pipelined insert hangs for ever, holding the
lock, once a batch fills the socket's buffer. The ledger decides inside the append transaction. The
library's lock is on the events table itself. (Without that lock, with its option
``enable_db_functions``, a reader that tails the log would lose events for good.)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from ledger.engine.log.append import Append, StoredRow
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.lineage import Follower, Lineage, ask
from ledger.engine.postgres.pipeline import Pipeline, Statement
from ledger.engine.postgres.session import DURABLE, AppendConnection, hosts_of, options_of
from ledger.engine.postgres.timing import CONNECT_SECONDS, HELD_SECONDS, LOCK_SECONDS

# The log in order, after a position: at most $2 events, and no further event after $3 bytes.
_READ = b"""
SELECT originator_id, originator_version, topic, state, notification_id
FROM (
    SELECT *, sum(octet_length(state))
        OVER (ORDER BY notification_id ROWS UNBOUNDED PRECEDING) - octet_length(state) AS before
    FROM ledger.ledger_events
    WHERE notification_id > $1
    ORDER BY notification_id
    LIMIT $2
) AS next
WHERE before < $3
ORDER BY notification_id
"""

# The append lock is on a table of its own, in the library's mode, not on the events table. There
# VACUUM's lock conflicts with every mode by which appends could exclude each other, so a vacuum of
# the log would make appends fail. (Autovacuum gives way, so appends would wait a second for it, and
# it would never finish.) The lock timeout is an option of the connection: this saves a statement
# per append.
_LOCK = Statement(b"LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")

_TIMEOUTS = (
    f"-c lock_timeout={LOCK_SECONDS}s -c idle_in_transaction_session_timeout={HELD_SECONDS}s"
)

_READ_ONLY_ERRORS = (errors.ReadOnlySqlTransaction, errors.ObjectNotInPrerequisiteState)
"""The errors of an append on a standby or a read-only server."""

_READ_BYTES = 16 * 1024 * 1024

_AGAIN_SECONDS = 0.25
"""The time between two attempts to connect while an append waits."""


def planned_once(conninfo: str) -> str:
    """Return the options of a connection that executes the same few statements through indexes.

    The statements get generic plans, made once a connection: planning each execution takes a good
    part of a small group's time. A generic plan stays, and on a new ledger it is made while the
    tables are empty. So sequential scans are off: otherwise a plan could scan a table that has a
    million rows by now.
    """
    return options_of(conninfo, "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off")


class Log:
    """The log of a process, whose appends come one after the other."""

    lock = _LOCK
    wall: Callable[[], float] = staticmethod(time.time)
    """The machine's clock in seconds, with which the database's is compared."""
    steady: Callable[[], float] = staticmethod(time.monotonic)
    """A clock that nobody sets, in seconds."""
    heeds_beats = True
    """True if events are recorded after the last beat: all except those of the demo's story."""
    on_elsewhere: Callable[[], object] = staticmethod(lambda: None)
    """The writer's thread calls it when a new connection has led to another PostgreSQL."""

    def __init__(self, conninfo: str) -> None:
        self.codec = EnvelopeMapper()
        self._conninfo = conninfo
        self._pipeline: Pipeline | None = None
        """The pipeline on the connection: it knows the prepared statements."""
        self._follower: Follower | None = None
        """Follows to the PostgreSQL of a new connection, until its first append has succeeded.
        After another connection to the same PostgreSQL it goes on, and moves the positions no
        further."""
        self._lineage: Lineage | None = None
        """The PostgreSQL of the connection."""

    @contextmanager
    def append_transaction(self) -> Iterator[Append]:
        """A transaction that holds the append lock from its first read until its COMMIT.

        The isolation level is READ COMMITTED, so every statement after the lock sees all earlier
        commits. Raises psycopg.OperationalError if the lock is not granted within ``lock_timeout``,
        if a reply does not come within ``ANSWER_SECONDS``, or if the server takes no writes.
        """
        pipeline = self.connected()
        with _leaving_standbys(pipeline), pipeline.transaction(self.lock) as transaction:
            follower = self._follower
            if follower is not None:
                follower.follow(transaction)
            yield Append(
                transaction,
                self.wall,
                self.steady,
                is_first=follower is not None,
                heeds_beats=self.heeds_beats,
            )
        self._follower = None

    def connected(self) -> Pipeline:
        """The connection, or a new one if PostgreSQL has closed it, as at a restart."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.connection.closed or pipeline.is_lost():
            self.close()
            pipeline = self._pipeline = self._begun(Pipeline(self._connect()))
        return pipeline

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.connection.close()

    def _connect(self) -> AppendConnection[TupleRow]:
        """Connect; retry until each host may have been tried. Raises OperationalError.

        An append waits no longer, since a write may have to wait for two groups: the previous one
        and its own.
        """
        timeout = CONNECT_SECONDS * hosts_of(self._conninfo)
        deadline = time.monotonic() + timeout
        options = conninfo_to_dict(self._conninfo)
        while True:
            try:
                return AppendConnection.connect(
                    self._conninfo,
                    autocommit=True,
                    application_name="ledger",
                    connect_timeout=options.get("connect_timeout", CONNECT_SECONDS),
                    options=f"{planned_once(self._conninfo)} {_TIMEOUTS}",
                )
            except psycopg.OperationalError as error:
                if time.monotonic() + _AGAIN_SECONDS >= deadline:
                    why = f"couldn't get a connection in {timeout} s"
                    raise psycopg.OperationalError(why) from error
            time.sleep(_AGAIN_SECONDS)

    def _begun(self, pipeline: Pipeline) -> Pipeline:
        """Begin to use a new connection: find out which PostgreSQL it has led to."""
        try:
            with _leaving_standbys(pipeline):
                lineage = ask(pipeline, Statement(DURABLE))
        except BaseException:
            pipeline.connection.close()
            raise
        if self._follower is None or lineage != self._lineage:
            self._follower = Follower(lineage)
        before, self._lineage = self._lineage, lineage
        if before not in (None, lineage):
            self.on_elsewhere()
        return pipeline


@contextmanager
def _leaving_standbys(pipeline: Pipeline) -> Iterator[None]:
    """Close the connection if its server takes no writes: the next append connects again.

    The primary may have become a standby. Raises psycopg.OperationalError instead.
    """
    try:
        yield
    except _READ_ONLY_ERRORS as error:
        pipeline.connection.close()
        raise psycopg.OperationalError(str(error)) from error


def read_log(pipeline: Pipeline, after: int, limit: int) -> list[StoredRow]:
    """Return stored events after a position, in order, without gaps (because of the append lock).

    If events are large there may be fewer than ``limit``, but at least one if any exists.
    """
    return pipeline.run(reading(after, limit))[0]


def reading(after: int, limit: int) -> Statement:
    return Statement(_READ, (after, limit, _READ_BYTES))


def is_full(rows: Sequence[StoredRow], limit: int) -> bool:
    """True if the log may have more events than ``read_log`` returned."""
    return len(rows) == limit or sum(len(row[3]) for row in rows) >= _READ_BYTES
