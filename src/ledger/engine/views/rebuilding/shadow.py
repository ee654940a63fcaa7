"""A shadow: a view's next generation, filled from the log beside the live one with the same fold.

A rebuild ends by swapping the shadow in; a verification compares the live rows with it and drops
it. An advisory lock allows only one shadow for each view. The database releases the lock if the
process dies, and the next builder or cleaner drops the tables that were left behind.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import psycopg
from eventsourcing.persistence import MapperDeserialisationError
from psycopg.rows import TupleRow, tuple_row

from ledger import __version__
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import read_log
from ledger.engine.log.nodes import nodes
from ledger.engine.postgres import locks
from ledger.engine.postgres.pipeline import Pipeline
from ledger.engine.postgres.session import options_of
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.contract import Projection, apply, error_line, is_passing
from ledger.engine.views.generation import Generation, Writes
from ledger.engine.views.schema import create_indexes, create_tables, table_of, with_other_columns

_CLEANING = "2s"
"""How long a builder waits for a process that cleans up."""

_BATCH = 5000
_WAITING = 175_000
"""The most changed rows in memory. Most of them change again; packed, they take some 120 MB. If
there are more, the half that has waited longest is written: rows of idle or closed lines."""

_STORED = 2000
"""The most rows of a table that one statement writes."""

_NEAR = 2000
"""The most positions by which a shadow may lag when the live view is locked for it."""

Progress = Callable[[int, int], None]
"""A callback that gets the reached position and the target position."""

Session = psycopg.Connection[TupleRow] | None
"""The session that builds, if a caller leads by it: the building ends with it. None for the
builder's own."""

_HELD_AT_MOST = "SET LOCAL idle_in_transaction_session_timeout = '10s'"

_LIVE = "SELECT version, generation, position FROM ledger.projection WHERE name = %s"
_GENERATION_OF_VIEWS = "SELECT name, generation FROM ledger.projection"
_HOLD = _LIVE + " FOR UPDATE"
_HEAD = "SELECT COALESCE(max(notification_id), 0) FROM ledger.ledger_events"

# The tables of all generations but one, in the order of the names of a view's tables.
_GENERATIONS = """
SELECT c.relname FROM unnest(%s::text[]) WITH ORDINALITY AS t (name, turn)
JOIN pg_class AS c ON c.relname ~ ('^' || t.name || '_g[0-9]+$')
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r'
  AND c.relname <> t.name || '_g' || %s
ORDER BY t.turn
"""


class CannotBuild(Exception):
    """A view cannot be built; the message is a reason of one line."""


class Live(NamedTuple):
    """The tracking of a live view."""

    version: int
    generation: int
    position: int


