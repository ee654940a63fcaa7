"""A connection on which reads are pipelined: sent together, answered in order, one round trip.

psycopg's own pipeline takes 70 µs of a worker's time for each read, more than all else that a read
takes; this one 5 to 30, by how many travel together. So psycopg connects, adapts values and knows
the errors, but the sending and receiving is done with its ``pq`` module, in callbacks of the loop.

What is sent together is one implicit transaction, as in any pipeline: the tenant's settings, local
to it, are those of the statements after them, and nothing is left of them for the next group. An
error ends the transaction, so the reads behind it in the group are passed over; they may be asked
again. Each statement has a snapshot of its own all the same, but what it locks stays locked, and
PostgreSQL keeps what it answers to itself, until the group ends: so nothing that takes long may be
among others.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import DeadlockDetected, error_from_result

from ledger.postgres.pipeline import Rows
from ledger.postgres.prepared import Key, Prepared, numbered
from ledger.postgres.session import ANSWER_SECONDS

Tenant = tuple[str, str]
"""Organization and workspace; empty where a credential is bound to none."""

# What holds for the statements after it. Most are planned once a connection, whatever their
# parameters: they follow an index in order, and to plan one anew takes as long as to execute it, or
# three times as long. Since such a plan stays, it must follow the index on a table that is empty
# too. Where the best way depends on the values, PostgreSQL looks at them each time: left to itself
# it would settle on one plan for all, by what the first few asked for.
_SCOPE = """
SELECT set_config('ledger.organization_id', %(organization)s, true),
       set_config('ledger.workspace_id', %(workspace)s, true),
       set_config('plan_cache_mode', %(plans)s, true),
       set_config('enable_seqscan', %(walks)s, true)
