"""The eventsourcing library's PostgreSQL recorder, with its append path replaced.

The library's table, channel and datastore are kept. ``Append`` replaces ``insert_events``, for two
reasons: the library's pipelined insert hangs for ever, holding the lock, once a batch fills the
socket's buffer; and the ledger's decisions are made inside the append transaction. The library's
lock, which is on the events table itself, is replaced too.

``enable_db_functions`` stays off. With this option the library takes no lock, and a reader that
tails the log loses events for good.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    OperationalError,
    ProgrammingError,
    StoredEvent,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresFactory
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict

from ledger.log.append import Append, StoredRow
from ledger.log.lineage import Follower, Lineage, ask
from ledger.postgres.pipeline import Pipeline, Statement
from ledger.postgres.session import (
    CONNECT_SECONDS,
    DURABLE,
    AppendConnection,
    hosts_of,
    options_of,
)

SCHEMA = "ledger"

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

# The append lock is a lock on a table of its own, in the library's mode, not on the events table:
# VACUUM's lock conflicts with every lock mode by which appends could exclude each other. Appends
# would be refused while a vacuum of the log runs. (Autovacuum gives way, so appends would wait a
# second for it, and it would never finish.) The lock timeout is an option of the connection: this
# saves a statement per append.
_LOCK = Statement(b"LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")

_TAKES_NO_WRITES = (errors.ReadOnlySqlTransaction, errors.ObjectNotInPrerequisiteState)
"""The errors of an append on a server that is a standby or read-only."""

_ADDRESS = ("dbname", "host", "port", "user", "password")
"""The connection parameters for which the library has its own defaults."""

_READ_BYTES = 16 * 1024 * 1024

_AGAIN_SECONDS = 0.25
"""The time between two attempts to connect, as long as an append waits."""


def planned_once(conninfo: str) -> str:
    """Return the options of a connection that executes the same few statements through indexes.

    The statements get generic plans, made once a connection: planning them for each execution takes
    a good part of a small group's time. A generic plan stays, and on a new ledger it is made while
    the tables are empty. So sequential scans are off: otherwise a plan could scan a table that has
    a million rows by now.
    """
    return options_of(conninfo, "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off")


class LedgerRecorder(PostgresApplicationRecorder):
    """Appends under the append lock; reads plain tuples."""

    lock = _LOCK
    """The first statement of an append."""
    wall: Callable[[], float] = staticmethod(time.time)
    """The machine's clock, in seconds: the database's is compared with it."""
    steady: Callable[[], float] = staticmethod(time.monotonic)
    """A clock that nobody sets, in seconds."""
    heeds_beats = True
    """Whether events are recorded after the last beat: all but those of the demo's story are."""
    patience: float = CONNECT_SECONDS
    """For how many seconds an append waits for a connection."""
    _pipeline: Pipeline | None = None
    _follower: Follower | None = None
    """Follows to the PostgreSQL of a new connection, until its first append has succeeded. After
    another connection to the same PostgreSQL it goes on, and moves the positions no further."""
    _lineage: Lineage | None = None
    """The PostgreSQL of the connection."""
    on_elsewhere: Callable[[], object] = staticmethod(lambda: None)
    """Called by the writer's thread when a new connection has led to another PostgreSQL."""

    @contextmanager
    def append_transaction(self) -> Iterator[Append]:
        """A transaction that takes the append lock with its first read, until its COMMIT.

        The isolation level is READ COMMITTED, so every statement after the lock sees all commits
        before the lock was granted. Raises the library's OperationalError if the lock is not
        granted within ``lock_timeout``, if a reply does not come within ``ANSWER_SECONDS``, or if
        the server takes no writes.
        """
        with self._living_connection() as connection, _leaving_standbys(connection):
            with self._pipeline_on(connection).transaction(self.lock) as transaction:
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

    @contextmanager
    def _living_connection(self) -> Iterator[Connection[Any]]:
        """The pool's connection, or a new one if PostgreSQL has closed it, as at a restart.

        The library can only test a connection by a round trip before each use.
        """
        with ExitStack() as given_back:
            connection = self._take(given_back)
            if self._pipeline_on(connection).is_lost():
                connection.close()
                given_back.close()
                connection = self._take(given_back)
            yield connection

    def _take(self, given_back: ExitStack) -> Connection[Any]:
        """Take the pool's connection, until the stack gives it back. Raises OperationalError.

        A pool without a connection connects whenever somebody asks. By itself the pool would pause
        for seconds after a failure, and find a new primary so much later.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return given_back.enter_context(self.datastore.get_connection())
            except OperationalError as error:
                if time.monotonic() >= deadline:
                    why = f"couldn't get a connection in {self.patience:.0f} s"
                    raise OperationalError(why) from error

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Refused: events are written in an ``append_transaction``. Raises ProgrammingError."""
        raise ProgrammingError("events are written in an append_transaction")

    def _pipeline_on(self, connection: Connection[Any]) -> Pipeline:
        """Return the connection's pipeline, which knows its prepared statements."""
        if self._pipeline is None or self._pipeline.connection is not connection:
            pipeline = Pipeline(connection)
            with _leaving_standbys(connection):
                lineage = ask(pipeline, Statement(DURABLE))
            if self._follower is None or lineage != self._lineage:
                self._follower = Follower(lineage)
            before, self._lineage = self._lineage, lineage
            self._pipeline = pipeline
            if before not in (None, lineage):
                self.on_elsewhere()
        return self._pipeline


