"""The rows that are measured for two versions: rates, costs, and the rows with bounds."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

from bound_rows import BOUNDS
from cost_rows import bytes_of_check_ins, bytes_of_runs
from feed_rows import delivered_rate, exported_rate, receiving, streamed
from lag import await_sealed
from line_requests import PAGE, paths
from loadgen import percentile
from measure import LONG, SUPPLY, WARM_UP, Bench, Figure, Work
from read_rows import FRESH
from story import line_id
from story_requests import DRAWS, Walker

STREAMED = 800  # facts per second beside a reader of the stream


def rated(
    label: str,
    measure: Callable[[Bench], float],
    *,
    is_cost: bool = False,
    most_rounds: int | None = None,
    writes: bool = False,
) -> Work:
    """A measurement of one figure without a bound."""
    figure = Figure(label, is_cost)
    return Work((figure,), lambda bench: (measure(bench),), most_rounds, writes)


def issued(bench: Bench) -> float:
    """Starts of runs per second, one per request, whose ids the ledger issues."""
    story, count = bench.story, int(SUPPLY * (bench.seconds + WARM_UP))
    agents = itertools.cycle(map(line_id, story.agents))
    starts = [story.fact("run.started", None, service_line_id=next(agents)) for _ in range(count)]
    posts = [bench.product.post(start) for start in starts]
    shares = [posts[n :: bench.clients] for n in range(bench.clients)]
    return bench.rate(bench.product.port, shares, 201, repeat=False)


def measured(work: Work, bench: Bench) -> Sequence[float]:
    """Measure one round."""
    values = work.measure(bench)
    if work.writes:
        await_sealed(bench.product)
    return values


def drawn(draw: Callable[[Walker], str], bench: Bench) -> float:
    """Requests per second of the kind that ``draw`` gives."""
    walker = Walker(bench.data.population, bench.data.events)
    return bench.gets([draw(walker) for _ in range(FRESH)])


def delivered(bench: Bench) -> float:
    """Webhook deliveries per second to one receiver."""
    with receiving(bench) as port:
        return delivered_rate(bench, port)


_ROWS: dict[str, Work] = {
    "lists": rated(
        f"list of {PAGE}, requests/s",
        lambda bench: bench.gets(paths(bench.asker.lists("none", FRESH))),
    ),
    "runs": rated(
        "runs of a line, requests/s",
        lambda bench: bench.gets(paths(bench.asker.runs(FRESH))),
    ),
    **{
        name: rated(f"{label}, requests/s", partial(drawn, draw))
        for name, (label, draw) in DRAWS.items()
    },
    "issued": rated("starts with issued ids, one per request, facts/s", issued, writes=True),
    "bytes": rated("bytes of a check-in", bytes_of_check_ins, most_rounds=1, is_cost=True),
    "bytes-run": rated("bytes of a run's event", bytes_of_runs, most_rounds=1, is_cost=True),
    "export": rated("export of the audit log, entries/s", exported_rate, most_rounds=LONG),
    "stream": rated(
        f"commit to stream, p99 at {STREAMED:,} facts/s, ms",
        lambda bench: percentile(streamed(bench, STREAMED), 0.99),
        is_cost=True,
        writes=True,
    ),
    "deliveries": rated("webhook deliveries, deliveries/s", delivered, most_rounds=LONG),
    **BOUNDS,
}

WORKS = dict(sorted(_ROWS.items(), key=lambda row: row[1].writes))
"""All rows, in the order of their measurement. Reads come before rows that add to the log."""
