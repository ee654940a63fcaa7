"""A connection on which reads are pipelined: sent together, answered in order, one round trip.

A lane puts groups of reads through an ``Exchange`` that the loop drives. A group is one implicit
transaction, as in any pipeline: the tenant's settings, local to it, are those of the statements
after them, and nothing is left of them for the next group. An error ends the transaction, so the
reads behind it in the group are passed over; they may be asked again. Each statement has a snapshot
of its own all the same, but what it locks stays locked, and PostgreSQL keeps what it answers to
itself, until the group ends: so nothing that takes long may be among others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import DeadlockDetected

from ledger.postgres.exchange import Exchange, Rows, SilentServer, StatementKey, numbered
from ledger.postgres.loop import LoopDriver
from ledger.postgres.scope import Planning, Tenant
from ledger.postgres.session import ANSWER_SECONDS

_Adapted = tuple[StatementKey, Sequence[Buffer | None], Sequence[pq.Format]]
"""A statement with its parameters as they are sent."""

# What holds for the statements after it: whose rows they see, and how they are planned.
_SCOPE = """
SELECT set_config('ledger.organization_id', %(organization)s, true),
       set_config('ledger.workspace_id', %(workspace)s, true),
       set_config('plan_cache_mode', %(plans)s, true),
       set_config('enable_seqscan', %(walks)s, true)
"""


class Asked:
    """One read, and the future of its rows."""

    __slots__ = (
        "deadline",
        "future",
        "is_long",
        "parameters",
        "planning",
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
        planning: Planning,
    ) -> None:
        self.tenant, self.statement, self.parameters = tenant, statement, parameters
        self.planning, self.is_long = planning, planning is not Planning.SHORT
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
        self._exchange: Exchange[Asked] = Exchange(connection)
        self._driver = LoopDriver(self._exchange, self._take, self._lose)
        self._adapt = Transformer.from_context(connection)
        self._group: Sequence[Asked] = ()
        self._loop = asyncio.get_running_loop()

    def close(self) -> list[Asked]:
        """End the connection; the reads that were under way, which nobody answers any more."""
        self._driver.stop()
        self._exchange.close()
        return self._end_group()

    def send(self, group: Sequence[Asked]) -> None:
        """Send reads; those of one tenant should stand together."""
        self._group = group
        try:
            self._add(group)
        except psycopg.Error as error:
            self._lose(error)
        else:
            self._driver.sync()

    def give_up_overdue(self) -> bool:
        """Fail reads that are overdue, and lose the connection where its replies are: whether so.

        A proxy may keep a connection alive whose server has vanished. A read that was sent before
        on another connection is overdue sooner than this one is.
        """
        now = self._loop.time()
        for asked in self._group:
            if now >= asked.deadline:
                asked.fail(SilentServer())
        is_overdue = self._exchange.seconds_left(now) <= 0
        if is_overdue:
            self.give_up()
        return is_overdue

    def give_up(self) -> None:
        """Close the connection; the reads that were under way may be asked again."""
        self._lose(SilentServer())

    def waited_seconds(self) -> float:
        """For how long the replies to the group have been waited for; 0 where there is none."""
        return self._exchange.waited_seconds(self._loop.time())

    def _add(self, group: Sequence[Asked]) -> None:
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
                self._exchange.send(asked, *scope, is_asked=False)
                tenant = asked.tenant
            self._exchange.send(asked, *read)

    def _adapted(self, statement: str, parameters: Mapping[str, Any]) -> _Adapted:
        text, names = numbered(statement)
        try:
            values = [parameters[name] for name in names]
        except KeyError as error:
            raise psycopg.ProgrammingError(f"query parameter missing: {error}") from error
        adapt = self._adapt
        dumped = adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
        return (text, adapt.types or ()), dumped, adapt.formats or ()

    def _take(self) -> bool:
        """Tell whoever asked; whether those were the group's last."""
        for asked, outcome in self._exchange.take():
            if asked is None or isinstance(outcome, DeadlockDetected):
                # Reads of one group hold their locks together, so they may meet a swap of views
                # crosswise: that is no fault of theirs, and they are passed over.
                continue
            if isinstance(outcome, list):
                asked.tell(outcome)
            else:
                asked.fail(outcome or psycopg.ProgrammingError("the statement gives no rows"))
        if self._exchange.is_waiting or not self._group:
            return False
        self._done(self, self._end_group(), None)
        return True

    def _end_group(self) -> list[Asked]:
        """The reads that have no answer."""
        group, self._group = self._group, ()
        return [asked for asked in group if not asked.future.done()]

    def _lose(self, error: psycopg.Error) -> None:
        self._done(self, self.close(), error)


def _scope_of(asked: Asked) -> Mapping[str, str]:
    """The parameters of its scope."""
    organization, workspace = asked.tenant
    plans, walks = asked.planning.settings
    return {"organization": organization, "workspace": workspace, "plans": plans, "walks": walks}
