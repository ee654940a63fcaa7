"""Statements that travel together on a thread's connection: one round trip for several.

    with pipeline.transaction() as work:
        work.run(read)           BEGIN; read             one round trip
        work.defer(write)
        work.send()              write                   on its way while we go on
        work.defer(write)
                                 write; COMMIT           another, at the end of the block

Appends and projections follow one another, so what counts is how long each takes, and most of
ours hold few rows. psycopg takes some 60 µs of the interpreter's time for a statement, and a round
trip; its own pipeline saves the trips, but takes longer itself. So psycopg connects, loads values
and knows the errors; the sending and receiving is done with its ``pq`` module, at 10 µs each.
Between two exchanges the connection is psycopg's again.
"""

import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, Cursor, pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow, tuple_row

from ledger.postgres.binary import BinaryArray
from ledger.postgres.prepared import Key, Prepared, numbered

Rows = list[TupleRow]

Value = BinaryArray | int | str | None

_Take = Callable[[Rows], None]

_Due = tuple[Key | None, bool]
"""A result that is to come: whose it is, and whether it is the statement's own."""


class Statement(NamedTuple):
    """SQL with PostgreSQL's own placeholders, each cast where its type does not follow."""

    text: bytes
    values: Sequence[Value] = ()


def named(statement: str, values: Mapping[str, Value]) -> Statement:
    """A statement whose placeholders are names: ``%(name)s``."""
    text, names = numbered(statement)
    return Statement(text, [values[name] for name in names])


_BEGIN, _COMMIT, _ROLLBACK = Statement(b"BEGIN"), Statement(b"COMMIT"), Statement(b"ROLLBACK")


class Pipeline:
    """Exchanges on one connection, which is in autocommit mode, by one thread at a time.

    ``patience`` is for how many seconds the replies of an exchange are waited for, from when it was
    sent: a proxy may keep a connection alive whose server has vanished. None: for ever, as where
    statements may take long.

    psycopg must drop nothing on it and roll nothing back while there is more to come: it would then
    have all prepared statements deallocated, ours too.
    """

    def __init__(self, connection: Connection[Any], patience: float | None = None) -> None:
        self.connection = connection
        self._patience = inf if patience is None else patience
        self._deadline = 0.0
        self._pg = connection.pgconn
        self._adapt = Transformer.from_context(connection)
        self._prepared = Prepared(self._pg)
        self._due: list[_Due] = []
        self._socket = select.poll()
        self._socket.register(self._pg.socket, select.POLLIN)
        self._has_heard = False
        connection.add_notify_handler(self._hear)

    def send(self, *statements: Statement) -> None:
        """Have statements carried out while the caller goes on, as the first of the next ``run``.

        Until then nobody else may use the connection.
        """
        with self._broken_off_closed():
            self._hand_over(statements)
            self._deadline = time.monotonic() + self._patience
            self._flush()

    def run(self, *statements: Statement) -> list[Rows]:
        """The rows of each. They are one transaction, unless they begin or end one.

        Raises the error of the first that fails; those after it are passed over. Where the
        connection is lost, the answer does not come in time, or anything else breaks off the
        exchange, it is closed.
        """
        with self._broken_off_closed():
            self._hand_over(statements)
            self._pg.pipeline_sync()
            self._deadline = time.monotonic() + self._patience
            self._flush()
            due, self._due = self._due, []
            found, error = self._receive(due)
            self._pg.exit_pipeline_mode()
        self._take_notifications()
        if error is not None:
            raise error
        return found

    def wait(self, seconds: float) -> None:
        """Until something comes that is listened for, or has come since the last time; or so long.

        Raises psycopg.OperationalError where the connection is lost.
        """
        self._take_notifications()  # what libpq has read already wakes nobody
        if not self._has_heard and self._socket.poll(seconds * 1000):
            self._pg.consume_input()
            self._take_notifications()
        self._has_heard = False

    def is_lost(self) -> bool:
        """Whether the other side has ended the connection since it was last used."""
        try:
            while self._socket.poll(0):
                self._pg.consume_input()
        except psycopg.OperationalError:
            return True
        return False

    @contextmanager
    def transaction(self, *first: Statement) -> Iterator["Transaction"]:
        """A transaction that begins with these statements; undone where the block raises."""
        transaction = Transaction(self, _BEGIN, *first)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._due:
            # Behind one that failed a ROLLBACK would be passed over.
            with suppress(psycopg.Error):
                self.run()
        if self._pg.transaction_status in _OPEN:
            self.run(_ROLLBACK)

    @contextmanager
    def _broken_off_closed(self) -> Iterator[None]:
        """Results are to come: where an exchange is broken off, nobody will take them."""
        try:
            yield
        except BaseException:
            self._due = []
            self.connection.close()
            raise

    def _hand_over(self, statements: Sequence[Statement]) -> None:
        """Give all to libpq, and note the results that are to come."""
        due = self._due
        if not due:
            self._pg.enter_pipeline_mode()
            due += [(None, False)] * self._prepared.close_outdated()
        for text, values in statements:
            key = (text, ())
            if self._prepared.send(key, *_encoded(values)):
                due.append((key, False))
            due.append((key, True))

    def _flush(self) -> None:
        """Send all of it. What comes meanwhile is taken: else both sides might wait for ever."""
        while self._pg.flush():
            self._socket.modify(self._pg.socket, select.POLLIN | select.POLLOUT)
            self._await_socket()
            self._socket.modify(self._pg.socket, select.POLLIN)
            self._pg.consume_input()

    def _await_socket(self) -> None:
        """Raises psycopg.OperationalError where nothing comes before the deadline."""
        seconds = self._deadline - time.monotonic()
        milliseconds = None if seconds == inf else seconds * 1000
        if seconds <= 0 or not self._socket.poll(milliseconds):
            raise psycopg.OperationalError("the database has not answered in time")

    def _receive(self, due: Iterable[_Due]) -> tuple[list[Rows], psycopg.Error | None]:
        coming = iter(due)
        found: list[Rows] = []
        error: psycopg.Error | None = None
        is_between = False
        while True:
            result = self._next_result()
            if result is None:
                # One ends each statement's results. From a lost connection they come without end.
                if is_between:
                    raise error or psycopg.OperationalError("the connection is lost")
                is_between = True
                continue
            is_between = False
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return found, error
            # One more than is due says that the connection ends: what was asked may be carried out.
            key, is_own = next(coming, (None, False))
            if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
                if key is not None:
                    self._prepared.forget(key)
                error = error or error_from_result(result)
            elif is_own:
                found.append(self._rows(result))

    def _next_result(self) -> pq.abc.PGresult | None:
        while self._pg.is_busy():
            self._await_socket()
            self._pg.consume_input()
        return self._pg.get_result()

    def _rows(self, result: pq.abc.PGresult) -> Rows:
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._adapt.set_pgresult(result)
        try:
            return self._adapt.load_rows(0, result.ntuples, tuple)
        finally:
            self._adapt.set_pgresult(None)  # it may be large, and the next one far off

    def _hear(self, _: object) -> None:
        self._has_heard = True

    def _take_notifications(self) -> None:
        """Note what came for listeners: psycopg has not seen it."""
        while heard := self._pg.notifies():
            self._hear(heard)


