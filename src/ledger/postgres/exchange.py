"""One connection's exchange with PostgreSQL: statements out, results in, in the same order.

For each statement psycopg takes 60 to 70 µs of the interpreter's time, in its own pipeline too;
this exchange takes 5 to 30, depending on how many statements travel together. So psycopg connects,
adapts values and knows the errors, and its ``pq`` module sends and receives.

    send, send, sync ─▶ flush ─▶ socket ─▶ consume ─▶ take: an outcome a statement

The exchange never waits: it has no poll, no sleep, no loop. Its two drivers have them:
``pipeline.py`` for a thread and ``loop.py`` for an event loop.

All statements up to a ``sync`` are a group. A group is one transaction, unless its statements begin
or end one; after an error the rest of the group is passed over. The connection is in pipeline mode
from a group's first statement until the reply to its sync. Between groups psycopg may use it.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import inf
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import TupleRow

from ledger.postgres.session import patience_of

_MOST_PREPARED = 100
"""Statements that stay prepared: each takes memory in PostgreSQL."""

_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%|)")

StatementKey = tuple[bytes, tuple[int, ...]]
"""A statement, and the types of its parameters where it does not say: what is prepared."""

Rows = list[TupleRow]

StatementResult = Rows | Exception | None
"""A statement's rows, its error, or None where its kind gives no rows."""

Owner = TypeVar("Owner")
"""The type of that for which statements are sent: outcomes come with it."""

_Due = tuple[Owner | None, StatementKey | None, bool]
"""A result to come: its owner, its statement's key, and whether its rows are an outcome."""

_NOBODYS: tuple[None, None, bool] = (None, None, False)
"""The result of closing a prepared statement, or one beyond the expected results."""

_ROWS = pq.ExecStatus.TUPLES_OK
_NO_ROWS = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_FAILED = pq.ExecStatus.FATAL_ERROR
_PASSED_OVER = pq.ExecStatus.PIPELINE_ABORTED
_SYNC = pq.ExecStatus.PIPELINE_SYNC


class SilentServer(psycopg.OperationalError):
    """A reply has not come in time; connect anew."""

    def __init__(self) -> None:
        super().__init__("the database has not answered in time")