"""


_OVERDUE = "the database has not answered in time"

PLANNED_ONCE = ("force_generic_plan", "off")
PLANNED_BY_VALUES = ("force_custom_plan", "on")
"""How a statement is planned, and whether a plan may walk through whole tables."""


class Asked:
    """One read, and the future of its rows."""

    __slots__ = (
        "by_values",
        "deadline",
        "future",
        "is_long",
        "parameters",
        "since",
        "statement",
        "tenant",
        "tries",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tenant: Tenant,
        statement: str,
        parameters: Mapping[str, Any],
        is_long: bool = False,
        by_values: bool = False,
    ) -> None:
        self.tenant, self.statement, self.parameters = tenant, statement, parameters
        self.is_long, self.by_values = is_long, by_values
        self.future: asyncio.Future[Rows] = loop.create_future()
        self.since = loop.time()
        """Since when it has waited for a lane."""
        self.deadline = self.since + ANSWER_SECONDS
        self.tries = 0

    def tell(self, rows: Rows) -> None:
        """Answer, unless the one who asked has gone."""
        if not self.future.done():
            self.future.set_result(rows)

    def fail(self, error: Exception) -> None:
        """Refuse, unless the one who asked has gone."""
        if not self.future.done():
            self.future.set_exception(error)


class _Statement(NamedTuple):
    """What is sent for a read, or for its scope."""

    key: Key
    values: Sequence[Any]
    formats: Sequence[pq.Format]


class _Due(NamedTuple):
    """A result that is to come, and whose read fails if it is an error."""

    asked: Asked | None
    key: Key | None = None
    answers: bool = False
    """Its rows are what was asked for."""


class Lane:
    """One group of reads at a time: from ``send`` until ``done(lane, passed_over, None)``.

    ``done(lane, unanswered, error)`` says that the connection is lost; it may be at any time, also
    within ``send``. After ``close`` nothing is said any more.
    """

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        done: Callable[["Lane", list[Asked], psycopg.Error | None], None],
    ) -> None:
        self._connection, self._done = connection, done
        self._pg = connection.pgconn
        self._socket = self._pg.socket
        self._hang_up = select.poll()
        self._hang_up.register(self._socket, 0)
        self._adapt = Transformer.from_context(connection)
        self._prepared = Prepared(self._pg)
        self._group: Sequence[Asked] = ()
        self._due: deque[_Due] = deque()
        self._is_full = False
        """The socket takes no more for now."""
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._receive)

    def close(self) -> list[Asked]:
        """End the connection; the reads that were under way, which nobody answers any more."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._pg.finish()
        unanswered = [asked for asked in self._group if not asked.future.done()]
        self._group = ()
        return unanswered

    def send(self, group: Sequence[Asked]) -> None:
        """Send reads; those of one tenant should stand together."""
        self._group = group
        self._sent_at = self._loop.time()
        try:
            self._due.extend([_Due(None)] * self._prepared.close_outdated())
            self._send_reads(group)
            self._pg.pipeline_sync()
        except psycopg.Error as error:
            self._lose(error)
        else:
            self._flush()

    def give_up_overdue(self) -> bool:
        """Fail reads that are overdue, and lose the connection where its replies are: whether so.

        A proxy may keep a connection alive whose server has vanished. A read that was sent before
        on another connection is overdue sooner than this one is.
        """
        now = self._loop.time()
        for asked in self._group:
            if now >= asked.deadline:
                asked.fail(psycopg.OperationalError(_OVERDUE))
        is_overdue = self.waited_seconds() >= ANSWER_SECONDS
        if is_overdue:
            self.give_up()
        return is_overdue

    def give_up(self) -> None:
        """Close the connection; the reads that were under way may be asked again."""
        self._lose(psycopg.OperationalError(_OVERDUE))

    def waited_seconds(self) -> float:
        """For how long the replies to the group have been waited for; 0 where there is none."""
        return self._loop.time() - self._sent_at if self._group else 0.0

    def _send_reads(self, group: Sequence[Asked]) -> None:
        tenant: Tenant | None = None
        for asked in group:
            scope = None
            try:
                if asked.tenant != tenant:
                    scope = self._adapted(_SCOPE, _scope_of(asked))
                read = self._adapted(asked.statement, asked.parameters)
            except Exception as error:
                # A value that PostgreSQL does not know. Nothing was sent for it: whatever went
                # wrong, the others' statements and results must stay in step.
                asked.fail(error)
                continue
            if scope is not None:
                self._execute(scope, asked, answers=False)
                tenant = asked.tenant
            self._execute(read, asked, answers=True)

    def _adapted(self, statement: str, parameters: Mapping[str, Any]) -> _Statement:
        text, names = numbered(statement)
        try:
            values = [parameters[name] for name in names]
        except KeyError as error:
            raise psycopg.ProgrammingError(f"query parameter missing: {error}") from error
        adapt = self._adapt
        dumped = adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
        return _Statement((text, adapt.types or ()), dumped, adapt.formats or ())

    def _execute(self, statement: _Statement, asked: Asked, answers: bool) -> None:
        if self._prepared.send(*statement):
            self._due.append(_Due(asked, statement.key))
        self._due.append(_Due(asked, statement.key, answers))

    def _flush(self) -> None:
        """Send what is left. Where the socket takes no more, go on when it does."""
        try:
            is_full = bool(self._pg.flush())
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if is_full and not self._is_full:
            self._loop.add_writer(self._socket, self._flush)
        elif self._is_full and not is_full:
            self._loop.remove_writer(self._socket)
        self._is_full = is_full

    def _receive(self) -> None:
        """Take what has come.

        uvloop calls once only for a socket that is in error, as one is whose other end went without
        reading all: then what is left in it must be taken now, up to the error, or the group would
        be waited for for ever.
        """
        try:
            while True:
                self._pg.consume_input()
                if self._take_results() or not self._hang_up.poll(0):
                    return
        except psycopg.OperationalError as error:
            self._lose(error)

    def _take_results(self) -> bool:
        """Tell whoever asked; whether those were the group's last.

        Raises OperationalError where the connection, or our place in it, is lost.
        """
        pg, is_between = self._pg, False
        while not pg.is_busy() and self._group:
            result = pg.get_result()
            if result is None:
                # One ends each statement's results. From a lost connection they come without end.
                if is_between:
                    raise psycopg.OperationalError("the connection gives no more results")
                is_between = True
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                self._finish()
                return True
            else:
                is_between = False
                # One more than is due says that the connection ends, behind all that it answered.
                self._take(self._due.popleft() if self._due else _Due(None), result)
        return False

    def _take(self, due: _Due, result: pq.abc.PGresult) -> None:
        """One result. Raises OperationalError where it is the connection's last."""
        status = result.status
        if status == pq.ExecStatus.FATAL_ERROR:
            self._take_error(due, result)
        elif status == pq.ExecStatus.PIPELINE_ABORTED:
            self._forget(due)
        elif due.answers and due.asked is not None:
            if status == pq.ExecStatus.TUPLES_OK:
                self._tell(due.asked, result)
                return
            due.asked.fail(psycopg.ProgrammingError("the statement gives no rows"))
            if status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
                # It copies: what comes now is no result, and would never end.
                raise psycopg.OperationalError("the statement takes the connection for itself")

    def _tell(self, asked: Asked, result: pq.abc.PGresult) -> None:
        try:
            self._adapt.set_pgresult(result)
            rows = self._adapt.load_rows(0, result.ntuples, tuple)
        except Exception as error:
            # A value that Python does not know, as an infinite instant.
            asked.fail(error)
        else:
            asked.tell(rows)
        finally:
            self._adapt.set_pgresult(None)  # it may be large, and the next one far off

    def _take_error(self, due: _Due, result: pq.abc.PGresult) -> None:
        error = error_from_result(result)
        # One that libpq made up, having lost the connection, has no severity.
        is_lost = self._pg.status == pq.ConnStatus.BAD
        if is_lost or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
            raise psycopg.OperationalError(str(error)) from error
        self._forget(due)
        # Reads of one group hold their locks together, so they may meet a swap of views crosswise:
        # that is no fault of theirs, and they are passed over.
        if due.asked is not None and not isinstance(error, DeadlockDetected):
            due.asked.fail(error)

    def _forget(self, due: _Due) -> None:
        if due.key is not None:
            self._prepared.forget(due.key)

    def _finish(self) -> None:
        passed_over = [asked for asked in self._group if not asked.future.done()]
        self._group = ()
        self._done(self, passed_over, None)

    def _lose(self, error: psycopg.Error) -> None:
        self._done(self, self.close(), error)


def _scope_of(asked: Asked) -> Mapping[str, str]:
    """The parameters of its scope."""
    organization, workspace = asked.tenant
    plans, walks = PLANNED_BY_VALUES if asked.by_values else PLANNED_ONCE
    return {"organization": organization, "workspace": workspace, "plans": plans, "walks": walks}