class Transaction:
    """One transaction. What is due is sent with the next statement that somebody waits for."""

    def __init__(self, pipeline: Pipeline, *first: Statement) -> None:
        self._pipeline = pipeline
        self._due: list[tuple[Statement, _Take | None]] = [(statement, None) for statement in first]
        self._sent: list[_Take | None] = []
        self._afterwards: list[Statement] = []

    def run(self, statement: Statement) -> Rows:
        """A statement's rows."""
        return self._exchange(statement)[-1]

    def defer(self, statement: Statement, take: _Take | None = None) -> None:
        """Have a statement carried out before what is run later; its rows are given to ``take``."""
        self._due.append((statement, take))

    def send(self) -> None:
        """Have what is due carried out while the caller goes on.

        An error of it is raised by what waits next.
        """
        self._pipeline.send(*(statement for statement, _ in self._due))
        self._sent += [take for _, take in self._due]
        self._due = []

    def flush(self) -> None:
        """Have what is due carried out now, if anything is."""
        if self._due or self._sent:
            self._exchange()

    def defer_beyond(self, statement: Statement) -> None:
        """Have a statement carried out after the commit, if there is one, in the same trip."""
        self._afterwards.append(statement)

    def cursor(self) -> Cursor[TupleRow]:
        """psycopg's own way into the transaction, after what is due: for COPY."""
        self.flush()
        return self._pipeline.connection.cursor(row_factory=tuple_row, binary=True)

    def execute(
        self, statement: LiteralString, values: Sequence[Any] | Mapping[str, Any]
    ) -> Cursor[TupleRow]:
        """What is seldom needed, with values of any type and psycopg's placeholders."""
        return self.cursor().execute(statement, values)

    def commit(self) -> None:
        """What is due, and the end."""
        self._exchange(_COMMIT, *self._afterwards)

    def _exchange(self, *statements: Statement) -> list[Rows]:
        due, self._due = self._due, []
        takes = [*self._sent, *(take for _, take in due)]
        self._sent = []
        found = self._pipeline.run(*(statement for statement, _ in due), *statements)
        for take, rows in zip(takes, found, strict=False):
            if take is not None:
                take(rows)
        return found


_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)


def _encoded(values: Sequence[Value]) -> tuple[list[bytes | None], list[pq.Format]]:
    """Values as they are sent: arrays in binary, the few others as text."""
    encoded: list[bytes | None] = []
    formats: list[pq.Format] = []
    for value in values:
        if isinstance(value, BinaryArray):
            encoded.append(value)
            formats.append(pq.Format.BINARY)
        else:
            encoded.append(None if value is None else str(value).encode())
            formats.append(pq.Format.TEXT)
    return encoded, formats
