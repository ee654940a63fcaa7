"""The view of runs: the present, the past, and the sums of each day (contract, Reading).

``run`` has one row per run. ``run_version`` has the state of a run after each of its events, with
the payloads of the event: input, output and error stay encrypted, as in the log. ``head`` and
``tail`` are the ready JSON before and after the place into which the API splices the payloads.
``erased_at`` has a column of its own, because an erasure is shown for every instant: the payloads
are gone from the past too. ``run_day`` counts a line's runs by status on the UTC day of their
start, and their tokens on the day of their end.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import NamedTuple

import msgspec

from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS, Run
from ledger.domain.values import day_of, sort_key
from ledger.language.rendering import json_text, members, time_text
from ledger.postgres.exchange import Rows
from ledger.postgres.table import BigInt, Date, Index, Instant, Octets, Table, Text
from ledger.views.folds import Folds, Packing
from ledger.views.generation import Generation


class RunRow(NamedTuple):
    """The present state of a run."""

    run_id: Text
    run_key: BigInt
    """The run id as a number, which breaks ties in the order of lists."""
    line_id: Text
    organization_id: Text
    workspace_id: Text
    requested_at: Instant
    opened: BigInt
    """The position of the run's first event."""
    status: Text
    triggered_by: Text | None
    """The actor's id."""
    head: Text
    """JSON members before input, output and error."""
    tail: Text
    """JSON members after input, output and error, except ``erased_at``."""
    erased_at: Instant | None
    fold: Octets
    position: BigInt


