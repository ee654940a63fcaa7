"""Pipelined statements on a thread's connection: several statements in one round trip.

    with pipeline.transaction() as work:
        work.run(read)           BEGIN; read             one round trip
        work.defer(write)
        work.send()              write                   in flight while the caller goes on
        work.defer(write)
                                 write; COMMIT           another, at the end of the block

A pipeline is the blocking driver of an ``Exchange``. Appends and the batches of projections run
one after the other, so the duration of each counts. Most of them hold few rows: a round trip for
each statement would take longer than the statements. Between two exchanges psycopg may use the
connection.
"""

import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from math import inf
from socket import socket
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import Connection, Cursor, pq
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.postgres.binary import BinaryArray, array, unnested
from ledger.engine.postgres.exchange import (
    Exchange,
    Rows,
    SilentServer,
    StatementResult,
    numbered,
)
from ledger.engine.postgres.schema.table import Table

Value = BinaryArray | int | str | None

_Sink = Callable[[Rows], None]
_Name = TypeVar("_Name")


class Statement(NamedTuple):
    """SQL with PostgreSQL's placeholders (``$1``), each cast unless its type is inferred."""

    text: bytes
    values: Sequence[Value] = ()


def named(statement: str, values: Mapping[str, Value]) -> Statement:
    """Return a statement from SQL whose placeholders are names: ``%(name)s``."""
    text, names = numbered(statement)
    return Statement(text, [values[name] for name in names])


_TEXT, _BINARY = pq.Format.TEXT, pq.Format.BINARY
_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
_BEGIN, _COMMIT, _ROLLBACK = Statement(b"BEGIN"), Statement(b"COMMIT"), Statement(b"ROLLBACK")


