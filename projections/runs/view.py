"""The view of runs: the present, the past, and the sums of each day (contract, Reading).

``run`` has one row per run, with the positions and times of its few events. Each event changes the
row in its own way, so the row also tells the run's state at any position (see ``statements.py``).
``run_former_usage`` has the tokens before each correction, of which there may be many.
``run_payload`` has the input, output and error of an event, encrypted as in the log. ``run_day``
has the sums of each UTC day (see ``days.py``).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from ledger.engine.postgres.schema import table
from ledger.engine.postgres.schema.walls import of_tenant
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import id_of_key, sort_key
from ledger.engine.views.folds import FoldCache, Packing, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.runs.model import run as runs
from ledger.features.runs.model.run import RUN_EVENTS, Run, Trigger
from ledger.features.runs.model.token_usage import TokenUsage
from projections.runs.days import DAY, Before, Days, Move, moves
from projections.runs.shown import tokens_by_model


class RunRow(NamedTuple):
    """A run: what its events changed, and at which positions.

    The wide columns come first, so that PostgreSQL needs no padding.
    """

    run_key: table.RunKey
    """The run id as a number: the second key in the order of lists."""
    line_key: table.LineKey
    position: table.BigInt
    opened: table.BigInt
    requested_at: table.Instant
    started: table.BigInt | None
    """The position of the start; the next positions likewise."""
    started_at: table.Instant | None
    stopped: table.BigInt | None
    """The position of the cancelling, or of the failure by the run's lease."""
    stopped_at: table.Instant | None
    stopped_ms: table.BigInt | None
    ended: table.BigInt | None
    """The position of the completion or any other failure, which may follow after ``stopped``."""
    ended_at: table.Instant | None
    ended_ms: table.BigInt | None
    tokens_used: table.BigInt | None
    """As of the latest correction; the next two columns likewise."""
    corrected: table.BigInt | None
    usage_corrected_at: table.Instant | None
    erased: table.BigInt | None
    erased_at: table.Instant | None
    """An erasure is shown for every instant: the payloads are gone from the past too."""
    named: table.BigInt | None
    """The position since which the run has its external id."""
    parent_key: table.RunKey | None
    requested_parent: table.RunKey | None
    """The parent before the start, if the run was requested first."""
    parent_given: table.BigInt | None
    """Since this position the run has the parent that it had awaited: before, it had none."""
    retry_key: table.RunKey | None
    lease_seconds: table.Int | None
    requested_lease: table.Int | None
    attempt: table.Int
    """With the external id, the run's name at its source."""
    run_id: table.Text
    organization_id: table.Text
    workspace_id: table.Text
    status: table.Text
    expired: table.Bool
    """True if its lease stopped the run."""
    requested_type: table.Text | None
    """The trigger of the request, if the run was requested first."""
    requested_by: table.Text | None
    trigger_type: table.Text | None
    triggered_by: table.Text | None
    external_id: table.Text | None
    """The run's name at its source, which a request or a start gives once."""
    token_usage: table.Text | None
    """The tokens by model, as the event stores them."""


USED_BY_MODEL = "(token_usage IS NOT NULL OR corrected IS NOT NULL)"
"""The condition of runs that show tokens by model, or once did."""

RUN = table.Table(
    "run",
    RunRow,
    key=("run_id",),
    tenant=("organization_id", "workspace_id"),
    # Each event changes the status, which an index contains. So pages need no room for updates.
    replaces=True,
    indexes=(
        # The runs of a line, newest first. Reads of the past skip later runs within the index.
        table.Index("line_key, requested_at DESC, run_key DESC, opened"),
        # Runs that are open or have failed, among the many completed runs.
        table.Index("line_key, requested_at DESC, run_key DESC", where="status <> 'completed'"),
        # The runs of all lines (``all_runs_read``): of a ledger, an organization, a workspace.
        table.Index("requested_at DESC, run_key DESC, opened"),
        table.Index("organization_id, requested_at DESC, run_key DESC, opened"),
        table.Index("workspace_id, requested_at DESC, run_key DESC, opened"),
        # Likewise for open and failed runs.
        table.Index(
            "organization_id, requested_at DESC, run_key DESC", where="status <> 'completed'"
        ),
        # Runs by external id and by parent; for the past, by the parent that a start replaced.
        table.Index("external_id, organization_id", where="external_id IS NOT NULL"),
        table.Index("parent_key, requested_at DESC", where="parent_key IS NOT NULL"),
        table.Index("requested_parent", where="requested_parent <> parent_key"),
        # Ended runs with tokens by model, by line; runs by model.
        table.Index("line_key, COALESCE(ended_at, stopped_at)", where=USED_BY_MODEL),
        table.Index("line_key, started_at", where=USED_BY_MODEL),
    ),
)


