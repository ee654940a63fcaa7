"""The rows that are measured of two versions: each row is a rate, and more is better."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from line_requests import PAGE, paths
from measure import LONG, Bench
from read_rows import FRESH
from rebuild_row import count_events
from story import BATCH
from upgrade import await_sealed
from write_rows import batched_facts

PATIENCE = 3600.0  # seconds for a rebuild


@dataclass(frozen=True)
class Work:
    """The name of a row, and the measurement of one round of one version."""

    said: str
    measure: Callable[[Bench], float]
    most_rounds: int | None = None
    writes: bool = False
    """The log is sealed before the other version is measured, so no work is left over."""


def rebuilt(bench: Bench) -> float:
    """Events per second of a rebuild of all views."""
    with psycopg.connect(bench.product.database_url) as connection:
        events = count_events(connection)
    began = time.perf_counter()
    bench.product.command("projections", "rebuild", seconds=PATIENCE)
    return events / (time.perf_counter() - began)


def measured(work: Work, bench: Bench) -> float:
    """Measure one round."""
    rate = work.measure(bench)
    if work.writes:
        await_sealed(bench.product)
    return rate


WORKS: dict[str, Work] = {
    "lists": Work(
        f"list of {PAGE}, requests/s",
        lambda bench: bench.gets(paths(bench.asker.lists("none", FRESH))),
    ),
    "detail": Work(
        "detail, requests/s",
        lambda bench: bench.gets(paths(bench.asker.details(FRESH))),
    ),
    "runs": Work(
        "runs of a line, requests/s",
        lambda bench: bench.gets(paths(bench.asker.runs(FRESH))),
    ),
    "as-of": Work(
        f"list of {PAGE} as of then, requests/s",
        lambda bench: bench.gets(paths(bench.asker.past_pages(FRESH))),
    ),
    "facts": Work("facts, one per request, facts/s", Bench.measure_facts, writes=True),
    "batches": Work(f"facts in batches of {BATCH:,}, facts/s", batched_facts, writes=True),
    "rebuild": Work("rebuild of all views, events/s", rebuilt, most_rounds=LONG),
}
"""All rows, in the order of their measurement: reads come before rows that let the log grow."""
