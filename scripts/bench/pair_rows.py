"""The rows that are measured for two versions: rates, where more is better, and costs."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psycopg
from cost_rows import (
    bytes_of_check_ins,
    bytes_of_runs,
    fresh_ledger,
    work_of_batches,
    work_of_singles,
)
from feed_rows import delivered_rate, exported_rate, receiving, streamed
from import_row import write_facts
from lag import await_sealed
from line_requests import PAGE, paths
from loadgen import percentile
from measure import LONG, SUPPLY, WARM_UP, Bench
from read_rows import FRESH
from rebuild_row import count_events
from story import BATCH, line_id
from story_requests import DRAWS, Walker
from write_rows import batched_facts

TIMEOUT = 3600.0  # seconds for a rebuild or an import
IMPORTED = 50_000  # facts
STREAMED = 800  # facts per second beside a reader of the stream


@dataclass(frozen=True)
class Work:
    """The name of a row, and a measurement of one version in one round."""

    label: str
    measure: Callable[[Bench], float]
    most_rounds: int | None = None
    is_cost: bool = False
    """Less is better."""
    writes: bool = False
    """Seal the log before measuring the other version, so that no work is left over."""


def issued(bench: Bench) -> float:
    """Starts of runs per second, one per request, whose ids the ledger issues."""
    story, count = bench.story, int(SUPPLY * (bench.seconds + WARM_UP))
    agents = itertools.cycle(map(line_id, story.agents))
    starts = [story.fact("run.started", None, service_line_id=next(agents)) for _ in range(count)]
    posts = [bench.product.post(start) for start in starts]
    shares = [posts[n :: bench.clients] for n in range(bench.clients)]
    return bench.rate(bench.product.port, shares, 201, repeat=False)


def rebuilt(bench: Bench) -> float:
    """Events per second of a rebuild of all views."""
    with psycopg.connect(bench.product.database_url) as connection:
        events = count_events(connection)
    began = time.perf_counter()
    bench.product.command("projections", "rebuild", seconds=TIMEOUT)
    return events / (time.perf_counter() - began)


def measured(work: Work, bench: Bench) -> float:
    """Measure one round."""
    rate = work.measure(bench)
    if work.writes:
        await_sealed(bench.product)
    return rate


def drawn(draw: Callable[[Walker], str], bench: Bench) -> float:
    """Requests per second of the kind that ``draw`` gives."""
    walker = Walker(bench.data.population, bench.data.events)
    return bench.gets([draw(walker) for _ in range(FRESH)])


def delivered(bench: Bench) -> float:
    """Webhook deliveries per second to one receiver."""
    with receiving(bench) as port:
        return delivered_rate(bench, port)


def imported(bench: Bench) -> float:
    """Facts per second of `ledger import` into a new ledger that is served meanwhile."""
    with fresh_ledger(bench, lines=0) as product:
        file = product.data_dir.with_name("facts.jsonl")
        count = write_facts(file, IMPORTED)
        began = time.perf_counter()
        product.command("import", str(file), seconds=TIMEOUT)
        return count / (time.perf_counter() - began)


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
    **{
        name: Work(f"{label}, requests/s", partial(drawn, draw))
        for name, (label, draw) in DRAWS.items()
    },
    "facts": Work("facts, one per request, facts/s", Bench.measure_facts, writes=True),
    "issued": Work("starts with issued ids, one per request, facts/s", issued, writes=True),
    "batches": Work(f"facts in batches of {BATCH:,}, facts/s", batched_facts, writes=True),
    "work": Work(
        f"CPU for a fact, batches of {BATCH:,}, µs", work_of_batches, is_cost=True, writes=True
    ),
    "work-single": Work(
        "CPU for a fact, one per request, µs", work_of_singles, is_cost=True, writes=True
    ),
    "bytes": Work("bytes of a check-in", bytes_of_check_ins, most_rounds=1, is_cost=True),
    "bytes-run": Work("bytes of a run's event", bytes_of_runs, most_rounds=1, is_cost=True),
    "export": Work("export of the audit log, entries/s", exported_rate, most_rounds=LONG),
    "stream": Work(
        f"commit to stream, p99 at {STREAMED:,} facts/s, ms",
        lambda bench: percentile(streamed(bench, STREAMED), 0.99),
        is_cost=True,
        writes=True,
    ),
    "deliveries": Work("webhook deliveries, deliveries/s", delivered, most_rounds=LONG),
    "import": Work(f"import of {IMPORTED:,} facts, facts/s", imported, most_rounds=1),
    "rebuild": Work("rebuild of all views, events/s", rebuilt, most_rounds=LONG),
}
"""All rows, in the order of their measurement. Reads come before rows that add to the log."""