class FormerUsageRow(NamedTuple):
    """The tokens that a run showed until a correction replaced them."""

    run_id: table.Text
    position: table.BigInt
    tokens_used: table.BigInt | None
    token_usage: table.Text | None
    usage_corrected_at: table.Instant | None


FORMER_USAGE = table.Table(
    "run_former_usage",
    FormerUsageRow,
    key=("run_id", "position"),
    owner=("run", "run_id"),
)


class PayloadRow(NamedTuple):
    """The encrypted payloads of an event."""

    run_key: table.RunKey
    position: table.BigInt
    input: table.Octets | None
    output: table.Octets | None
    error: table.Octets | None


# The wrapped key of each run of a tenant, with the payloads of its events: at least one row per
# run. A key has only an organization, so the run tells its workspace.
CONTENT = table.Reading(
    "run_content",
    ("run_id", "wrapped", "destroyed_at", "position", "input", "output", "error"),
    f"""
    SELECT k.run_id, k.wrapped, k.destroyed_at, b.position, b.input, b.output, b.error
    FROM ledger.run_key AS k
    LEFT JOIN ledger.run_payload_{{g}} AS b
        ON b.run_key
            = substr(k.run_id, 5, 2)::bigint * 1000000000000 + substr(k.run_id, 8)::bigint
       AND k.wrapped IS NOT NULL
    WHERE {of_tenant(("organization_id",), "k.")}
      AND (current_setting('ledger.workspace_id', true) = '*' OR EXISTS (
          SELECT FROM ledger.run_{{g}} AS r WHERE r.run_id = k.run_id
            AND r.workspace_id = current_setting('ledger.workspace_id', true)))
    """,
)

PAYLOAD = table.Table(
    "run_payload",
    PayloadRow,
    key=("run_key", "position"),
    is_internal=True,
    reading=CONTENT,
    is_keyed_late=True,
)


class RunFold(msgspec.Struct, array_like=True):
    """The fold of one run: its state, and the past that the present state no longer has."""

    run: Run
    position: int = 0
    opened: int = 0
    requested_by: Trigger | None = None
    requested_parent: str | None = None
    requested_lease: int | None = None
    named: int | None = None
    parent_given: int | None = None
    started: int | None = None
    stopped: int | None = None
    stopped_at: datetime | None = None
    stopped_ms: int | None = None
    expired: bool = False
    ended: int | None = None
    corrected: int | None = None
    erased: int | None = None

    def apply(self, recorded: Recorded) -> None:
        run, position = self.run, recorded.position
        run.apply(recorded)
        self.position = position
        self.opened = self.opened or position
        if run.external_id is not None:
            self.named = self.named or position
        match recorded.body:
            case runs.RunRequested():
                self.requested_by = run.triggered_by
                self.requested_parent = run.parent_run_id
                self.requested_lease = run.lease_seconds
            case runs.RunStarted():
                self.started = position
            case runs.RunParentGiven():
                self.parent_given = position
                if run.started_at is None:
                    self.requested_parent = run.parent_run_id
            case runs.RunCancelled() | runs.RunFailed(lease_expired=True):
                self.stopped, self.expired = position, run.lease_expired
                self.stopped_at, self.stopped_ms = run.completed_at, run.duration_ms
            case runs.RunCompleted() | runs.RunFailed():
                self.ended = position
            case runs.RunUsageCorrected():
                self.corrected = position
            case runs.RunErased():
                self.erased = position


_PACKING = Packing(msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(RunFold).decode)


