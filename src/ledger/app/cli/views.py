"""The commands about views: list, rebuild, verify. Results go to standard output."""

import multiprocessing.connection
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection

import psycopg
from psycopg.rows import tuple_row

from ledger.app.cli.printing import print_json, print_rows, progress_bars
from ledger.app.features import projections
from ledger.app.processes import Lifeline, calm_collector
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.schema.migrate import migrate
from ledger.engine.postgres.embedded import temporary_server
from ledger.engine.postgres.pool.scope import FOR_EVERYONE
from ledger.engine.postgres.session import options_of, pin
from ledger.engine.values.values import escaped
from ledger.engine.views.contract import Projection
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.compare import Difference
from ledger.engine.views.rebuilding.rebuild import Rebuilt
from ledger.engine.views.rebuilding.shadow import CannotBuild
from ledger.engine.views.statements import LAG


def list_projections(_: Settings, conninfo: str, *, as_json: bool) -> int:
    # In a session without a tenant the end of the log is unknown.
    options = options_of(conninfo, FOR_EVERYONE)
    with psycopg.connect(conninfo, row_factory=tuple_row, options=options) as connection:
        rows = [
            {
                "projection": name,
                "version": version,
                "generation": generation,
                "position": position,
                "lag": max(0, head - position),
                "state": "live" if stopped_at is None else "stopped",
                "error": error,
            }
            for name, version, generation, position, head, stopped_at, error in connection.execute(
                LAG
            )
        ]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, tuple(rows[0]))
    return 0


def rebuild(_: Settings, conninfo: str, names: Sequence[str]) -> int:
    """Rebuild the named views, or all, beside the live ones; reads and writes go on.

    It builds as many views at once as there are processors, each in its own process. Raises
    CannotBuild if a view could not be built, once the others are done.
    """
    lifeline, wanted = Lifeline(), _views_named(names)
    # The progress bars begin a thread, so each builder is forked before, and then waits.
    builders = {view.name: lifeline.fork(partial(_build, conninfo, view)) for view in wanted}
    waiting = list(builders)
    at_work: dict[Connection, str] = {}
    results: dict[str, Rebuilt | CannotBuild] = {}
    with progress_bars("Rebuilding", waiting) as bars:
        while waiting or at_work:
            while waiting and len(at_work) < (os.cpu_count() or 1):
                name = waiting.pop(0)
                ours = builders[name][0]
                at_work[ours] = name
                with suppress(BrokenPipeError):  # a builder that was killed says so below
                    ours.send("begin")
            for pipe in multiprocessing.connection.wait(list(at_work)):
                assert isinstance(pipe, Connection)
                name = at_work[pipe]
                message = _receive(pipe, name)
                if isinstance(message, tuple) and not isinstance(message, Rebuilt):
                    bars[name](*message)
                else:
                    results[name] = message
                    del at_work[pipe]
                    builders[name][1].join()
    refused = [built for built in results.values() if isinstance(built, CannotBuild)]
    for name in builders:
        built = results[name]
        if isinstance(built, Rebuilt):
            print(_summary(name, built))
    if refused:
        raise refused[0]
    return 0


def _views_named(names: Sequence[str]) -> list[Projection]:
    return [view for view in projections() if not names or view.name in names]


def _receive(pipe: Connection, name: str) -> tuple[int, int] | Rebuilt | CannotBuild:
    try:
        message: tuple[int, int] | Rebuilt | CannotBuild = pipe.recv()
    except EOFError:
        return CannotBuild(f"{name}: the process that built the view has ended.")
    return message


def _build(conninfo: str, projection: Projection, pipe: Connection) -> None:
    """Build one view in its own process, on a message; send its progress, then its result."""
    pipe.recv()
    calm_collector()
    end: Rebuilt | CannotBuild
    try:
        end = rebuilding.rebuild(
            conninfo,
            EnvelopeMapper(),
            projection,
            lambda position, head: pipe.send((position, head)),
        )
    except CannotBuild as error:
        end = error
    except psycopg.Error as error:
        end = CannotBuild(f"{projection.name}: {str(error).strip().splitlines()[0]}")
    pipe.send(end)


def _summary(name: str, built: Rebuilt) -> str:
    compared = (
        "not compared with another version's rows"
        if built.differing is None
        else f"{built.differing:,} had differed from the log"
    )
    return (
        f"{name}: generation {built.generation} at position {built.position},"
        f" {built.rows:,} rows; {compared}."
    )


def verify(_: Settings, conninfo: str, names: Sequence[str]) -> int:
    """Print each row of the named views, or of all, that differs from the log; 1 if any does.

    The views are filled anew in the command's own PostgreSQL, in a temporary folder.
    """
    differing = 0
    with temporary_server() as url:
        scratch = pin(url)
        migrate(scratch)
        for projection in _views_named(names):
            with progress_bars("Verifying", [projection.name]) as bars:
                bar = bars[projection.name]
                found = rebuilding.verify(
                    conninfo, EnvelopeMapper(), projection, bar, _print, scratch
                )
            print(
                f"{projection.name}: {found.rows:,} rows at position {found.position},"
                f" {found.differing:,} differing from the log."
            )
            differing += found.differing
    return 1 if differing else 0


def _print(difference: Difference) -> None:
    what = difference.kind + (f" in {', '.join(difference.columns)}" if difference.columns else "")
    # A damaged key may contain any character, and must not break the line.
    line = f"{difference.table} {difference.key}: {what}; last touched by {difference.event_id}"
    print(escaped(line))
