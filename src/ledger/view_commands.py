"""What the commands about views do: list, rebuild, verify. Results go to stdout."""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ledger.bootstrap import views_named
from ledger.commands import print_table
from ledger.projection import rebuild as rebuilding
from ledger.projection import shadow
from ledger.projection.compare import Difference
from ledger.projection.rebuild import Rebuilt
from ledger.store.codec import EnvelopeMapper
from projections import reading


def list_projections(conninfo: str) -> int:
    """Where each view stands, and how far behind the log."""
    table = Table("projection", "version", "generation", "position", "lag", "state")
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        for name, version, generation, position, head, stopped_at, error in connection.execute(
            reading.LAG
        ):
            state = f"stopped {error}" if stopped_at else "live"
            lag = max(0, head - position)
            table.add_row(name, str(version), str(generation), str(position), str(lag), state)
    print_table(table)
    return 0


def rebuild(conninfo: str, names: Sequence[str]) -> int:
    """Rebuild these views, or all, beside the live ones; reads and writes go on.

    Views are filled at once, each in a process of its own, as many as there are processors.
    """
    wanted = [projection.name for projection in views_named(names)]
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(min(len(wanted), os.cpu_count() or 1), context) as pool,
        _bars("Rebuilding", wanted) as bars,
    ):
        steps = manager.Queue()
        builds = {pool.submit(_rebuild_one, conninfo, name, steps): name for name in wanted}
        for build in builds:
            build.add_done_callback(lambda _: steps.put(None))
        left = len(builds)
        while left:
            step = steps.get()
            if step is None:
                left -= 1
            else:
                bars[step[0]](*step[1:])
        results = {name: build.result() for build, name in builds.items()}
    for name, built in results.items():
        compared = (
            "made by another version before"
            if built.differing is None
            else f"{built.differing:,} had not been what the log says"
        )
        print(
            f"{name}: generation {built.generation} at position {built.position},"
            f" {built.rows:,} rows; {compared}."
        )
    return 0


def _rebuild_one(conninfo: str, name: str, steps: Any) -> Rebuilt:
    """One view, in a process of its own."""
    (projection,) = views_named([name])

    def advance(position: int, end: int) -> None:
        steps.put((name, position, end))

    return rebuilding.rebuild(conninfo, EnvelopeMapper(), projection, advance, _ignore)


def verify(conninfo: str, names: Sequence[str]) -> int:
    """Name every row of these views, or of all, that is not what the log says; 1 if any is not."""
    differing = 0
    for projection in views_named(names):
        with _bars("Verifying", [projection.name]) as bars:
            bar = bars[projection.name]
            found = rebuilding.verify(conninfo, EnvelopeMapper(), projection, bar, _print)
        print(
            f"{projection.name}: {found.rows:,} rows at position {found.position},"
            f" {found.differing:,} not what the log says."
        )
        differing += found.differing
    return 1 if differing else 0


def _ignore(difference: Difference) -> None:
    """A rebuild repairs what it finds."""


def _print(difference: Difference) -> None:
    what = difference.kind + (f" in {', '.join(difference.columns)}" if difference.columns else "")
    print(f"{difference.table} {difference.key}: {what}; last touched by {difference.event_id}")


@contextmanager
def _bars(what: str, names: Sequence[str]) -> Iterator[dict[str, shadow.Progress]]:
    """Progress bars on stderr, in positions of the log, with the time that is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:

        def bar(name: str) -> shadow.Progress:
            task = progress.add_task(f"{what} {name}", total=None)
            return lambda position, end: progress.update(task, completed=position, total=end)

        yield {name: bar(name) for name in names}