class RunView(Remembering):
    """The projection ``run``."""

    name = "run"
    version = 9
    tables: tuple[table.Table, ...] = (RUN, FORMER_USAGE, PAYLOAD, DAY)
    events = frozenset(RUN_EVENTS)

    def __init__(self) -> None:
        self._runs: FoldCache[str, RunFold] = FoldCache(
            lambda run_id: RunFold(Run(run_id)), _PACKING
        )
        self._days = Days()
        super().__init__(self._runs, self._days)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        self._runs.begin(e.originator_id for e in events if e.originator_version == 1)
        generation.find(self._runs, {e.originator_id: None for e in events}, RUN, fold_of)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        changes, payloads, former = list[Move](), list[PayloadRow](), list[FormerUsageRow]()
        for event in events:
            fold = self._runs[event.originator_id]
            run = fold.run
            before = Before(run.status if run.started_at is not None else None, run.tokens_used)
            if isinstance(event.body, runs.RunUsageCorrected):
                former.append(_former(run, event.position))
            fold.apply(event)
            self._runs.change(event.originator_id)
            changes += moves(run, event, before)
            sealed = [getattr(event.body, name, None) for name in ("input", "output", "error")]
            if any(sealed):
                payloads.append(PayloadRow(sort_key(run.id), event.position, *sealed))
        generation.write(FORMER_USAGE, former)
        generation.write(PAYLOAD, payloads)
        self._days.apply(generation, changes)

    def store(self, generation: Generation, most: int | None = None) -> None:
        generation.write(RUN, map(row_of, self._runs.pop_changed(most)))


# Columns of a row with the value of the field of the same name.
_NOT_SAME = {"triggered_by", "requested_by", "requested_parent", "token_usage"}
_OF_RUN = frozenset(RunRow._fields) & frozenset(Run.__struct_fields__) - _NOT_SAME
_OF_FOLD = frozenset(RunRow._fields) & frozenset(RunFold.__struct_fields__) - _NOT_SAME


def row_of(fold: RunFold) -> RunRow:
    run, has_ended = fold.run, fold.ended is not None
    assert run.requested_at is not None, "a run's first event says when it was requested"
    requested_type, requested_by = _parts(fold.requested_by)
    trigger_type, triggered_by = _parts(run.triggered_by)
    return RunRow(
        **_same(run, _OF_RUN),
        **_same(fold, _OF_FOLD),
        run_id=run.id,
        run_key=sort_key(run.id),
        line_key=sort_key(run.service_line_id),
        ended_at=run.completed_at if has_ended else None,
        ended_ms=run.duration_ms if has_ended else None,
        parent_key=_key(run.parent_run_id),
        requested_parent=_key(fold.requested_parent),
        retry_key=_key(run.retry_of),
        requested_type=requested_type,
        requested_by=requested_by,
        trigger_type=trigger_type,
        triggered_by=triggered_by,
        token_usage=_text(run.token_usage),
    )


def fold_of(row: RunRow) -> tuple[str, RunFold]:
    """Restore the fold of a row, as far as later events depend on it."""
    has_ended = row.ended is not None
    run = Run(
        row.run_id,
        **_same(row, _OF_RUN),
        service_line_id=id_of_key("LIN", row.line_key),
        triggered_by=_trigger(row.trigger_type, row.triggered_by),
        completed_at=row.ended_at if has_ended else row.stopped_at,
        duration_ms=row.ended_ms if has_ended else row.stopped_ms,
        parent_run_id=_id(row.parent_key),
        retry_of=_id(row.retry_key),
        lease_expired=row.expired and not has_ended,
        token_usage=None if row.token_usage is None else tokens_by_model(row.token_usage),
    )
    return run.id, RunFold(
        run,
        **_same(row, _OF_FOLD),
        requested_by=_trigger(row.requested_type, row.requested_by),
        requested_parent=_id(row.requested_parent),
    )


def _former(run: Run, position: int) -> FormerUsageRow:
    usage = _text(run.token_usage)
    return FormerUsageRow(run.id, position, run.tokens_used, usage, run.usage_corrected_at)


def _text(usage: tuple[TokenUsage, ...] | None) -> str | None:
    return None if usage is None else json_text(usage)


def _same(of: object, names: frozenset[str]) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _key(run_id: str | None) -> int | None:
    return None if run_id is None else sort_key(run_id)


def _id(key: int | None) -> str | None:
    return None if key is None else id_of_key("RUN", key)


def _parts(trigger: Trigger | None) -> tuple[str | None, str | None]:
    return (None, None) if trigger is None else (trigger.type, trigger.actor_id)


def _trigger(kind: str | None, actor_id: str | None) -> Trigger | None:
    return Trigger(kind, actor_id) if kind is not None else None  # type: ignore[arg-type]