class Pipeline:
    """Exchanges on one connection in autocommit mode, used by one thread at a time.

    While the pipeline is in use, psycopg must execute no DROP and no ROLLBACK on the connection: it
    would then deallocate all prepared statements, including those of the exchange. A byte at the
    ``waker`` ends ``wait``.
    """

    def __init__(self, connection: Connection[Any], waker: socket | None = None) -> None:
        self.connection = connection
        self._exchange: Exchange[None] = Exchange(connection)
        self._socket, self._notices = select.poll(), select.poll()
        self._socket.register(self._exchange.socket, select.POLLIN)
        self._notices.register(self._exchange.socket, select.POLLIN)
        if waker is not None:
            self._notices.register(waker, select.POLLIN)

    def send(self, *statements: Statement) -> None:
        """Send statements without waiting for their results.

        They begin the group of the next ``run``, which returns their results too. Until then no
        other code may use the connection.
        """
        try:
            self._add(statements)
            self._exchange.wait_from(time.monotonic())
            self._flush()
        except BaseException:
            self._break_off()
            raise

    def run(self, *statements: Statement) -> list[Rows]:
        """Return the rows of each statement of the group.

        The group is one transaction, unless its statements begin or end one. Raises the error of
        the first statement that fails; PostgreSQL skips the statements after it. The connection is
        closed if it is lost, if the reply is overdue, or if any other exception breaks off the
        exchange.
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

    def wait(self, seconds: float) -> int:
        """Wait ``seconds`` for a notification; not at all if one has come since the last call.

        Returns how many have come. Raises psycopg.OperationalError if the connection is lost.
        """
        # A notification that libpq has read already does not make the socket readable.
        count = len(self._exchange.notifications())
        if not count and self._notices.poll(seconds * 1000):
            self._exchange.consume()
            count = len(self._exchange.notifications())
        return count

    def is_lost(self) -> bool:
        """True if the server has closed the connection since its last use."""
        try:
            while self._socket.poll(0):
                self._exchange.consume()
        except psycopg.OperationalError:
            return True
        return False

    @contextmanager
    def transaction(self, *first: Statement) -> Iterator["Transaction"]:
        """Begin a transaction with these statements. It is rolled back if the block raises."""
        transaction = Transaction(self, _BEGIN, *first)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._exchange.is_begun:
            # End the group first: behind a failed statement PostgreSQL would skip the ROLLBACK.
            with suppress(psycopg.Error):
                self.run()
        if self.connection.pgconn.transaction_status in _OPEN:
            self.run(_ROLLBACK)

    def _break_off(self) -> None:
        """Close the connection: the server may still send results that no caller would take."""
        self.connection.close()

    def _add(self, statements: Sequence[Statement]) -> None:
        """Add statements to the group, their arrays in binary format and other values as text."""
        for text, values in statements:
            formats = [_BINARY if isinstance(value, BinaryArray) else _TEXT for value in values]
            encoded = [
                value if value is None or isinstance(value, BinaryArray) else str(value).encode()
                for value in values
            ]
            self._exchange.send(None, (text, ()), encoded, formats)

    def _flush(self) -> None:
        """Write the whole group, and read arriving bytes meanwhile.

        If both sides only wrote, both would wait for ever.
        """
        while self._exchange.flush():
            self._socket.modify(self._exchange.socket, select.POLLIN | select.POLLOUT)
            self._await_socket()
            self._socket.modify(self._exchange.socket, select.POLLIN)
            self._exchange.consume()

    def _await_socket(self) -> None:
        """Wait until the socket is ready. Raises SilentServer if that takes too long."""
        seconds = self._exchange.seconds_left(time.monotonic())
        milliseconds = None if seconds == inf else seconds * 1000
        if seconds <= 0 or not self._socket.poll(milliseconds):
            raise SilentServer

    def _receive(self) -> tuple[list[Rows], Exception | None]:
        """Return the rows of each statement before the first error, and that error or None."""
        exchange, outcomes = self._exchange, list[tuple[None, StatementResult]]()
        while True:
            try:
                exchange.collect(outcomes)
            except psycopg.OperationalError:
                for _, outcome in outcomes:
                    if isinstance(outcome, Exception):
                        raise outcome from None
                raise
            if not exchange.is_waiting:
                break
            self._await_socket()
            exchange.consume()
        errors = [outcome for _, outcome in outcomes if isinstance(outcome, Exception)]
        found = [outcome or [] for _, outcome in outcomes if not isinstance(outcome, Exception)]
        return found, errors[0] if errors else None


class Transaction:
    """A transaction. Deferred statements are sent with the next statement that is run."""

    def __init__(self, pipeline: Pipeline, *first: Statement) -> None:
        self._pipeline = pipeline
        self._due: list[tuple[Statement, _Sink | None]] = [(statement, None) for statement in first]
        self._sent: list[_Sink | None] = []
        self._afterwards: list[Statement] = []

    @property
    def is_lost(self) -> bool:
        """True if the connection is closed: an unfinished COMMIT may have succeeded or not."""
        return self._pipeline.connection.closed

    def run(self, statement: Statement) -> Rows:
        """Send the deferred statements and this one. Return this one's rows."""
        return self._exchange(statement)[-1]

    def ask(self, statements: Mapping[_Name, Statement]) -> dict[_Name, Rows]:
        """Send the deferred statements and these in one round trip. Return the rows of these."""
        found = self._exchange(*statements.values()) if statements else []
        return dict(zip(statements, found[len(found) - len(statements) :], strict=True))

    def defer(self, statement: Statement, sink: _Sink | None = None) -> None:
        """Execute a statement before any statement that is run later; ``sink`` gets its rows."""
        self._due.append((statement, sink))

    def send(self) -> None:
        """Send the deferred statements without waiting for their results.

        The next call that waits raises their error.
        """
        self._pipeline.send(*[statement for statement, _ in self._due])
        self._sent += [sink for _, sink in self._due]
        self._due = []

    def flush(self) -> None:
        """Send any deferred statements, and wait for their results."""
        if self._due or self._sent:
            self._exchange()

    def load(self) -> None:
        """Send any deferred statements, and wait only if the rows of a statement are wanted."""
        sinks = [*self._sent, *(sink for _, sink in self._due)]
        if any(sinks):
            self.flush()
        elif self._due:
            self.send()

    def defer_beyond(self, statement: Statement) -> None:
        """Execute a statement after COMMIT, if the transaction commits, in the same round trip."""
        self._afterwards.append(statement)

    def cursor(self) -> Cursor[TupleRow]:
        """Flush, then return a psycopg cursor in the transaction: for COPY."""
        self.flush()
        return self._pipeline.connection.cursor(row_factory=tuple_row, binary=True)

    def commit(self) -> None:
        self._exchange(_COMMIT, *self._afterwards)

    def _exchange(self, *statements: Statement) -> list[Rows]:
        due, self._due = self._due, []
        sinks = self._sent + [sink for _, sink in due]
        self._sent = []
        found = self._pipeline.run(*[statement for statement, _ in due], *statements)
        for sink, rows in zip(sinks, found, strict=False):
            if sink is not None:
                sink(rows)
        return found


