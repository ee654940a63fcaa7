"""The rows about the service itself: its workers' memory, metrics, start, and idle node."""

import json
import re
import statistics
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import loadgen
import psycopg
from cost import COMMITS
from measure import WARM_UP, Bench, Row, at_most
from processes import children_of, megabytes, name_of, threads_of, usage_of
from product import UnmeasuredError, serving
from story import line_id

MOST_MB = 300
MOST_SECONDS = 2
STARTS = 3
SCRAPERS = 16  # connections that request the metrics, without a credential
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # of refused requests
DETAILS_PER_SECOND = 50
LEAST_SECONDS = 10.0
MOST_P99 = 100  # ms
SETTLED, IDLE, IDLE_SHORT = 12.0, 30.0, 10.0  # seconds: PostgreSQL reports commits 10 s late
MOST_CONNECTIONS, MOST_COMMITS, MOST_THREADS, MOST_CPU = 12, 8, 30, 2
OURS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


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
    """A line's detail while strangers request the metrics, after refused requests on each path."""
    product, seconds = bench.product, max(LEAST_SECONDS, bench.seconds)
    with urllib.request.urlopen(f"http://127.0.0.1:{product.port}/openapi.json") as answer:
        paths = [re.sub(r"\{\w+\}", "x", path) for path in json.load(answer)["paths"]]
    refused = [loadgen.request(method, path) for path in paths for method in METHODS]
    loadgen.run_load(loadgen.Job(product.port, [refused]))
    scrapes = [[loadgen.request("GET", "/metrics")]] * SCRAPERS
    request = loadgen.Job(product.port, scrapes, seconds + 3 * WARM_UP, repeat=True)
    reads = [[product.get(f"/v1/execution/{line_id(1)}")]]
    details = loadgen.Job(
        product.port, reads, seconds, 2 * WARM_UP, repeat=True, rate=DETAILS_PER_SECOND
    )
    quiet = loadgen.run_load(details)
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(loadgen.run_load, request)
        during = loadgen.run_load(details)
        flooded = flooding.result()
    if {*quiet.statuses, *during.statuses, *flooded.statuses} != {200}:
        raise UnmeasuredError(f"answered {during.statuses}, the metrics {flooded.statuses}")
    note = (
        f"{SCRAPERS} connections, {flooded.rate:,.0f} texts/s; without: p99 {quiet.p99_ms:.1f} ms"
    )
    work = "detail beside requests for the metrics, p99 ms"
    return at_most(work, during.p99_ms, MOST_P99, "ms", note)


def start(bench: Bench) -> Row:
    """The time from the command to the line `Serving on`, after a clean stop."""
    times = []
    for _ in range(STARTS):
        bench.product.stop()
        times.append(bench.product.start())
    note = f"{bench.data.events:,} events; {', '.join(f'{one:.2f}' for one in times)}"
    work = "start on an existing ledger, seconds"
    return at_most(work, statistics.median(times), MOST_SECONDS, "s", note)


def idle(bench: Bench) -> Iterator[Row]:
    """The costs of a node with one worker on a new ledger that gets no requests."""
    seconds = IDLE_SHORT if bench.short else IDLE
    with (
        serving(bench.folder / "idle", "", 1, bench.folder / "idle.log") as product,
        psycopg.connect(product.database_url, autocommit=True) as connection,
    ):
        time.sleep(SETTLED)
        everyone = (product.pid, *children_of(product.pid))
        ours = [pid for pid in everyone if name_of(pid).startswith("ledger")]
        before, used = connection.execute(COMMITS).fetchone(), usage_of(product.pid).cpu
        time.sleep(seconds)
        after, used = connection.execute(COMMITS).fetchone(), usage_of(product.pid).cpu - used
        found = connection.execute(OURS).fetchone()
        threads = sum(map(threads_of, ours))
    if not (before and after and found):
        raise UnmeasuredError("PostgreSQL has no figures of the idle node")
    note = f"{len(ours)} processes, one worker; {seconds:.0f} s"
    commits = (after[0] - before[0]) / seconds
    yield at_most("idle node, connections", found[0], MOST_CONNECTIONS, "", note)
    yield at_most("idle node, commits/s", commits, MOST_COMMITS, "/s", note)
    yield at_most("idle node, threads", threads, MOST_THREADS, "", note)
    cpu = used * 60 / seconds
    yield at_most("idle node, CPU s a minute", cpu, MOST_CPU, "s", f"{note}, with PostgreSQL")
