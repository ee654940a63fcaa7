"""Statements that travel together on a thread's connection: one round trip for several.

    with pipeline.transaction() as work:
        work.run(read)           BEGIN; read             one round trip
        work.defer(write)
        work.send()              write                   on its way while we go on
        work.defer(write)
                                 write; COMMIT           another, at the end of the block

A pipeline is the blocking driver of an ``Exchange``. Appends and projections follow one another, so
what counts is how long each takes, and most of ours hold few rows: a round trip for each statement
would take longer than the statements. Between two exchanges the connection is psycopg's again.
"""

import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, Cursor, pq
from psycopg.rows import TupleRow, tuple_row

from ledger.postgres.binary import BinaryArray
from ledger.postgres.exchange import Exchange, Rows, SilentServer, numbered

Value = BinaryArray | int | str | None

_Take = Callable[[Rows], None]


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

    psycopg must drop nothing on it and roll nothing back while there is more to come: it would then
    have all prepared statements deallocated, ours too.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self._exchange: Exchange[None] = Exchange(connection)
        self._socket = select.poll()
        self._socket.register(self._exchange.socket, select.POLLIN)
        self._has_heard = False

    def send(self, *statements: Statement) -> None:
        """Have statements carried out while the caller goes on, as the first of the next ``run``.

        Until then nobody else may use the connection.
        """
        try:
            self._add(statements)
            self._exchange.wait_from(time.monotonic())
            self._flush()
        except BaseException:
            self._break_off()
            raise

    def run(self, *statements: Statement) -> list[Rows]:
        """The rows of each. They are one transaction, unless they begin or end one.

        Raises the error of the first that fails; those after it are passed over. Where the
        connection is lost, the answer does not come in time, or anything else breaks off the
        exchange, it is closed.
        """
        try:
            self._add(statements)
            self._exchange.sync(time.monotonic())
            self._flush()
            found, error = self._receive()
        except BaseException:
            self._break_off()
            raise
        if error is not None:
            raise error
        return found

    def wait(self, seconds: float) -> None:
        """Until something comes that is listened for, or has come since the last time; or so long.

        Raises psycopg.OperationalError where the connection is lost.
        """
        self._take_notifications()  # what has been read already makes no socket readable
        if not self._has_heard and self._socket.poll(seconds * 1000):
            self._exchange.consume()
            self._take_notifications()
        self._has_heard = False

    def is_lost(self) -> bool:
        """Whether the other side has ended the connection since it was last used."""
        try:
            while self._socket.poll(0):
                self._exchange.consume()
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
        if self._exchange.is_begun:
            # Behind one that failed a ROLLBACK would be passed over.
            with suppress(psycopg.Error):
                self.run()
        if self.connection.pgconn.transaction_status in _OPEN:
            self.run(_ROLLBACK)

    def _break_off(self) -> None:
        """Results may be to come that nobody will take."""
        self.connection.close()

    def _add(self, statements: Sequence[Statement]) -> None:
        for text, values in statements:
            self._exchange.send(None, (text, ()), *_encoded(values))

    def _flush(self) -> None:
        """Write all of it. What comes meanwhile is read: else both sides might wait for ever."""
        while self._exchange.flush():
            self._socket.modify(self._exchange.socket, select.POLLIN | select.POLLOUT)
            self._await_socket()
            self._socket.modify(self._exchange.socket, select.POLLIN)
            self._exchange.consume()

    def _await_socket(self) -> None:
        """Raises SilentServer where nothing comes in time."""
        seconds = self._exchange.seconds_left(time.monotonic())
        milliseconds = None if seconds == inf else seconds * 1000
        if seconds <= 0 or not self._socket.poll(milliseconds):
            raise SilentServer

    def _receive(self) -> tuple[list[Rows], Exception | None]:
        """The rows of each statement, or of those before the first error, and that error."""
        exchange, found, error = self._exchange, list[Rows](), None
        while True:
            try:
                for _, outcome in exchange.take():
                    if isinstance(outcome, Exception):
                        error = error or outcome
                    else:
                        found.append(outcome or [])
            except psycopg.OperationalError:
                if error is not None:
                    raise error from None
                raise
            if not exchange.is_waiting:
                return found, error
            self._await_socket()
            exchange.consume()

    def _take_notifications(self) -> None:
        if self._exchange.notifications():
            self._has_heard = True


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
