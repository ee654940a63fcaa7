"""The view behind runs: one row a run (contract 4).

Input, output and error stay as the log has them, encrypted; ``head`` and ``tail`` are the ready
JSON around the place where the edge splices them in.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import Cursor

from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS, Run
from ledger.domain.values import sort_key
from ledger.projection.rendering import members, time_text
from ledger.store.arrays import array

_CACHED = 20_000
"""Rows kept in memory between batches: a run seldom lives long."""

_LOAD = "SELECT fold FROM {table} WHERE run_id = ANY(%s::text[])"

# A payload that this batch does not bring stays as it is.
_STORE = """
INSERT INTO {table} AS t (run_id, run_key, line_id, organization_id, workspace_id, status,
    triggered_by, requested_at, head, tail, input, output, error, fold, position)
SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::bytea[], %s::bytea[], %s::bytea[],
    %s::bytea[], %s::bigint[])
ON CONFLICT (run_id) DO UPDATE SET
    status = excluded.status, triggered_by = excluded.triggered_by, head = excluded.head,
    tail = excluded.tail, input = COALESCE(excluded.input, t.input),
    output = COALESCE(excluded.output, t.output), error = COALESCE(excluded.error, t.error),
    fold = excluded.fold, position = excluded.position
"""

_encode = msgspec.json.Encoder().encode


class RunRow(msgspec.Struct):
    """The fold's state for one run."""

    run: Run
    position: int = 0

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event. Pure: (row, event) → row."""
        self.position = recorded.position
        self.run.evolve(recorded)


_decode = msgspec.json.Decoder(RunRow).decode


class RunView:
    """The projection."""

    name = "run"
    version = 1
    events = frozenset(RUN_EVENTS)

    def __init__(self) -> None:
        self._rows: OrderedDict[str, RunRow] = OrderedDict()

    def project(self, cursor: Cursor[Any], table: str, events: Sequence[Recorded]) -> None:
        """Fold a batch: each run's row is loaded, evolved and stored once."""
        payloads: dict[str, dict[str, bytes]] = {e.originator_id: {} for e in events}
        self._load(cursor, table, payloads)
        for event in events:
            run_id = event.originator_id
            if run_id not in self._rows:
                self._rows[run_id] = RunRow(Run(run_id))
            self._rows[run_id].evolve(event)
            for field in ("input", "output", "error"):
                sealed = getattr(event.body, field, None)
                if sealed is not None:
                    payloads[run_id][field] = sealed
        columns = zip(
            *(_columns(self._rows[run_id], sealed) for run_id, sealed in payloads.items()),
            strict=True,
        )
        cursor.execute(
            _STORE.format(table=table), [array(column) for column in columns], prepare=True
        )
        while len(self._rows) > _CACHED:
            self._rows.popitem(last=False)

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._rows.clear()

    def _load(self, cursor: Cursor[Any], table: str, run_ids: Iterable[str]) -> None:
        missing = []
        for run_id in run_ids:
            if run_id in self._rows:
                self._rows.move_to_end(run_id)
            else:
                missing.append(run_id)
        if missing:
            cursor.execute(_LOAD.format(table=table), (array(missing),), prepare=True)
            for (fold,) in cursor.fetchall():
                row = _decode(fold)
                self._rows[row.run.id] = row


def _columns(row: RunRow, sealed: dict[str, bytes]) -> tuple[Any, ...]:
    """One row of the table, in the order of ``_STORE``."""
    run = row.run
    return (
        run.id,
        sort_key(run.id),
        run.service_line_id,
        run.organization_id,
        run.workspace_id,
        run.status,
        run.triggered_by.actor_id if run.triggered_by else None,
        run.requested_at,
        members(
            {
                "id": run.id,
                "service_line_id": run.service_line_id,
                "status": run.status,
                "triggered_by": run.triggered_by,
            }
        ),
        members(
            {
                "duration_ms": run.duration_ms,
                "tokens_used": run.tokens_used,
                "requested_at": time_text(run.requested_at),
                "started_at": time_text(run.started_at),
                "completed_at": time_text(run.completed_at),
                "erased_at": None,
            }
        ),
        sealed.get("input"),
        sealed.get("output"),
        sealed.get("error"),
        _encode(row),
        row.position,
    )