class Exchange(Generic[Owner]):
    """The groups of one connection, which is in autocommit mode. Make it before the first LISTEN.

    The replies to a group are waited for as long as the connection's class says (``patience_of``);
    the driver asks for ``seconds_left``.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any]) -> None:
        self._pg = connection.pgconn
        self._patience = patience_of(connection)
        self._sent_at = inf
        self._adapt = Transformer.from_context(connection)
        self._prepared = _Prepared(self._pg)
        self._due: deque[_Due[Owner]] = deque()
        self._notified: list[str] = []
        self.socket = self._pg.socket
        self.is_waiting = False
        """Whether the reply to a sync is to come."""
        notified = self._notified  # not self, which would make a circle
        connection.add_notify_handler(lambda heard: notified.append(heard.payload))

    @property
    def is_begun(self) -> bool:
        """Whether a group has begun whose last reply has not been taken."""
        return self._pg.pipeline_status != pq.PipelineStatus.OFF

    def send(
        self,
        owner: Owner,
        key: StatementKey,
        values: Sequence[Buffer | None],
        formats: Sequence[pq.Format],
        is_asked: bool = True,
    ) -> None:
        """Add a statement to the group, prepared once a connection.

        Its error is an outcome in any case, its rows where they are asked for. Raises
        psycopg.OperationalError where the connection is lost.
        """
        if not self._due:
            self._begin()
        if self._prepared.send(key, values, formats):
            self._due.append((owner, key, False))
        self._due.append((owner, key, is_asked))

    def sync(self, now: float) -> None:
        """End the group, which may be empty: the server answers all the same."""
        if not self._due:
            self._begin()
        self._pg.pipeline_sync()
        self.is_waiting, self._sent_at = True, now

    def wait_from(self, now: float) -> None:
        """Count the patience from this instant, on the driver's clock."""
        self._sent_at = now

    def seconds_left(self, now: float) -> float:
        """For how long the server may still be waited for; at most 0 where it is overdue."""
        return self._sent_at + self._patience - now

    def waited_seconds(self, now: float) -> float:
        """For how long the server has been waited for; 0 where it owes nothing."""
        return max(0.0, now - self._sent_at)

    def flush(self) -> bool:
        """Write what is left; whether some is left still, since the socket takes no more now.

        Then write again when the socket is writable, and consume meanwhile: if both sides only
        wrote, both would wait for ever.
        """
        return bool(self._pg.flush())

    def consume(self) -> None:
        """Read what has come. Raises psycopg.OperationalError where the connection is lost."""
        self._pg.consume_input()

    def take(self) -> Iterator[tuple[Owner | None, StatementResult]]:
        """The outcomes that have come: of each statement that was not passed over, in order.

        Statements of no owner are the exchange's own; of them only errors are told. Raises
        psycopg.OperationalError where the connection is lost, or the place in it.
        """
        pg, due, is_between = self._pg, self._due, False
        while self.is_waiting and not pg.is_busy():
            result = pg.get_result()
            if result is None:
                # A NULL result ends a statement's results. A lost connection gives only these.
                if is_between:
                    raise psycopg.OperationalError("the connection is lost")
                is_between = True
                continue
            is_between = False
            status = result.status
            if status == _SYNC:
                pg.exit_pipeline_mode()
                self._owe_nothing()
                return
            # A result beyond the expected ones means that the server is closing the connection;
            # all replies before it are complete.
            owner, key, is_asked = due.popleft() if due else _NOBODYS
            if status == _ROWS:
                if is_asked:
                    yield owner, self._rows(result)
            elif status in (_FAILED, _PASSED_OVER):
                if key is not None:
                    self._prepared.forget(key)
                if status == _FAILED:
                    yield owner, self._error(result)
            elif status not in _NO_ROWS:
                # COPY: what comes now is no result, and would never end.
                yield owner, psycopg.ProgrammingError("the statement copies")
                raise psycopg.OperationalError("the statement takes the connection for itself")
            elif is_asked:
                yield owner, None

    def notifications(self) -> list[str]:
        """The payloads that have come since the last time, also while psycopg had the connection.

        To be called after ``take``: taking reads on, perhaps to a notification behind the results,
        and for what has been read no socket becomes readable.
        """
        notified = self._notified
        while heard := self._pg.notifies():
            notified.append(heard.extra.decode())
        taken = notified[:]
        notified.clear()
        return taken

    def close(self) -> None:
        """End the connection, whatever it owes."""
        self._pg.finish()
        self._owe_nothing()

    def _begin(self) -> None:
        self._pg.enter_pipeline_mode()
        # Before all others: behind a statement that fails these would be passed over.
        self._due.extend([_NOBODYS] * self._prepared.close_outdated())

    def _owe_nothing(self) -> None:
        self.is_waiting, self._sent_at = False, inf

    def _rows(self, result: pq.abc.PGresult) -> Rows | Exception:
        try:
            self._adapt.set_pgresult(result)
            return self._adapt.load_rows(0, result.ntuples, tuple)
        except Exception as error:
            return error  # a value that Python does not know, as an infinite instant
        finally:
            self._adapt.set_pgresult(None)  # it may be large, and the next one far off

    def _error(self, result: pq.abc.PGresult) -> psycopg.Error:
        """A statement's error. Raises OperationalError where it is the connection's."""
        error = error_from_result(result)
        # An error that libpq made up, having lost the connection, has no severity.
        is_lost = self._pg.status == pq.ConnStatus.BAD
        if is_lost or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
            raise psycopg.OperationalError(str(error)) from error
        return error


class _Prepared:
    """What one connection in pipeline mode has prepared: the statements that were used last."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg
        self._names: OrderedDict[StatementKey, bytes] = OrderedDict()
        self._outdated: list[bytes] = []
        self._made = 0

    def close_outdated(self) -> int:
        """Send word of those not needed any more; how many results will come of it.

        To be sent before others: behind a statement that fails it would be passed over.
        """
        closed = len(self._outdated)
        while self._outdated:
            self._pg.send_close_prepared(self._outdated.pop())
        return closed

    def send(
        self, key: StatementKey, values: Sequence[Buffer | None], formats: Sequence[pq.Format]
    ) -> bool:
        """Send a statement; whether a result of its preparation will come before its own."""
        name = self._names.get(key)
        is_new = name is None
        if name is None:
            if len(self._names) >= _MOST_PREPARED:
                self._outdated.append(self._names.popitem(last=False)[1])
            self._made += 1
            name = self._names[key] = b"ledger%d" % self._made
            self._pg.send_prepare(name, *key)
        else:
            self._names.move_to_end(key)
        self._pg.send_query_prepared(name, values, formats, pq.Format.BINARY)
        return is_new

    def forget(self, key: StatementKey) -> None:
        """Prepare a statement anew the next time: after an error, whatever it was."""
        if name := self._names.pop(key, None):
            self._outdated.append(name)


@lru_cache(4096)
def numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with PostgreSQL's own placeholders, and the names they stand for in order."""
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