@contextmanager
def _leaving_standbys(connection: Connection[Any]) -> Iterator[None]:
    """Close the connection if its server takes no writes: the next append connects again.

    The primary may have become a standby. Raises psycopg.OperationalError instead.
    """
    try:
        yield
    except _TAKES_NO_WRITES as error:
        connection.close()
        raise psycopg.OperationalError(str(error)) from error


def read_log(pipeline: Pipeline, after: int, limit: int) -> list[StoredRow]:
    """Return stored events after a position, in order, without gaps (because of the append lock).

    If events are large, the result has fewer than ``limit`` events, but at least one if any exists.
    """
    return pipeline.run(Statement(_READ, (after, limit, _READ_BYTES)))[0]


def is_full(rows: Sequence[StoredRow], limit: int) -> bool:
    """Whether the log may have more events than ``read_log`` returned."""
    return len(rows) == limit or sum(len(row[3]) for row in rows) >= _READ_BYTES


class LedgerFactory(PostgresFactory):
    """The library's factory with our recorder; chosen through ``PERSISTENCE_MODULE``."""

    application_recorder_class = LedgerRecorder

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        if self.datastore.enable_db_functions:
            raise AssertionError("enable_db_functions loses events for tailing readers")
        # Pass on parameters for which the library has no setting (sslmode, keepalives …).
        conninfo = self.env.get("LEDGER_CONNINFO") or ""
        extra = conninfo_to_dict(conninfo)
        # As on other connections, libpq fills in the parameters that the string does not name.
        pool = self.datastore.pool
        kept = {name: value for name, value in pool.kwargs.items() if name not in _ADDRESS}  # type: ignore[union-attr]
        patience = f"-c lock_timeout={self.datastore.lock_timeout}s"
        options = f"{planned_once(conninfo)} {patience}"
        ours = {"application_name": "ledger", "options": options}
        pool.kwargs = {**kept, **extra, **ours}
        pool.connection_class = AppendConnection
        # Connect again soon after a server was lost; the default back-off is five minutes.
        pool.reconnect_timeout = _wait_seconds(conninfo)

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder. Its appends wait until each host of the connection string was tried."""
        recorder = super().application_recorder()
        assert isinstance(recorder, LedgerRecorder)
        recorder.patience = _wait_seconds(self.env.get("LEDGER_CONNINFO") or "")
        # From now on the pool gives up at once, and an append that waits asks again (``_take``).
        pool = self.datastore.pool
        pool.timeout, pool.reconnect_timeout = _AGAIN_SECONDS, 0.0
        return recorder


def _wait_seconds(conninfo: str) -> int:
    """For how long a start, or an append, waits for a connection: until each host was tried.

    No longer, since a write may have to wait for two groups: the previous group and its own.
    """
    return CONNECT_SECONDS * hosts_of(conninfo)


def library_environment(conninfo: str) -> Mapping[str, str]:
    """Return the library's settings for a connection string (URL or key=value).

    ``CREATE_TABLE`` is off: the library's DDL at start-up races between processes. Migrations
    create the table once.
    """
    parts = conninfo_to_dict(conninfo)
    return {
        "PERSISTENCE_MODULE": "ledger.log.recorder:LedgerFactory",
        "POSTGRES_DBNAME": str(parts.get("dbname") or "postgres"),
        "POSTGRES_HOST": str(parts.get("host") or ""),
        "POSTGRES_PORT": str(parts.get("port") or "5432"),
        "POSTGRES_USER": str(parts.get("user") or "postgres"),
        "POSTGRES_PASSWORD": str(parts.get("password") or ""),
        "POSTGRES_SCHEMA": SCHEMA,
        "POSTGRES_CONNECT_TIMEOUT": str(_wait_seconds(conninfo)),
        "POSTGRES_LOCK_TIMEOUT": "2",
        "POSTGRES_IDLE_IN_TRANSACTION_SESSION_TIMEOUT": "5",
        "POSTGRES_POOL_SIZE": "1",
        "POSTGRES_MAX_OVERFLOW": "0",
        "ORIGINATOR_ID_TYPE": "text",
        "CREATE_TABLE": "n",
        "LEDGER_CONNINFO": conninfo,
    }
