"""The library's PostgreSQL recorder, with the append path replaced.

Kept: its table, its channel, its datastore. Replaced: ``insert_events`` by ``Append``, because the
library's pipelined form hangs for ever, lock held, once a batch fills the socket's buffer, and
because our decisions are made inside the append transaction; and its lock, which is on the table
itself.
``enable_db_functions`` stays off: with it the library takes no lock, and a reader that tails the
log loses events for good.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from eventsourcing.persistence import ProgrammingError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresFactory
from psycopg import Connection, errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composed

from ledger.log.append import Append, StoredRow
from ledger.postgres.pipeline import Pipeline, Statement
from ledger.postgres.session import (
    CONNECT_SECONDS,
    DURABLE,
    AppendConnection,
    hosts_of,
    options_of,
)

SCHEMA = "ledger"

# The log in order, from after a position: so many events, or so many bytes and the one beyond.
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

# Who appends has a table of its own to lock, in the library's mode. A vacuum of the log conflicts
# with every lock by which appends could exclude each other: they would be refused for as long as it
# takes (or, where it gives way, stand still for a second, and it would never come to its end).
# The second lock is what the insert takes anyway, but before anything is read: it keeps us apart
# from whoever locks the log as the library does, as versions before 0010 that run on beside us.
_LOCKS = (
    SQL("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE"),
    SQL("LOCK TABLE ledger.ledger_events IN ROW EXCLUSIVE MODE"),
)

_TAKES_NO_WRITES = (errors.ReadOnlySqlTransaction, errors.ObjectNotInPrerequisiteState)
"""What a server says to an append that is a standby, or is to be read from only."""

_ADDRESS = ("dbname", "host", "port", "user", "password")
"""What the library has defaults of its own for."""

_READ_BYTES = 16 * 1024 * 1024


def planned_once(conninfo: str) -> str:
    """Options of a connection that executes the same few statements for ever, through indexes.

    They are planned once, whatever their parameters: to plan them anew takes a good part of a small
    group's time. And since a plan stays, one that is made while a table is empty, as all are on a
    new ledger, must not walk it: with a million rows it would do so still.
    """
    return options_of(conninfo, "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off")


class LedgerRecorder(PostgresApplicationRecorder):
    """Appends under a lock of all who append; reads plain tuples."""

    _pipeline: Pipeline | None = None
    _locks: Sequence[Statement] = ()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # How long they wait is an option of the connection: a statement less for each append.
        self.lock_table_statements = list(_LOCKS)

    @contextmanager
    def append_transaction(self) -> Iterator[Append]:
        """A transaction that takes the append lock, on the way to its first read, until its commit.

        READ COMMITTED, so every statement after the lock sees all that was committed before it.
        Raises the library's OperationalError when the lock is not had within ``lock_timeout``, a
        reply is not had within ``ANSWER_SECONDS``, or the server takes no writes.
        """
        with self._living_connection() as connection:
            pipeline = self._pipeline_on(connection)
            try:
                with pipeline.transaction(*self._locks) as transaction:
                    yield Append(transaction)
            except _TAKES_NO_WRITES as error:
                # A primary may have become a standby: the next append asks for the primary anew.
                connection.close()
                raise psycopg.OperationalError(str(error)) from error

    @contextmanager
    def _living_connection(self) -> Iterator[Connection[Any]]:
        """The pool's; a new one where PostgreSQL has ended it, as with a restart.

        The library's own way to find that out is a round trip before each use.
        """
        with ExitStack() as given_back:
            connection = given_back.enter_context(self.datastore.get_connection())
            if self._pipeline_on(connection).is_lost():
                connection.close()
                given_back.close()
                connection = given_back.enter_context(self.datastore.get_connection())
            yield connection

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Refused: events are written in an ``append_transaction``. Raises ProgrammingError."""
        raise ProgrammingError("events are written in an append_transaction")

    def _pipeline_on(self, connection: Connection[Any]) -> Pipeline:
        """The one that knows what the connection has prepared."""
        if self._pipeline is None or self._pipeline.connection is not connection:
            pipeline = Pipeline(connection)
            pipeline.run(Statement(DURABLE))
            locks = (Composed([lock]) for lock in self.lock_table_statements)
            self._locks = [Statement(lock.as_bytes(connection)) for lock in locks]
            self._pipeline = pipeline
        return self._pipeline


def read_log(pipeline: Pipeline, after: int, limit: int) -> list[StoredRow]:
    """Stored events after a position, in order. Complete, because of the append lock.

    Fewer than the limit, but at least one if there is any, where they are large.
    """
    return pipeline.run(Statement(_READ, (after, limit, _READ_BYTES)))[0]


def is_full(rows: Sequence[StoredRow], limit: int) -> bool:
    """Whether there may be more of the log than was read."""
    return len(rows) == limit or sum(len(row[3]) for row in rows) >= _READ_BYTES


class LedgerFactory(PostgresFactory):
    """Chosen through ``PERSISTENCE_MODULE``; knows our recorder."""

    application_recorder_class = LedgerRecorder

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        if self.datastore.enable_db_functions:
            raise AssertionError("enable_db_functions loses events for tailing readers")
        # Connection options the library has no setting for (sslmode, keepalives …).
        conninfo = self.env.get("LEDGER_CONNINFO") or ""
        extra = conninfo_to_dict(conninfo)
        # What the string leaves open is libpq's to fill in, here as for every other connection.
        pool = self.datastore.pool
        kept = {name: value for name, value in pool.kwargs.items() if name not in _ADDRESS}  # type: ignore[union-attr]
        patience = f"-c lock_timeout={self.datastore.lock_timeout}s"
        options = f"{planned_once(conninfo)} {patience}"
        ours = {"application_name": "ledger", "options": options}
        pool.kwargs = {**kept, **extra, **ours}
        pool.connection_class = AppendConnection
        # A lost server is asked again soon, not after the default's five minutes of back-off.
        pool.reconnect_timeout = _wait_seconds(conninfo)


def _wait_seconds(conninfo: str) -> int:
    """How long a connection is waited for: until each server has been tried.

    A write may wait for two groups, its own and the one before.
    """
    return CONNECT_SECONDS * hosts_of(conninfo)


def library_environment(conninfo: str) -> Mapping[str, str]:
    """The library's settings for a connection string (URL or key=value).

    ``CREATE_TABLE`` is off: its start-up DDL races between processes; migrations create it once.
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
