"""The sums of a line's runs and tokens by UTC day (contract, Reading, usage).

``run_day`` only grows: an event that changes a day adds a row with the new sums of the day. Its
difference from the row before is the change. Runs count on the day of their start; tokens,
corrected ones too, on the day of the run's end.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import BigInt, Date, Instant, Int, LineKey, Table, Text
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import RunStatus, day_of, sort_key
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.runs.model.run import Run


class DayRow(NamedTuple):
    """A line's started runs by status, and their tokens, after an event changed a day."""

    line_key: LineKey
    position: BigInt
    started_at: Instant | None
    """The start of the run that the event counts; null if it changes no count."""
    ended_at: Instant | None
    """The end of the run whose tokens the event adds; null if it adds none."""
    running: Int
    completed: Int
    failed: Int
    cancelled: Int
    day: Date
    tokens: Text
    """A whole number, which may exceed 64 bits."""


DAY = Table("run_day", DayRow, key=("line_key", "day", "position"), owner=("run", "line_key"))

_Key = tuple[int, date]


class _Sums(msgspec.Struct):
    """The sums of a day. A run counts once it has started: there is no sum of ``pending``."""

    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0


class Move(msgspec.Struct):
    """The change of a line's day by an event."""

    key: _Key
    position: int
    started_at: datetime | None = None
    left: RunStatus | None = None
    """The status under which the run counted before the event."""
    entered: RunStatus | None = None
    ended_at: datetime | None = None
    tokens: int = 0


class Before(NamedTuple):
    """The status and tokens by which a run counted before an event."""

    status: RunStatus | None
    """None if the run had not started."""
    tokens: int | None


def moves(run: Run, event: Recorded, before: Before) -> Sequence[Move]:
    """The changes of a line's days by an event that the run has applied."""
    line_key, position, found = sort_key(run.service_line_id), event.position, dict[date, Move]()
    if run.started_at is not None and run.status != before.status:
        day = day_of(run.started_at)
        found[day] = Move((line_key, day), position, run.started_at, before.status, run.status)
    tokens = (run.tokens_used or 0) - (before.tokens or 0)
    if tokens:
        assert run.completed_at is not None, "tokens come with an ending, or after it"
        day = day_of(run.completed_at)
        move = found.setdefault(day, Move((line_key, day), position))
        move.ended_at, move.tokens = run.completed_at, tokens
    return tuple(found.values())


class Days(Remembering):
    """The fold of moves into the sums of days."""

    def __init__(self) -> None:
        self._sums: FoldCache[_Key, _Sums] = FoldCache(lambda _: _Sums())
        super().__init__(self._sums)

    def apply(self, generation: Generation, changes: Sequence[Move]) -> None:
        generation.find(self._sums, {move.key: None for move in changes}, DAY, _sums_of)
        generation.load()
        generation.write(DAY, [self._after(move) for move in changes])

    def _after(self, move: Move) -> DayRow:
        sums = self._sums[move.key]
        for status, amount in ((move.left, -1), (move.entered, 1)):
            if status is not None:
                setattr(sums, status, getattr(sums, status) + amount)
        sums.tokens += move.tokens
        line_key, day = move.key
        return DayRow(
            line_key=line_key,
            position=move.position,
            started_at=move.started_at,
            ended_at=move.ended_at,
            running=sums.running,
            completed=sums.completed,
            failed=sums.failed,
            cancelled=sums.cancelled,
            day=day,
            tokens=str(sums.tokens),
        )


def _sums_of(row: DayRow) -> tuple[_Key, _Sums]:
    sums = _Sums(row.running, row.completed, row.failed, row.cancelled, int(row.tokens))
    return (row.line_key, row.day), sums
