"""Runs as bars, as the pages of runs and of lines draw them."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ledger.engine.page import charts
from ledger.engine.page.charts import Bar, Level
from ledger.engine.values.values import ENDED, RUN_STATUSES
from projections.runs.shown import ShownRun

_HEIGHT = 180


class Timed(NamedTuple):
    """A run with its duration so far, or in total; None if it never started."""

    run: ShownRun
    seconds: float | None
    is_open: bool


class RunsChart(NamedTuple):
    """Runs as bars, oldest first."""

    runs: list[Timed]
    """Newest first, as in lists."""
    bars: list[tuple[Timed, Bar]]
    grid: list[Level]
    """Empty if no run has a duration: then there is nothing to draw."""
    labels: list[tuple[Timed, Bar]]
    height: int
    counts: dict[str, int]
    """By status, without zeros."""


def timed_of(run: ShownRun, now: datetime) -> Timed:
    """A run with its duration; an open run's is measured at ``now``."""
    is_open = run.status not in ENDED
    if run.duration_ms is not None:
        return Timed(run, run.duration_ms / 1000, is_open)
    if is_open and run.started_at is not None:
        return Timed(run, max(0.0, (now - run.started_at).total_seconds()), is_open)
    return Timed(run, None, is_open)


def chart_of(found: Sequence[ShownRun], now: datetime) -> RunsChart:
    """Runs, newest first, as bars on a logarithmic scale: a run may last milliseconds or weeks."""
    timed = [timed_of(run, now) for run in found]
    rising = timed[::-1]
    lengths = [run.seconds for run in timed if run.seconds is not None]
    grid = charts.levels(lengths, _HEIGHT) if lengths else []
    bars = charts.bars([run.seconds for run in rising], grid, _HEIGHT)
    drawn = list(zip(rising, bars, strict=True))
    counts = {status: sum(run.status == status for run in found) for status in RUN_STATUSES}
    return RunsChart(
        timed,
        drawn,
        grid,
        [drawn[number] for number in charts.labelled(bars)],
        _HEIGHT,
        {status: count for status, count in counts.items() if count},
    )