# Rows of described tables. The description gives the statements that write them and that find them
# by their keys. Rows are sent as one array for each column, so a statement is prepared once, for
# any number of rows.

_INSERT = "INSERT INTO ledger.{table} ({columns}) SELECT {values}"

_REPLACE = " ON CONFLICT ({key}) DO UPDATE SET {changes}"

# OFFSET 0 keeps the look-up in a large table a look-up by key. A generic plan stays
# (``planned_once``), and one made while the table is empty would prefer a sequential scan.
_FIND = """
SELECT found.* FROM unnest({keys}) AS asked ({key})
CROSS JOIN LATERAL (
    SELECT {columns} FROM ledger.{table} AS stored WHERE {is_asked} OFFSET 0
) AS found
"""


def insert(
    rows: Mapping[Table, Sequence[Sequence[Any]]], select: str = "", value: Value = None
) -> Statement:
    """Return one statement that writes rows; each table must have at least one row.

    A row has one value for each column. The statement may also select an expression, in which
    ``{}`` stands for ``value``.
    """
    values: list[Value] = []
    for table, of_table in rows.items():
        columns = zip(*of_table, strict=True)
        values += map(array, table.columns.values(), columns)
    if select:
        values.append(value)
    return Statement(_insert_all(tuple(rows), select), values)


def find(table: Table, keys: Collection[Sequence[Any]]) -> Statement:
    """Return the statement for the rows of these keys, at least one key.

    A key has one value for each key column.
    """
    parts = zip(*keys, strict=True)
    types = [table.columns[column] for column in table.key]
    return Statement(_find(table), [*map(array, types, parts)])


@lru_cache(256)
def _insert_all(tables: tuple[Table, ...], select: str) -> bytes:
    """Return one INSERT for all these tables. Its parameters are all columns, then the value.

    With few rows, a statement for each table would cost more than the rows.
    """
    numbers = count(1)
    parts = [f"i{n} AS ({_insert(table, numbers)})" for n, table in enumerate(tables)]
    selected = select.replace("{}", f"${next(numbers)}")
    return f"WITH {', '.join(parts)} SELECT {selected}".encode()


def _insert(table: Table, numbers: Iterator[int]) -> str:
    statement = _INSERT.format(
        table=table.name,
        columns=", ".join(table.columns),
        values=", ".join(unnested(f"${next(numbers)}", type_) for type_ in table.columns.values()),
    )
    if table.replaces:
        changed = [c for c in table.columns if c not in table.key]
        changes = ", ".join(f"{c} = excluded.{c}" for c in changed)
        statement += _REPLACE.format(key=", ".join(table.key), changes=changes)
    return statement


@lru_cache(64)
def _find(table: Table) -> bytes:
    types = enumerate((table.columns[column] for column in table.key), 1)
    return _FIND.format(
        table=table.name,
        columns=", ".join(table.columns),
        keys=", ".join(f"${number}::{type_}[]" for number, type_ in types),
        key=", ".join(table.key),
        is_asked=" AND ".join(f"stored.{column} = asked.{column}" for column in table.key),
    ).encode()
