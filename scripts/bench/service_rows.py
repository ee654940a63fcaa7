"""The rows about the service itself: the memory of its workers, its metrics, its start."""

import json
import re
import statistics
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import loadgen
from measure import WARM_UP, Bench, Row, at_most
from processes import children_of, megabytes, name_of
from product import UnmeasuredError
from story import line_id

MOST_MB = 300
MOST_SECONDS = 2
STARTS = 3
ASKING = 16  # connections that ask for the metrics, without a credential
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # of refused requests
DETAILS_PER_SECOND = 50
LEAST_SECONDS = 10.0
MOST_P99 = 100  # ms


def memory(bench: Bench) -> Row:
    """The largest memory of any API worker since its start."""
    held = {
        name: megabytes(pid, "VmHWM")
        for pid in children_of(bench.product.pid)
        if (name := name_of(pid)).startswith("ledger-")
    }
    workers = [most for name, most in held.items() if name.startswith("ledger-api")]
    if not workers:
        raise UnmeasuredError("no API worker was found among the service's processes")
    note = ", ".join(f"{name} {most:,.0f}" for name, most in sorted(held.items()))
    return at_most("memory of an API worker at most, MB", max(workers), MOST_MB, "MB", note)


def metrics(bench: Bench) -> Row:
    """A line's detail beside strangers who ask for the metrics, and were refused on each path."""
    product, seconds = bench.product, max(LEAST_SECONDS, bench.seconds)
    with urllib.request.urlopen(f"http://127.0.0.1:{product.port}/openapi.json") as answer:
        paths = [re.sub(r"\{\w+\}", "x", path) for path in json.load(answer)["paths"]]
    refused = [loadgen.request(method, path) for path in paths for method in METHODS]
    loadgen.run_load(loadgen.Job(product.port, [refused]))
    asked = [[loadgen.request("GET", "/metrics")]] * ASKING
    asking = loadgen.Job(product.port, asked, seconds + 3 * WARM_UP, repeat=True)
    shown = [[product.get(f"/v1/execution/{line_id(1)}")]]
    details = loadgen.Job(
        product.port, shown, seconds, 2 * WARM_UP, repeat=True, rate=DETAILS_PER_SECOND
    )
    quiet = loadgen.run_load(details)
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(loadgen.run_load, asking)
        beside = loadgen.run_load(details)
        flooded = flooding.result()
    if {*quiet.statuses, *beside.statuses, *flooded.statuses} != {200}:
        raise UnmeasuredError(f"answered {beside.statuses}, the metrics {flooded.statuses}")
    note = f"{ASKING} connections, {flooded.rate:,.0f} texts/s; without: p99 {quiet.p99_ms:.1f} ms"
    work = "detail beside requests for the metrics, p99 ms"
    return at_most(work, beside.p99_ms, MOST_P99, "ms", note)


def start(bench: Bench) -> Row:
    """The time from the command to the line `Serving on`, after a clean stop."""
    taken = []
    for _ in range(STARTS):
        bench.product.stop()
        taken.append(bench.product.start())
    note = f"{bench.data.events:,} events; {', '.join(f'{one:.2f}' for one in taken)}"
    work = "start on an existing ledger, seconds"
    return at_most(work, statistics.median(taken), MOST_SECONDS, "s", note)
