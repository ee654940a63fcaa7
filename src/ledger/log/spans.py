"""Spans beside the log (contract, Traces): by them a run finds its parent and its tokens.

Spans of one organization are stored one request after the other, each with what it finds of the
others. So of two requests that bring a run and its parent, the later one finds both, however close
together they come.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ledger.log.event_log import planned_once
from ledger.log.tables import SPAN, SpanRow
from ledger.postgres.binary import array
from ledger.postgres.locks import SPANS
from ledger.postgres.pipeline import Pipeline, Statement, Value, named
from ledger.postgres.session import DURABLE, AppendConnection

MOST = 100_000
"""The spans of an organization that are kept: the oldest leave first."""

KEPT_FOR = "1 hour"

_SENT = tuple(SPAN.columns)[1:13]
"""The columns that a request tells of a span, beside its organization."""

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
        AND s.{key} = {of}.{by} OFFSET 0
) AS s ON true
"""
_KNOWN = _FOUND.format(what="true AS is_known, s.source", of="sent", key="span_id", by="span_id")
_SPAN = _FOUND.format(what="s.*", of="kin", key="span_id", by="span_id")
_ABOVE = _FOUND.format(what="s.parent_id, s.source", of="up", key="span_id", by="span_id")
_BELOW = _FOUND.format(what="s.span_id, s.source", of="down", key="parent_id", by="span_id")

# A span that was stored before stays as it arrived first, except that it may become a run: its line
# was missing at first.
_KEEP = f"""
WITH sent AS (SELECT {_PARTS})
INSERT INTO ledger.span ({", ".join(SPAN.columns)})
SELECT %(organization_id)s, {", ".join(f"sent.{name}" for name in _SENT)},
    last.number + row_number() OVER (), clock_timestamp()
FROM (SELECT coalesce(({_LAST}), 0) AS number) AS last
CROSS JOIN (
    SELECT sent.* FROM sent LEFT {_KNOWN.strip()}
    WHERE s.is_known IS NULL OR (s.source IS NULL AND sent.source IS NOT NULL)
) AS sent
ON CONFLICT (span_id, trace_id, organization_id) DO UPDATE
SET source = excluded.source, workspace_id = excluded.workspace_id
"""

_DROP_OLDEST = f"""
DELETE FROM ledger.span WHERE {_OWN} AND number <= ({_LAST}) - {MOST}
"""

# Up from the parents of these spans to the nearest runs, and down from the spans to the nearest
# runs. UNION drops what was found before, so each span is looked at once, and a circle ends.
_KIN = f"""
WITH RECURSIVE sent AS (
    SELECT unnest(%(trace_id)s::bytea[]) AS trace_id, unnest(%(span_id)s::bytea[]) AS span_id,
        unnest(%(parent_id)s::bytea[]) AS parent_id
), up AS (
    SELECT trace_id, parent_id AS span_id FROM sent
    WHERE parent_id IS NOT NULL AND (trace_id, parent_id) NOT IN (
        SELECT trace_id, span_id FROM sent)
    UNION
    SELECT up.trace_id, s.parent_id FROM up {_ABOVE.strip()}
    WHERE s.source IS NULL AND s.parent_id IS NOT NULL
), down AS (
    SELECT trace_id, span_id, false AS is_run FROM sent
    UNION
    SELECT down.trace_id, s.span_id, s.source IS NOT NULL FROM down {_BELOW.strip()}
    WHERE NOT down.is_run
)
SELECT {", ".join(f"s.{name}" for name in SPAN.columns)}
FROM (
    SELECT trace_id, span_id FROM up UNION SELECT trace_id, span_id FROM down
    EXCEPT SELECT trace_id, span_id FROM sent
) AS kin {_SPAN.strip()}
"""

# Forget old spans, of all organizations.
DROP_OLD = f"""
DELETE FROM ledger.span WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM ledger.span
    WHERE arrived_at <= clock_timestamp() - interval '{KEPT_FOR}' LIMIT %(limit)s))
"""


class Spans:
    """The spans that one process stores, on a connection and a thread of their own.

    Each call's rows are of one organization. Raises PostgreSQL's error; the rows may be stored or
    not, and may be sent again.
    """

    def __init__(self, conninfo: str) -> None:
        """Does not connect yet."""
        self._conninfo = conninfo
        self._pipeline: Pipeline | None = None
        self._thread = ThreadPoolExecutor(1, "spans")

    async def keep(self, rows: Sequence[SpanRow]) -> list[SpanRow]:
        """Store spans, and return their kin."""
        return await self._run(rows, is_new=True)

    async def kin(self, rows: Sequence[SpanRow]) -> list[SpanRow]:
        """Other spans above and below these, up to the nearest run each way."""
        return await self._run(rows, is_new=False)

    def close(self) -> None:
        self._thread.shutdown()
        if self._pipeline is not None:
            self._pipeline.connection.close()

    async def _run(self, rows: Sequence[SpanRow], *, is_new: bool) -> list[SpanRow]:
        if not rows:
            return []
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._exchange, rows, is_new)

    def _exchange(self, rows: Sequence[SpanRow], is_new: bool) -> list[SpanRow]:
        columns = dict(zip(SPAN.columns, zip(*rows, strict=True), strict=True))
        values: dict[str, Value] = {
            name: array(SPAN.columns[name], columns[name]) for name in _SENT
        }
        values["organization_id"] = rows[0].organization_id
        first = [named(_LOCK, values)] if is_new else []
        with self._connected().transaction(*first) as work:
            if is_new:
                work.defer(named(_KEEP, values))
                work.defer(named(_DROP_OLDEST, values))
            found = work.run(named(_KIN, values))
        return [SpanRow(*row) for row in found]

    def _connected(self) -> Pipeline:
        """The connection, or a new one if the former is lost."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.connection.closed or pipeline.is_lost():
            connection: AppendConnection[Any] = AppendConnection.connect(
                self._conninfo,
                autocommit=True,
                application_name="ledger spans",
                options=f"{planned_once(self._conninfo)} -c enable_bitmapscan=off",
            )
            pipeline = self._pipeline = Pipeline(connection)
            pipeline.run(Statement(DURABLE))
        return pipeline
