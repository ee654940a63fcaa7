"""The rows with bounds beside commit 35aed26e: CPU time of all processes, and counts.

``make bench-pair OLD=35aed26e`` prints them beside that version, ``make bench`` some of them alone.
Noise does not move counts: calls, commits, and context switches of a fact.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from chronicle import BEGINS, SPAN
from cost import Cost, commits_of, of_batches, of_command, of_gets, of_singles
from cost_rows import BATCHES, LINES, SINGLES, fresh_ledger
from import_row import write_facts
from line_requests import PAGE, paths
from measure import LONG, Bench, Figure, Row, Work, at_most
from product import BATCH_CLIENTS, UnmeasuredError
from rebuild_row import count_events
from story import BATCH, line_id, story_of_new

from ledger.engine.values.values import format_instant

OF_ONE_CLIENT = 500  # facts
GETS, PAST_GETS, MONTHS = 8_000, 800, 12
IMPORTED = 50_000  # facts
CALLED = 2_000  # facts and requests whose calls are counted
COUNTER = str(Path(__file__).with_name("counted"))


def check_ins(bench: Bench) -> Sequence[float]:
    """Single check-ins, and their commits."""
    with psycopg.connect(bench.product.database_url, autocommit=True) as connection:
        before = commits_of(bench, connection)
        cost = of_singles(bench, bench.clients, SINGLES, "check_ins")
        commits = commits_of(bench, connection) - before
    # The second count includes a fact on each connection.
    a_fact = commits / (cost.count + bench.clients)
    return cost.cpu, cost.rate, cost.p95_ms, a_fact, cost.in_append, cost.switches


def mixed(bench: Bench) -> Sequence[float]:
    """Single facts, of which half are runs and health."""
    return _cpu_and_rate(of_singles(bench, bench.clients, SINGLES, "mixed"))


def batches(bench: Bench) -> Sequence[float]:
    """Mixed facts in batches."""
    return _cpu_and_rate(of_batches(bench, BATCH, BATCHES * BATCH))


def one_client(bench: Bench) -> Sequence[float]:
    """Single check-ins of one client."""
    cost = of_singles(bench, 1, OF_ONE_CLIENT, "check_ins")
    return cost.cpu, cost.p50_ms


def details(bench: Bench) -> Sequence[float]:
    """Details of lines."""
    return _cpu_and_rate(of_gets(bench, paths(bench.asker.details(GETS))))


def kept(bench: Bench) -> Sequence[float]:
    """The first page of the list again and again; nothing changes meanwhile."""
    return _cpu_and_rate(of_gets(bench, paths(bench.asker.first_pages("none", 1)) * GETS))


def as_of(bench: Bench) -> Sequence[float]:
    """Pages of the list in the past."""
    return _cpu_and_rate(of_gets(bench, paths(bench.asker.past_pages(PAST_GETS))))


def months(bench: Bench) -> Sequence[float]:
    """Usage by line in thirty days, each time of other days."""
    starts = [BEGINS + n * (SPAN - timedelta(days=30)) / MONTHS for n in range(MONTHS)]
    spans = [(format_instant(at), format_instant(at + timedelta(days=30))) for at in starts]
    months = [f"/v1/usage?from={start}&to={end}" for start, end in spans]
    return _cpu_and_rate(of_gets(bench, months, BATCH_CLIENTS))


def imported(bench: Bench) -> Sequence[float]:
    """`ledger import` of JSON lines into a new ledger that is served meanwhile."""
    with fresh_ledger(bench, lines=0) as product:
        file = product.data_dir.with_name("facts.jsonl")
        count = write_facts(file, IMPORTED)
        return _cpu_and_rate(of_command(product, "import", str(file), count=count))


def rebuilt(bench: Bench) -> Sequence[float]:
    """A rebuild of all views."""
    with psycopg.connect(bench.product.database_url) as connection:
        events = count_events(connection)
    return _cpu_and_rate(of_command(bench.product, "projections", "rebuild", count=events))


def _cpu_and_rate(cost: Cost) -> Sequence[float]:
    return cost.cpu, cost.rate


def calls(bench: Bench) -> Sequence[float]:
    """The Python calls of all processes for a fact or a GET, on a new ledger."""
    with (
        TemporaryDirectory(prefix="calls-", dir=bench.folder) as folder,
        fresh_ledger(bench, settings={"PYTHONPATH": COUNTER, "BENCH_CALLS": folder}) as product,
    ):
        counted = dataclasses.replace(bench, product=product, story=story_of_new(LINES))
        details = [f"/v1/execution/{line_id(n)}" for n in range(1, LINES + 1)]
        page = [f"/v1/execution?limit={PAGE}"]
        of_singles(counted, bench.clients, 10 * bench.clients)  # so that statements are prepared
        of_gets(counted, page * 10 * bench.clients)
        loads = (
            lambda: of_singles(counted, bench.clients, CALLED, "check_ins"),
            lambda: of_batches(counted, BATCH, BATCH_CLIENTS * BATCH),
            lambda: of_gets(counted, details),
            lambda: of_gets(counted, page * CALLED),
        )
        return [_calls_of(load, Path(folder)) for load in loads]


def _calls_of(load: Callable[[], Cost], folder: Path) -> float:
    before = _calls_in(folder)
    cost = load()
    calls = _calls_in(folder) - before
    if not calls:
        raise UnmeasuredError("the processes did not count their calls: Python 3.12 can")
    return calls / cost.count


def _calls_in(folder: Path) -> int:
    return sum(int.from_bytes(file.read_bytes(), sys.byteorder) for file in folder.iterdir())


def _both(work: str, unit: str, cost: float, rate: float | None = None) -> tuple[Figure, Figure]:
    """The figures of a measurement of CPU time and rate, with their bounds."""
    return (
        Figure(f"{work}, CPU of one, µs", is_cost=True, bound=cost),
        Figure(f"{work}, {unit}/s", bound=rate),
    )


BOUNDS: dict[str, Work] = {
    "detail": Work(_both("detail", "requests", 0.6), details),
    "kept-list": Work(_both(f"list of {PAGE} that is kept", "requests", 0.6), kept),
    "as-of": Work(_both(f"list of {PAGE} as of then", "requests", 1.0), as_of),
    "month": Work(_both("usage of a month", "requests", 1.0), months),
    "calls": Work(
        [
            Figure(f"Python calls of {one}", is_cost=True, bound=1.0)
            for one in ("a check-in", "a fact of a batch", "a detail", f"a kept list of {PAGE}")
        ],
        calls,
        most_rounds=2,  # noise hardly moves them
    ),
    "check-ins": Work(
        (
            *_both("single check-ins", "facts", 0.6),
            Figure("single check-ins, p95 ms", is_cost=True, bound=1.0),
            Figure("single check-ins, commits of one", is_cost=True, bound=0.3, of_new=True),
            Figure("single check-ins, facts of an append", bound=1.2),
            Figure("single check-ins, context switches of one", is_cost=True),
        ),
        check_ins,
        writes=True,
    ),
    "mixed": Work(_both("single mixed facts", "facts", 0.55), mixed, writes=True),
    "one-client": Work(
        (
            Figure("check-ins of 1 client, CPU of one, µs", is_cost=True, bound=0.9),
            Figure("check-ins of 1 client, p50 ms", is_cost=True, bound=1.0),
        ),
        one_client,
        writes=True,
    ),
    "batches": Work(
        _both(f"facts in batches of {BATCH:,}", "facts", 0.65, 1.4), batches, writes=True
    ),
    "import": Work(
        _both(f"import of {IMPORTED:,} facts", "facts", 0.75), imported, LONG, writes=True
    ),
    "rebuild": Work(_both("rebuild of all views", "events", 1.0), rebuilt, LONG, writes=True),
}
"""By the name of a row; each bound is that of the issue about half the work a fact."""

OF_ONE_VERSION = ("calls", "check-ins", "mixed", "one-client", "batches", "detail", "kept-list")
"""The rows of ``make bench``, which has the others beside their limits."""


def work(bench: Bench) -> Iterator[Row]:
    """The costs and counts of this version alone; only a bound of the figure itself holds."""
    for each in map(BOUNDS.__getitem__, OF_ONE_VERSION):
        rounds = [each.measure(bench) for _ in range(bench.few_rounds)]
        for figure, values in zip(each.figures, zip(*rounds, strict=True), strict=True):
            ours = statistics.median(values)
            if figure.of_new and figure.bound:
                yield at_most(figure.label, ours, figure.bound, "", "")
            else:
                yield Row(figure.label, ours, note="no bound")
