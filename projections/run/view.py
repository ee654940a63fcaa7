"""The view behind runs: as they are, as they were, and what they came to each day (contract 4).

``run`` has one row a run. ``run_version`` keeps what each event made of it, with the payloads it
brought: input, output and error stay as the log has them, encrypted; ``head`` and ``tail`` are
the ready JSON around the place where the edge splices them in. ``erased_at`` stands apart: it is
shown of every instant, since the payloads are gone from all of them. ``run_day`` counts a line's
runs by status on the UTC day of their start, and tokens on the day of their end.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS, Run
from ledger.domain.values import day_of, sort_key
from ledger.language.rendering import json_text, members, time_text
from ledger.postgres.exchange import Rows
from ledger.projection.contract import Table
from ledger.projection.folds import Folds, Packing
from ledger.projection.generation import Generation

RUN = Table(
    "run",
    key=("run_id",),
    replaces=True,
    columns={
        "run_id": "text",
        "run_key": "bigint",
        "line_id": "text",
        "organization_id": "text",
        "workspace_id": "text",
        "requested_at": "timestamptz",
        "opened": "bigint",
        "status": "text",
        "triggered_by": "text",
        "head": "text",
        "tail": "text",
        "erased_at": "timestamptz",
        "fold": "bytea",
        "position": "bigint",
    },
)
VERSION = Table(
    "run_version",
    key=("run_id", "position"),
    columns={
        "run_id": "text",
        "position": "bigint",
        "status": "text",
        "triggered_by": "text",
        "head": "text",
        "tail": "text",
        "input": "bytea",
        "output": "bytea",
        "error": "bytea",
    },
)
DAY = Table(
    "run_day",
    key=("line_id", "kind", "day", "position"),
    columns={
        "line_id": "text",
        "kind": "text",
        "day": "date",
        "position": "bigint",
        "at": "timestamptz",
        "change": "text",
        "total": "text",
    },
)

# The folds of these runs.
_LOAD = "SELECT fold FROM ledger.run_{g} WHERE run_id = ANY($1::text[])"

# What these days of these lines have come to.
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


class RunRow(msgspec.Struct, array_like=True):
    """The fold's state for one run."""

    run: Run
    position: int = 0
    opened: int = 0
    """Position of its first event."""

    def evolve(self, recorded: Recorded) -> None:
        """Fold one event. Pure: (row, event) → row."""
        self.opened = self.opened or recorded.position
        self.position = recorded.position
        self.run.evolve(recorded)


_decode = msgspec.msgpack.Decoder(RunRow).decode
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode


class RunView:
    """The projection."""

    name = "run"
    version = 5
    tables: tuple[Table, ...] = (RUN, VERSION, DAY)
    events = frozenset(RUN_EVENTS)

    def __init__(self) -> None:
        self._runs: Folds[str, RunRow] = Folds(
            lambda run_id: RunRow(Run(run_id)), Packing(_encode, _decode)
        )
        self._days: Folds[_Day, _Amounts] = Folds(lambda _: {})

    @property
    def waiting(self) -> int:
        """Runs whose row has changed."""
        return self._runs.waiting

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the runs' rows."""
        self._runs.begin(e.originator_id for e in events if e.originator_version == 1)
        generation.ask(self._runs, {e.originator_id: None for e in events}, _LOAD, _read)

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Fold a batch; the past is written at once, the present waits for ``store``."""
        versions: list[tuple[Any, ...]] = []
        moves: list[tuple[int, _Day, datetime, _Amounts]] = []
        for event in events:
            row = self._runs[event.originator_id]
            status = row.run.status if row.run.started_at is not None else None
            row.evolve(event)
            self._runs.change(event.originator_id)
            versions.append(_version(row, event))
            moves += [(event.position, *move) for move in _moves(row.run, event, status)]
        generation.write(VERSION, versions)
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
    ) -> list[tuple[Any, ...]]:
        """The rows of the days that a batch changed, one a change."""
        generation.ask(self._days, {day: None for _, day, _, _ in moves}, _LOAD_DAYS, _read_days)
        generation.load()
        rows = []
        for position, day, at, change in moves:
            total = self._days[day]
            for name, amount in change.items():
                total[name] = total.get(name, 0) + amount
            rows.append((*day, position, at, json_text(change), json_text(total)))
        return rows


def _read(rows: Rows) -> Iterator[tuple[str, RunRow]]:
    for (fold,) in rows:
        row = _decode(fold)
        yield row.run.id, row


def _read_days(rows: Rows) -> Iterator[tuple[_Day, _Amounts]]:
    for line_id, kind, day, total in rows:
        yield (line_id, kind, day), _decode_amounts(total)


def _moves(
    run: Run, event: Recorded, status: str | None
) -> Iterable[tuple[_Day, datetime, _Amounts]]:
    """What an event changed of a line's days: (day, time, amounts).

    ``status`` is what the run had before, or None where it had not started: only what started
    counts as a run. Tokens count whenever a run ended with some.
    """
    line_id = run.service_line_id
    if run.started_at is not None and run.status != status:
        change: _Amounts = {run.status: 1} if status is None else {status: -1, run.status: 1}
        yield (line_id, "runs", day_of(run.started_at)), run.started_at, change
    tokens = getattr(event.body, "tokens_used", None)
    if tokens:
        at = event.occurred_at
        yield (line_id, "tokens", day_of(at)), at, {"tokens": tokens}


def _version(row: RunRow, event: Recorded) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    body = event.body
    return (
        row.run.id,
        event.position,
        *_shown(row.run),
        getattr(body, "input", None),
        getattr(body, "output", None),
        getattr(body, "error", None),
    )


def _present(row: RunRow) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    run = row.run
    return (
        run.id,
        sort_key(run.id),
        run.service_line_id,
        run.organization_id,
        run.workspace_id,
        run.requested_at,
        row.opened,
        *_shown(run),
        run.erased_at,
        _encode(row),
        row.position,
    )


def _shown(run: Run) -> tuple[Any, ...]:
    """(status, triggered_by, head, tail): what changes in a run's life."""
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