class Shadow:
    """A generation that is being filled. Created by ``shadow``."""

    def __init__(
        self,
        conninfo: str,
        connection: psycopg.Connection[TupleRow],
        codec: EnvelopeMapper,
        projection: Projection,
        progress: Progress,
        source: psycopg.Connection[TupleRow] | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.connection = connection
        self.projection = projection
        self._source = source or connection
        """The connection to the log; None if the shadow is in the same database."""
        self.number = self.live().generation + 1
        self.position = 0
        self._pipeline = Pipeline(connection)
        self._log = self._pipeline if source is None else Pipeline(source)
        self._codec, self._progress = codec, progress
        self._wanted = codec.topics_of(projection.events)

    def live(self) -> Live:
        return live_in(self._source, self.projection)

    def head(self) -> int:
        ((head,),) = self._source.execute(_HEAD)
        return int(head)

    def fill(self, end: int) -> None:
        """Apply the log up to a position. Raises CannotBuild at an event that cannot be applied."""
        while self.position < end:
            rows = read_log(self._log, self.position, _BATCH)
            rows = [row for row in rows if row[4] <= end]
            self._apply(self._decode(rows))
            self.position = rows[-1][4] if rows else end
            self._progress(self.position, end)
        self._store(0)

    def approach(self, target: Callable[[], int]) -> None:
        """Fill the shadow until the target, which may move, is near."""
        end = target()
        while self.position < end:
            self.fill(end)
            end = target()
            if end - self.position < _NEAR:
                return

    def finish(self) -> None:
        """Create the indexes for queries. A shadow that is only compared does not need them."""
        with self.connection.transaction():
            create_indexes(self.connection, self.projection.tables, self.number)

    @contextmanager
    def holding_live(
        self, lock_timeout: str
    ) -> Iterator[tuple[psycopg.Connection[TupleRow], Live]]:
        """Lock the live view's tracking, on a connection of its own, until the block ends.

        Meanwhile the projector waits for this row, so the live view does not change. Raises
        LockNotAvailable.
        """
        with connect(self.conninfo) as held, held.transaction():
            held.execute(f"SET LOCAL lock_timeout = '{lock_timeout}'".encode())
            # The views stand still meanwhile, so a process that freezes now loses the lock.
            held.execute(_HELD_AT_MOST)
            (row,) = held.execute(_HOLD, (self.projection.name,))
            yield held, Live(*row)

    def _decode(self, rows: Sequence[Any]) -> list[Recorded]:
        try:
            return [self._codec.decode(*row) for row in rows if row[2] in self._wanted]
        except MapperDeserialisationError as error:
            raise CannotBuild(f"{self.projection.name}: {error}") from error

    def _apply(self, events: Sequence[Recorded]) -> None:
        if events:
            with self._writing(events[-1].position) as generation:
                apply(self.projection, generation, events)
            if self.projection.waiting > _WAITING:
                self._store(_WAITING // 2)

    def _store(self, left: int) -> None:
        """Write changed rows until only ``left`` of them are in memory."""
        while self.projection.waiting > left:
            with self._writing(self.position) as generation:
                self.projection.store(generation, _STORED)

    @contextmanager
    def _writing(self, end: int) -> Iterator[Generation]:
        """A transaction on the new tables. Raises CannotBuild instead of the fold's error."""
        try:
            with self._pipeline.transaction() as transaction:
                writes = Writes(transaction)
                yield Generation(writes, self.number)
                writes.flush()
        except Exception as error:
            if is_passing(error):
                raise
            scope = f"{self.projection.name}: within positions {self.position + 1} to {end}"
            raise CannotBuild(f"{scope}: {error_line(error)}"[:2000]) from error


@contextmanager
def _begun(made: Shadow) -> Iterator[Shadow]:
    """The shadow with its empty tables; its projection has no rows of other tables in memory."""
    made.projection.forget()
    with made.connection.transaction():
        create_tables(made.connection, made.projection.tables, made.number)
    try:
        yield made
    finally:
        made.projection.forget()


@contextmanager
def shadow(
    conninfo: str,
    codec: EnvelopeMapper,
    projection: Projection,
    progress: Progress,
    session: Session = None,
) -> Iterator[Shadow]:
    """A new, empty generation beside the live one. At the end only the live one is kept.

    Raises CannotBuild if another process is building the view.
    """
    with _building(conninfo, projection, session, waits=True) as connection:
        if connection is None:
            raise CannotBuild(f"{projection.name} is being rebuilt or verified by another process.")
        drop_others(connection, projection)
        with _begun(Shadow(conninfo, connection, codec, projection, progress)) as made:
            try:
                yield made
            finally:
                if not connection.closed and not connection.broken:
                    drop_others(connection, projection)


@contextmanager
def shadow_apart(
    conninfo: str, scratch: str, codec: EnvelopeMapper, projection: Projection, progress: Progress
) -> Iterator[Shadow]:
    """A shadow in the database ``scratch``, whose schema has no rows, of a view of ``conninfo``.

    Nothing is written to the view's own database, which may be a standby.
    """
    with connect(conninfo) as source, connect(scratch) as connection:
        with _begun(Shadow(conninfo, connection, codec, projection, progress, source)) as made:
            yield made
        for table in reversed(projection.tables):
            _drop(connection, table_of(table, made.number).removeprefix("ledger."))


def live_in(connection: psycopg.Connection[TupleRow], projection: Projection) -> Live:
    (row,) = connection.execute(_LIVE, (projection.name,))
    return Live(*row)


def clean_up(conninfo: str, projection: Projection, session: Session = None) -> None:
    """Drop the tables that a killed rebuild or verification left, unless one is running."""
    with _building(conninfo, projection, session, waits=False) as connection:
        if connection is not None:
            drop_others(connection, projection)


def is_outdated(connection: psycopg.Connection[TupleRow], projection: Projection) -> bool:
    """True if another version of the projection made the live rows, or none did.

    Raises CannotBuild if a newer version made them and a node of another version beats: in an
    upgrade node by node, an older node that starts again would undo the rebuild.
    """
    row = connection.execute(_LIVE, (projection.name,)).fetchone()
    is_newer = row is not None and row[0] > projection.version
    if is_newer and any(n.lives and n.version != __version__ for n in nodes(connection)):
        raise CannotBuild(f"{projection.name} belongs to a newer version that still runs.")
    return row is None or row[0] != projection.version


def live_generations(
    connection: psycopg.Connection[TupleRow], projections: Sequence[Projection]
) -> Iterator[tuple[Projection, int]]:
    """Yield the views whose database views this version's statements can read."""
    generations: dict[str, int] = dict(connection.execute(_GENERATION_OF_VIEWS).fetchall())
    views = [(projection, generations.get(projection.name, 0)) for projection in projections]
    tables = [(table, generation) for view, generation in views for table in view.tables]
    others = with_other_columns(connection, tables)
    for view, generation in views:
        if others.isdisjoint(table_of(table, generation) for table in view.tables):
            yield view, generation


@contextmanager
def _building(
    conninfo: str, projection: Projection, session: Session, *, waits: bool
) -> Iterator[psycopg.Connection[TupleRow] | None]:
    """A connection that holds the view's advisory lock; None if another session holds it.

    With ``waits``, wait for some time: the holder may be a starting service, which only cleans up.
    The lock is released explicitly, not by closing the connection: the server notices a closed
    connection a moment later, and the next builder would find the lock held.
    """
    key = locks.BUILDER, zlib.crc32(projection.name.encode()) & 0x7FFFFFFF
    with connect(conninfo) if session is None else nullcontext(session) as connection:
        if not (_wait_for if waits else _try)(connection, key):
            yield None
            return
        try:
            yield connection
        finally:
            if not connection.closed and not connection.broken:
                connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)
                # The next shadow's pipeline gives its prepared statements the same names.
                connection.execute("DEALLOCATE ALL")


def _try(connection: psycopg.Connection[TupleRow], key: tuple[int, int]) -> bool:
    found = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone()
    return found == (True,)


def _wait_for(connection: psycopg.Connection[TupleRow], key: tuple[int, int]) -> bool:
    connection.execute(f"SET lock_timeout = '{_CLEANING}'".encode())
    try:
        connection.execute("SELECT pg_advisory_lock(%s, %s)", key)
    except psycopg.errors.LockNotAvailable:
        return False
    finally:
        if not connection.closed:
            connection.execute("RESET lock_timeout")
    return True


def connect(conninfo: str) -> psycopg.Connection[TupleRow]:
    """Connect for building. Views can be derived again, so COMMIT does not wait for the disk.

    ``work_mem`` is raised for the hash joins that compare whole tables.
    """
    return psycopg.connect(
        conninfo,
        autocommit=True,
        row_factory=tuple_row,
        application_name="ledger rebuild",
        prepare_threshold=None,
        options=options_of(conninfo, "-c synchronous_commit=off -c work_mem=32MB"),
    )


def drop_others(connection: psycopg.Connection[TupleRow], projection: Projection) -> None:
    """Drop the tables of all generations except the live one.

    A table that a reader still locks is left for the next call.
    """
    live = live_in(connection, projection)
    # The policy of a table may name a table before it, which is dropped after it.
    names = [table.name for table in reversed(projection.tables)]
    for (found,) in connection.execute(_GENERATIONS, (names, live.generation)).fetchall():
        _drop(connection, found)


def _drop(connection: psycopg.Connection[TupleRow], name: str) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL lock_timeout = '1s'")
            connection.execute(f"DROP TABLE IF EXISTS ledger.{name}".encode())
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DependentObjectsStillExist):
        return
