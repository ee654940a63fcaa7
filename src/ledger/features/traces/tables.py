"""Spans beside the log (contract, Traces): by them a run finds its parent and its tokens.

Spans of one organization are stored one request after the other, each with what it finds of the
others. So of two requests that bring a run and its parent, the later one finds both, however close
together they come.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from ledger.engine.log.event_log import planned_once
from ledger.engine.log.tables import SPAN, SpanRow
from ledger.engine.postgres.binary import array
from ledger.engine.postgres.locks import SPANS
from ledger.engine.postgres.pipeline import Pipeline, Statement, Value, named
from ledger.engine.postgres.session import DURABLE, AppendConnection
from ledger.engine.postgres.timing import ANSWER_SECONDS, CANCEL_SECONDS
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.recorded import Identity
from ledger.engine.values.values import name_of_span
from ledger.engine.writer.housekeeper import Round

T = TypeVar("T")

MOST = 100_000
"""The most spans of an organization; the oldest are dropped first."""

RETENTION = "1 hour"

LONGEST = 10_000
"""The most spans above those of a request that are read, besides one for each of them."""

_AT_ONCE = 20_000
"""The old spans that are forgotten in one round."""

_CONNECTIONS = 4

_OPTIONS = f"-c enable_bitmapscan=off -c statement_timeout={CANCEL_SECONDS}s"
"""PostgreSQL ends a statement before its request gives up: it holds the organization's lock."""

_SENT = tuple(SPAN.columns)[1:13]
"""The columns that a request sends of a span, besides its organization."""

_PARTS = ", ".join(f"unnest(%({name})s::{SPAN.columns[name]}[]) AS {name}" for name in _SENT)

_OWN = """
hashtext(organization_id) = hashtext(%(organization_id)s) AND organization_id = %(organization_id)s
""".strip()

_LAST = f"SELECT number FROM ledger.span WHERE {_OWN} ORDER BY number DESC LIMIT 1"

_LOCK = f"SELECT pg_advisory_xact_lock({SPANS}, hashtext(%(organization_id)s))"

# OFFSET 0 keeps a look-up one by key: the plan is made while the table is empty, and stays.
_FOUND = """
JOIN LATERAL (
    SELECT {what} FROM ledger.span AS s
    WHERE s.organization_id = %(organization_id)s AND s.trace_id = {of}.trace_id
        AND s.{key} = {of}.{by}{more} OFFSET 0
) AS s ON true
"""


def _found(what: str, of: str, key: str = "span_id", more: str = "") -> str:
    return _FOUND.format(what=what, of=of, key=key, by="span_id", more=more).strip()


_EXISTING = _found(
    "true AS is_known, s.source", "sent", more=" AND s.workspace_id = sent.workspace_id"
)

# A span that was stored before stays as it arrived first, except that it may become a run, which
# was refused before.
_KEEP = f"""
WITH sent AS (SELECT {_PARTS})
INSERT INTO ledger.span ({", ".join(SPAN.columns)})
SELECT %(organization_id)s, {", ".join(f"sent.{name}" for name in _SENT)},
    last.number + row_number() OVER (), clock_timestamp()
FROM (SELECT coalesce(({_LAST}), 0) AS number) AS last
CROSS JOIN (
    SELECT sent.* FROM sent LEFT {_EXISTING}
    WHERE s.is_known IS NULL OR (s.source IS NULL AND sent.source IS NOT NULL)
) AS sent
ON CONFLICT (span_id, trace_id, organization_id, workspace_id) DO UPDATE
SET source = excluded.source
"""

_DROP_OLDEST = f"""
DELETE FROM ledger.span WHERE {_OWN} AND number <= ({_LAST}) - {MOST}
"""

# These spans as they are stored, those above them up to the nearest runs, and those below them down
# to the nearest runs. UNION drops what was found before, so each span is read once, and a circle
# ends. A way up that is longer than any trace's is left.
_KIN = f"""
WITH RECURSIVE sent AS (
    SELECT unnest(%(trace_id)s::bytea[]) AS trace_id, unnest(%(span_id)s::bytea[]) AS span_id,
        unnest(%(parent_id)s::bytea[]) AS parent_id
), up AS (
    SELECT trace_id, parent_id AS span_id FROM sent
    WHERE parent_id IS NOT NULL AND (trace_id, parent_id) NOT IN (
        SELECT trace_id, span_id FROM sent)
    UNION
    SELECT up.trace_id, s.parent_id FROM up {_found("s.parent_id, s.source", "up")}
    WHERE s.source IS NULL AND s.parent_id IS NOT NULL
), down AS (
    SELECT trace_id, span_id, false AS is_run FROM sent
    UNION
    SELECT down.trace_id, s.span_id, s.source IS NOT NULL
    FROM down {_found("s.span_id, s.source", "down", "parent_id")}
    WHERE NOT down.is_run
)
SELECT {", ".join(f"s.{name}" for name in SPAN.columns)}
FROM (
    (SELECT trace_id, span_id FROM up LIMIT {LONGEST} + cardinality(%(span_id)s::bytea[]))
    UNION SELECT trace_id, span_id FROM down
) AS kin {_found("s.*", "kin")}
"""

