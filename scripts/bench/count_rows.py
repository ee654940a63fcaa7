"""The rows about counts: summaries over all lines."""

import statistics
import time
from collections.abc import Iterator, Sequence

from line_requests import paths
from measure import Bench, Row, at_most, compared, interleave
from product import Client
from read_rows import FRESH

CHEAP = ("none", "workspace_id", "state", "execution_model", "product_line")
COSTLY = ("project_tag", "blocked_cause")
IN_SHORT = ("none", "workspace_id")
MOST_MS = 150
FEW = 5


def summaries(bench: Bench) -> Iterator[Row]:
    """Summaries by the lines' properties, compared with the list; by tag and cause, their time."""
    names = IN_SHORT if bench.short else CHEAP
    requests = [bench.asker.summaries(name) for name in names]
    measured = interleave(
        bench.few_rounds,
        lambda: bench.gets(paths(bench.asker.lists("none", FRESH))),
        *(lambda some=some: bench.gets(some) for some in requests),
    )
    limit = measured[0]
    for name, some, ours in zip(names, requests, measured[1:], strict=True):
        work = "summary of all lines" if name == "none" else f"summary by {name}"
        note = f"{len(some)} different; limit: the list, fresh"
        yield compared(f"{work}, requests/s", 0.5, ours, limit, note)
    for name in COSTLY:
        middle, note = _latency(bench, bench.asker.summaries(name) * 2)
        yield at_most(f"summary by {name}, median ms", middle, MOST_MS, "ms", note)
    middle, note = _latency(bench, bench.asker.past_summaries(FEW))
    yield Row("summary of all lines as of then, median ms", middle, note=f"{note}; no bound")


def _latency(bench: Bench, paths: Sequence[str]) -> tuple[float, str]:
    """The median time of one summary, with one client, and a note about it."""
    client, times = Client(bench.product), []
    for path in paths:
        began = time.perf_counter()
        client.get(path)
        times.append((time.perf_counter() - began) * 1e3)
    note = f"one client; the slowest of {len(times)}: {max(times):.1f} ms"
    return statistics.median(times), note
