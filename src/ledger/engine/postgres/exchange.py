"""The exchange of a connection with PostgreSQL: statements out, results in, in the same order.

For each statement psycopg takes 60 to 70 µs of the interpreter's time, even in its own pipeline.
The exchange takes 5 to 30 µs, depending on how many statements are sent together. psycopg connects,
adapts values and makes exceptions of errors; its ``pq`` module, a wrapper of libpq, sends and
receives.

    send, send, sync ─▶ flush ─▶ socket ─▶ consume ─▶ collect: one outcome per statement

The exchange never blocks: it has no poll, no sleep, no loop. Its two drivers have them:
``pipeline.py`` for a thread, and ``LoopDriver`` (``pool/pipelined.py``) for an event loop.

The statements up to a ``sync`` are a group. A group is one transaction, unless its statements begin
or end one. After an error PostgreSQL skips the rest of the group. The connection is in pipeline
mode from a group's first statement until the reply to its sync. Between groups psycopg may use it.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import lru_cache
from math import inf
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow

from ledger.engine.postgres.session import max_wait_of

_MOST_PREPARED = 100
"""The most prepared statements of a connection: each takes memory in PostgreSQL."""

_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%|)")

StatementKey = tuple[bytes, tuple[int, ...]]
"""SQL and the type OIDs of its parameters (none if PostgreSQL infers them): the key of a prepared
statement."""

Rows = list[TupleRow]

StatementResult = Rows | Exception | None
"""A statement's rows, its error, or None if its kind returns no rows."""

Owner = TypeVar("Owner")
"""The type of the objects for which statements are sent; each outcome comes with its owner."""

_Due = tuple[Owner | None, StatementKey | None, bool]
"""An expected result: its owner, its statement's key, and True if its rows are an outcome."""

_NOBODYS: tuple[None, None, bool] = (None, None, False)
"""The result of closing a prepared statement, or a result beyond the expected ones."""

_ROWS = pq.ExecStatus.TUPLES_OK
_NO_ROWS = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_FAILED = pq.ExecStatus.FATAL_ERROR
_PASSED_OVER = pq.ExecStatus.PIPELINE_ABORTED
_SYNC = pq.ExecStatus.PIPELINE_SYNC


class SilentServer(psycopg.OperationalError):
    """The server has not replied in time. The connection is useless: connect again."""

    def __init__(self) -> None:
        super().__init__("the database has not answered in time")