RUN = Table(
    "run",
    RunRow,
    key=("run_id",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 80",
    indexes=(
        # The runs of a line, newest first. Reads of the past skip later runs within the index.
        Index("line_id, requested_at DESC, run_key DESC, opened"),
        # Runs that are open or have failed, among the many completed runs.
        Index("line_id, requested_at DESC, run_key DESC", where="status <> 'completed'"),
    ),
)


class VersionRow(NamedTuple):
    """A run's state after an event. Input, output and error are encrypted here too."""

    run_id: Text
    position: BigInt
    status: Text
    triggered_by: Text | None
    head: Text
    tail: Text
    input: Octets | None
    """The input that this event carries; output and error likewise."""
    output: Octets | None
    error: Octets | None


RUN_VERSION = Table("run_version", VersionRow, key=("run_id", "position"), is_keyed_late=True)


class DayRow(NamedTuple):
    """A line's runs by status on the day of their start, or tokens on the day of their end."""

    line_id: Text
    kind: Text
    """``runs`` or ``tokens``."""
    day: Date
    """The UTC day."""
    position: BigInt
    at: Instant
    """The time of the start or the end."""
    change: Text
    """JSON: amounts by status, or the tokens."""
    total: Text
    """JSON: the sums of the day up to this position."""


DAY = Table("run_day", DayRow, key=("line_id", "kind", "day", "position"))

# The folds of these runs.
_LOAD = "SELECT fold FROM ledger.run_{g} WHERE run_id = ANY($1::text[])"

# The latest sums of these days of these lines.
_LOAD_DAYS = """
SELECT asked.line_id, asked.kind, asked.day, latest.total
FROM unnest($1::text[], $2::text[], $3::date[]) AS asked (line_id, kind, day)
CROSS JOIN LATERAL (
    SELECT total FROM ledger.run_day_{g} AS d
    WHERE d.line_id = asked.line_id AND d.kind = asked.kind AND d.day = asked.day
    ORDER BY d.position DESC LIMIT 1
) AS latest
"""

_Day = tuple[str, str, date]
_Amounts = dict[str, int]
"""Runs by status, or the tokens used."""

_encode = msgspec.msgpack.Encoder().encode


class RunFold(msgspec.Struct, array_like=True):
    """The fold of one run."""

    run: Run
    position: int = 0
    opened: int = 0
    """Position of the run's first event."""

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event; the result depends on the fold and the event only."""
        self.opened = self.opened or recorded.position
        self.position = recorded.position
        self.run.evolve(recorded)


_decode = msgspec.msgpack.Decoder(RunFold).decode
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


class RunView:
    """The projection ``run``."""

    name = "run"
    version = 5
    tables: tuple[Table, ...] = (RUN, RUN_VERSION, DAY)
    events = frozenset(RUN_EVENTS)

    def __init__(self) -> None:
        self._runs: Folds[str, RunFold] = Folds(
            lambda run_id: RunFold(Run(run_id)), Packing(_encode, _decode)
        )
        self._days: Folds[_Day, _Amounts] = Folds(lambda _: {})

    @property
    def waiting(self) -> int:
        """The number of runs whose row has changed."""
        return self._runs.waiting

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the runs' folds."""
        self._runs.begin(e.originator_id for e in events if e.originator_version == 1)
        generation.ask(self._runs, {e.originator_id: None for e in events}, _LOAD, _read)

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch: write the rows of the past now; the present rows wait for ``store``."""
        versions: list[VersionRow] = []
        moves: list[tuple[int, _Day, datetime, _Amounts]] = []
        for event in events:
            fold = self._runs[event.originator_id]
            status = fold.run.status if fold.run.started_at is not None else None
            fold.evolve(event)
            self._runs.change(event.originator_id)
            versions.append(_version(fold.run, event))
            moves += [(event.position, *move) for move in _moves(fold.run, event, status)]
        generation.write(RUN_VERSION, versions)
        generation.write(DAY, self._days_after(generation, moves))

    def store(self, generation: Generation, most: int | None = None) -> None:
        """Write the rows of the runs that changed."""
        generation.write(RUN, map(_present, self._runs.take_changed(most)))

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._runs.clear()
        self._days.clear()

    def _days_after(
        self, generation: Generation, moves: Sequence[tuple[int, _Day, datetime, _Amounts]]
    ) -> list[DayRow]:
        """The rows of the days that a batch changed, one row for each change."""
        generation.ask(self._days, {day: None for _, day, _, _ in moves}, _LOAD_DAYS, _read_days)
        generation.load()
        rows = []
        for position, day, at, change in moves:
            total = self._days[day]
            for name, amount in change.items():
                total[name] = total.get(name, 0) + amount
            rows.append(DayRow(*day, position, at, json_text(change), json_text(total)))
        return rows


def _read(rows: Rows) -> Iterator[tuple[str, RunFold]]:
    for (stored,) in rows:
        fold = _decode(stored)
        yield fold.run.id, fold


def _read_days(rows: Rows) -> Iterator[tuple[_Day, _Amounts]]:
    for line_id, kind, day, total in rows:
        yield (line_id, kind, day), _decode_amounts(total)


def _moves(
    run: Run, event: Recorded, status: str | None
) -> Iterable[tuple[_Day, datetime, _Amounts]]:
    """(day, time, amounts) for each change that an event makes to a line's days.

    ``status`` is the run's status before the event; None if the run had not started, since only
    started runs are counted. Tokens are counted whenever a run ends with tokens.
    """
    line_id = run.service_line_id
    if run.started_at is not None and run.status != status:
        change: _Amounts = {run.status: 1} if status is None else {status: -1, run.status: 1}
        yield (line_id, "runs", day_of(run.started_at)), run.started_at, change
    tokens = getattr(event.body, "tokens_used", None)
    if tokens:
        at = event.occurred_at
        yield (line_id, "tokens", day_of(at)), at, {"tokens": tokens}


def _version(run: Run, event: Recorded) -> VersionRow:
    body = event.body
    return VersionRow(
        run.id,
        event.position,
        *_shown(run),
        getattr(body, "input", None),
        getattr(body, "output", None),
        getattr(body, "error", None),
    )


def _present(fold: RunFold) -> RunRow:
    run = fold.run
    status, triggered_by, head, tail = _shown(run)
    assert run.requested_at is not None, "a run's first event says when it was requested"
    return RunRow(
        run_id=run.id,
        run_key=sort_key(run.id),
        line_id=run.service_line_id,
        organization_id=run.organization_id,
        workspace_id=run.workspace_id,
        requested_at=run.requested_at,
        opened=fold.opened,
        status=status,
        triggered_by=triggered_by,
        head=head,
        tail=tail,
        erased_at=run.erased_at,
        fold=_encode(fold),
        position=fold.position,
    )


def _shown(run: Run) -> tuple[str, str | None, str, str]:
    """(status, triggered_by, head, tail): the columns that change during a run's life."""
    head = {
        "id": run.id,
        "service_line_id": run.service_line_id,
        "status": run.status,
        "triggered_by": run.triggered_by,
    }
    tail = {
        "duration_ms": run.duration_ms,
        "tokens_used": run.tokens_used,
        "requested_at": time_text(run.requested_at),
        "started_at": time_text(run.started_at),
        "completed_at": time_text(run.completed_at),
    }
    actor = run.triggered_by.actor_id if run.triggered_by else None
    return run.status, actor, members(head), members(tail)