# A run that was refused is none, unless another request has recorded it.
_REFUSED = f"""
UPDATE ledger.span AS s SET source = NULL
FROM (SELECT {_PARTS}, unnest(%(digest)s::uuid[]) AS digest) AS sent
WHERE s.organization_id = %(organization_id)s AND s.trace_id = sent.trace_id
    AND s.span_id = sent.span_id AND s.workspace_id = sent.workspace_id
    AND s.source = sent.source
    AND NOT EXISTS (SELECT FROM ledger.identity AS i WHERE i.digest = sent.digest)
"""

# Forget old spans, of all organizations.
_DROP_OLD = f"""
DELETE FROM ledger.span WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM ledger.span
    WHERE arrived_at <= clock_timestamp() - interval '{RETENTION}' LIMIT %(limit)s))
"""


class Spans:
    """The spans that one process stores, each organization's one request after the other.

    Each call's rows are of one organization. Raises PostgreSQL's error; the rows may be stored or
    not, and may be sent again.
    """

    def __init__(self, conninfo: str) -> None:
        """Does not connect yet."""
        self._conninfo = conninfo
        self._threads = ThreadPoolExecutor(_CONNECTIONS, "spans")
        self._of_thread = threading.local()
        """The pipeline of each thread."""
        self._pipelines: list[Pipeline] = []
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """An organization takes one thread at a time: its next request would wait there."""

    async def keep(self, rows: Sequence[SpanRow], make: Callable[[list[SpanRow]], T]) -> T:
        """Store spans; return what ``make`` makes of them as they are stored, and of their kin.

        Kin are the spans above and below, up to the nearest runs: there may be 100,000, so ``make``
        is called under the organization's lock. Raises Unavailable if the lock does not come.
        """
        return await self._serialized(rows[0].organization_id, self._keep, rows, make)

    async def refuse(self, rows: Sequence[SpanRow]) -> None:
        """Note that these runs were refused: the spans below them lie in the runs above them."""
        await self._serialized(rows[0].organization_id, self._refuse, rows)

    def close(self) -> None:
        self._threads.shutdown()
        for pipeline in self._pipelines:
            pipeline.connection.close()

    async def _serialized(self, organization_id: str, work: Callable[..., T], *arguments: Any) -> T:
        lock = self._locks.setdefault(organization_id, asyncio.Lock())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await lock.acquire()
                # The lock is held as long as the thread works, with or without its request.
                future = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
                future.add_done_callback(lambda done: _end(done, lock))
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise Unavailable("Spans of the organization wait for too long.") from error

    def _keep(self, rows: Sequence[SpanRow], make: Callable[[list[SpanRow]], T]) -> T:
        values = _values(rows)
        with self._connected().transaction(named(_LOCK, values)) as work:
            work.defer(named(_KEEP, values))
            work.defer(named(_DROP_OLDEST, values))
            found = work.run(named(_KIN, values))
        return make([SpanRow(*row) for row in found])

    def _refuse(self, rows: Sequence[SpanRow]) -> None:
        digests = [
            Identity.of_run(row.organization_id, row.source or "", name).digest
            for row in rows
            for name in [name_of_span(row.trace_id, row.span_id)]
        ]
        values = _values(rows) | {"digest": array("uuid", digests)}
        with self._connected().transaction(named(_LOCK, values)) as work:
            work.run(named(_REFUSED, values))

    def _connected(self) -> Pipeline:
        """The connection of this thread, or a new one if the former is lost."""
        pipeline: Pipeline | None = getattr(self._of_thread, "pipeline", None)
        if pipeline is None or pipeline.connection.closed or pipeline.is_lost():
            connection: AppendConnection[Any] = AppendConnection.connect(
                self._conninfo,
                autocommit=True,
                application_name="ledger spans",
                options=f"{planned_once(self._conninfo)} {_OPTIONS}",
            )
            if pipeline is not None:
                pipeline.connection.close()
                self._pipelines.remove(pipeline)
            pipeline = self._of_thread.pipeline = Pipeline(connection)
            self._pipelines.append(pipeline)
            pipeline.run(Statement(DURABLE))
        return pipeline


def _end(done: "asyncio.Future[Any]", lock: asyncio.Lock) -> None:
    lock.release()
    if not done.cancelled():
        done.exception()  # taken, also if its request has gone away


def _values(rows: Sequence[SpanRow]) -> dict[str, Value]:
    columns = dict(zip(SPAN.columns, zip(*rows, strict=True), strict=True))
    values: dict[str, Value] = {name: array(SPAN.columns[name], columns[name]) for name in _SENT}
    return values | {"organization_id": rows[0].organization_id}


def drop_old(round: Round) -> tuple[int, bool]:
    return round.drop(_DROP_OLD, _AT_ONCE)