class Exchange(Generic[Owner]):
    """The groups of one connection in autocommit mode. Create it before the first LISTEN.

    The connection's class sets the time limit of the replies to a group (``max_wait_of``). The
    driver keeps that limit, with ``seconds_left``.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any]) -> None:
        self._pg = connection.pgconn
        self._max_wait = max_wait_of(connection)
        self._sent_at = inf
        self._adapt = Transformer.from_context(connection)
        self._prepared = _Prepared(self._pg)
        self._due: deque[_Due[Owner]] = deque()
        self._notified: list[str] = []
        self.socket = self._pg.socket
        self.is_waiting = False
        """True until the reply to a sync has come."""
        notified = self._notified  # a handler that held self would make a reference cycle
        connection.add_notify_handler(lambda notice: notified.append(notice.payload))

    @property
    def is_begun(self) -> bool:
        """True if a group has begun, and the reply to its sync was not collected yet."""
        return self._pg.pipeline_status != pq.PipelineStatus.OFF

    def send(
        self,
        owner: Owner,
        key: StatementKey,
        values: Sequence[Buffer | None],
        formats: Sequence[pq.Format],
        wants_rows: bool = True,
    ) -> None:
        """Add a statement to the group; it is prepared once a connection.

        An error of the statement is always an outcome; its rows are one if ``wants_rows``. Raises
        psycopg.OperationalError if the connection is lost.
        """
        if not self._due:
            self._begin()
        name = self._prepared.names.get(key)
        if name is None:
            name = self._prepared.prepare(key)
            self._due.append((owner, key, False))
        else:
            self._prepared.names.move_to_end(key)
        self._pg.send_query_prepared(name, values, formats, pq.Format.BINARY)
        self._due.append((owner, key, wants_rows))

    def sync(self, now: float) -> None:
        """End the group with a sync. The server replies even if the group is empty."""
        if not self._due:
            self._begin()
        self._pg.pipeline_sync()
        self.is_waiting, self._sent_at = True, now

    def wait_from(self, now: float) -> None:
        """Start the time limit of the replies at this instant of the driver's clock."""
        self._sent_at = now

    def seconds_left(self, now: float) -> float:
        """The seconds until the replies are overdue; 0 or negative if they are."""
        return self._sent_at + self._max_wait - now

    def waited_seconds(self, now: float) -> float:
        """For how many seconds the replies have been missing; 0 if none is missing."""
        return max(0.0, now - self._sent_at)

    def flush(self) -> bool:
        """Write buffered output. Return True if some is left, because the send buffer is full.

        Then call ``flush`` again when the socket is writable, and ``consume`` meanwhile: if both
        sides only wrote, both would wait for ever.
        """
        return bool(self._pg.flush())

    def consume(self) -> None:
        """Read arrived bytes. Raises psycopg.OperationalError if the connection is lost."""
        self._pg.consume_input()

    def collect(self, outcomes: list[tuple[Owner | None, StatementResult]]) -> None:
        """Append the outcomes that have arrived, in order. A skipped statement has no outcome.

        The closing of a prepared statement has no owner; only its error is an outcome. Raises
        psycopg.OperationalError, after the outcomes so far, if the connection is lost or if results
        can no longer be matched with statements.
        """
        pg, due, is_between = self._pg, self._due, False
        while self.is_waiting and not pg.is_busy():
            result = pg.get_result()
            if result is None:
                # A NULL result ends a statement's results. A lost connection gives only NULLs.
                if is_between:
                    raise psycopg.OperationalError("the connection is lost")
                is_between = True
                continue
            is_between = False
            status = result.status
            if status == _SYNC:
                pg.exit_pipeline_mode()
                self.is_waiting, self._sent_at = False, inf
                return
            # A result beyond the expected ones means that the server is closing the connection;
            # all replies before it are complete.
            owner, key, wants_rows = due.popleft() if due else _NOBODYS
            if status == _ROWS:
                if wants_rows:
                    outcomes.append((owner, self._rows(result)))
            elif status in (_FAILED, _PASSED_OVER):
                if key is not None:
                    self._prepared.forget(key)
                if status == _FAILED:
                    outcomes.append((owner, self._error(result)))
            elif status not in _NO_ROWS:
                # COPY: libpq would now return COPY results without end.
                outcomes.append((owner, psycopg.ProgrammingError("the statement copies")))
                raise psycopg.OperationalError("the statement takes the connection for itself")
            elif wants_rows:
                outcomes.append((owner, None))

    def notifications(self) -> list[str]:
        """Return the payloads that arrived since the last call, including those that psycopg read.

        Call it after ``collect``: libpq may have read a notification behind the results, and the
        socket does not become readable again for bytes that were read.
        """
        notified = self._notified
        while notice := self._pg.notifies():
            notified.append(notice.extra.decode())
        payloads = notified[:]
        notified.clear()
        return payloads

    def close(self) -> None:
        """Close the connection, even if replies are missing."""
        self._pg.finish()
        self.is_waiting, self._sent_at = False, inf

    def _begin(self) -> None:
        self._pg.enter_pipeline_mode()
        # Close prepared statements first: PostgreSQL would skip them behind a failed statement.
        outdated = self._prepared.outdated
        self._due.extend([_NOBODYS] * len(outdated))
        while outdated:
            self._pg.send_close_prepared(outdated.pop())

    def _rows(self, result: pq.abc.PGresult) -> Rows | Exception:
        try:
            self._adapt.set_pgresult(result)
            return self._adapt.load_rows(0, result.ntuples, tuple)
        except Exception as error:
            return error  # a value that Python cannot represent, such as an infinite timestamp
        finally:
            self._adapt.set_pgresult(None)  # free a large result before the next one comes

    def _error(self, result: pq.abc.PGresult) -> psycopg.Error:
        """Return a statement's error. Raises OperationalError if the error ends the connection."""
        error = error_from_result(result)
        # An error that libpq itself made up, because the connection was lost, has no severity.
        is_lost = self._pg.status == pq.ConnStatus.BAD
        if is_lost or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
            raise psycopg.OperationalError(str(error)) from error
        return error


class _Prepared:
    """The prepared statements of a connection in pipeline mode, least recently used first."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg
        self.names: OrderedDict[StatementKey, bytes] = OrderedDict()
        self.outdated: list[bytes] = []
        """Statements that are closed with the next group."""
        self._made = 0

    def prepare(self, key: StatementKey) -> bytes:
        """Prepare a statement, and return its name. The result of PREPARE will come."""
        if len(self.names) >= _MOST_PREPARED:
            self.outdated.append(self.names.popitem(last=False)[1])
        self._made += 1
        name = self.names[key] = b"ledger%d" % self._made
        self._pg.send_prepare(name, *key)
        return name

    def forget(self, key: StatementKey) -> None:
        """Prepare a statement again at its next use: after any error, whatever the reason."""
        if name := self.names.pop(key, None):
            self.outdated.append(name)


@lru_cache(4096)
def numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a statement with PostgreSQL's placeholders (``$1``), and their names in order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if match[1] is None:
            raise psycopg.ProgrammingError("a placeholder is %(name)s, a percent sign %%")
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return _PLACEHOLDER.sub(number, statement).encode(), tuple(names)
