"""The rows about feeds: from commit to a stream's reader, webhook deliveries, audit export."""

import asyncio
import contextlib
import http.client
import itertools
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import copy_limit
import httpcore
import limits
import loadgen
import psycopg
import uvloop
from measure import WARM_UP, Bench, Row, compared, interleave, median_ratio
from product import Product, UnmeasuredError
from psycopg.rows import tuple_row
from story import BATCH, ORGANIZATION

from ledger.engine.values.principal import EVERYONE, Tenant
from projections.feed import feeds

AT_ONCE = 16  # requests in flight to one receiver, for us and for the limit
DELIVERIES = 4_000  # facts per round of deliveries, about
SETTLED_WITHIN = 60.0  # seconds for the last delivery of a round
PAGE = 1_000  # entries of the audit log per statement
EXPORT = f"/v1/audit-logs/export?organization_id={ORGANIZATION}"


def stream(bench: Bench) -> Row:
    """The time from an event's recording until the reader of a stream has it, at half load.

    `recorded_at` is set before the commit, so the figure includes the fsync.
    """
    half = (bench.fact_rate or bench.measure_facts()) / 2
    middles: list[float] = []

    def under_half_load() -> float:
        rate = streamed(bench, half)
        middles.append(loadgen.percentile(rate, 0.5))
        return loadgen.percentile(rate, 0.99)

    def commit() -> float:
        return 1e3 * copy_limit.commit_seconds(bench.product.database_url, bench.seconds / 5)

    ours, fsync = interleave(bench.rounds, under_half_load, commit)
    ratio, slowest = median_ratio(ours, fsync), statistics.median(ours)
    note = f"{half:,.0f} facts/s; p50 {statistics.median(middles):.1f} ms; limit: one fsync commit"
    reached = max(30 / ratio, 15 / slowest)
    work, bound = "commit to a stream's reader, p99 ms at half load", "≤ 30 or 15 ms"
    return Row(work, slowest, statistics.median(fsync), ratio, bound, reached, note)


def streamed(bench: Bench, rate: float) -> list[float]:
    """The sorted ages in milliseconds at which a stream's reader gets facts sent at this rate."""
    job = loadgen.Job(bench.product.port, bench.fact_requests(rate), bench.seconds, WARM_UP)
    job.rate, job.workers = rate, bench.workers
    with Reader(bench.product) as reader, ThreadPoolExecutor(1) as pool:
        result = pool.submit(loadgen.run_load, job).result()
        if set(result.statuses) != {201} or result.refusal:
            raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
        times = sorted(reader.milliseconds)
    if len(times) < 100:
        raise UnmeasuredError(f"only {len(times)} events were streamed")
    return times


class Reader:
    """Follows the stream on a thread and notes the age of each event when it arrives."""

    def __init__(self, product: Product) -> None:
        self.milliseconds: list[float] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        headers = {"authorization": f"Bearer {product.key}"}
        self._connection.request("GET", "/v1/events/stream", headers=headers)
        self._answer = self._connection.getresponse()
        if self._answer.status != 200:
            raise UnmeasuredError(f"the stream answered {self._answer.status}")
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._connection.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            for line in self._answer:
                if line.startswith(b"data:"):
                    begins = line.index(b'"recorded_at":"') + 15
                    at = line[begins : line.index(b'"', begins)].decode()
                    recorded = datetime.fromisoformat(at)
                    self.milliseconds.append(1e3 * (datetime.now(UTC) - recorded).total_seconds())


def deliveries(bench: Bench) -> Row:
    """Webhook deliveries per second to one receiver, compared with bare httpcore.

    The bodies have the same size. The facts are reported during the measurement, so the views work
    too.
    """
    with receiving(bench) as port:
        size = average_envelope(bench.product)
        ours, limit = interleave(
            min(bench.rounds, 3),
            lambda: delivered_rate(bench, port),
            lambda: uvloop.run(posted_rate(port, size, bench.seconds)),
        )
    note = f"about {size:,} bytes each, {AT_ONCE} at once; limit: httpcore, unsigned, unrecorded"
    return compared("webhook deliveries, deliveries/s", 0.2, ours, limit, note)


@contextlib.contextmanager
def receiving(bench: Bench) -> Iterator[int]:
    """The port of a receiver of webhooks."""
    port = limits.free_port()
    sink = [sys.executable, str(Path(__file__).with_name("sink.py")), str(port)]
    with limits.serve(sink, f"http://127.0.0.1:{port}/", bench.folder / "sink.log"):
        yield port


def average_envelope(product: Product) -> int:
    """The average bytes of an envelope in the feed's first page."""
    events = command(product, "GET", "/v1/events?limit=100")
    return sum(len(json.dumps(event, separators=(",", ":"))) for event in events) // len(events)


def delivered_rate(bench: Bench, port: int) -> float:
    """Deliveries per second to a new endpoint, from the first to the last of a round."""
    product = bench.product
    url = f"http://127.0.0.1:{port}/"
    path = f"/v1/webhooks/{command(product, 'POST', '/v1/webhooks', url)['id']}"
    before = received(port)
    work = bench.story.work()
    batches = [list(itertools.islice(work, BATCH)) for _ in range(DELIVERIES // BATCH)]
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(product.load, batches)
        while received(port) == before:
            if load.done() and load.exception():
                raise UnmeasuredError(f"the load failed: {load.exception()}")
            time.sleep(0.001)
        begun, first = time.perf_counter(), received(port)
        load.result()
        end = before + command(product, "GET", path)["status"]["sequence"]
        while received(port) < end:
            if time.perf_counter() - begun > SETTLED_WITHIN:
                raise UnmeasuredError(f"{received(port)} of {end} deliveries came")
            time.sleep(0.001)
        elapsed = time.perf_counter() - begun
    command(product, "DELETE", path)
    return (end - first) / elapsed


def command(product: Product, method: str, path: str, url: str | None = None) -> Any:
    """Send a request about an endpoint; return the answer's data."""
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
    headers = {"authorization": f"Bearer {product.key}", "content-type": "application/json"}
    body = None if url is None else json.dumps({"url": url, "event_types": ["*"]})
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if not 200 <= answer.status < 300:
        raise UnmeasuredError(f"{method} {path} answered {answer.status}: {content[:300]!r}")
    return json.loads(content)["data"] if content else None


def received(port: int) -> int:
    """The number of deliveries that the receiver has taken."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/")
    count = int(connection.getresponse().read())
    connection.close()
    return count


async def posted_rate(port: int, size: int, seconds: float) -> float:
    """Requests per second of bare httpcore, with as many at once as the dispatcher sends."""
    body, url = b"x" * size, f"http://127.0.0.1:{port}/"
    headers = {"content-type": "application/json"}
    count, end = 0, time.perf_counter() + seconds

    async def post() -> None:
        nonlocal count
        # Each task has its own connection: httpcore's pool costs more than the request.
        async with httpcore.AsyncHTTPConnection(httpcore.URL(url).origin) as connection:
            while time.perf_counter() < end:
                await connection.request("POST", url, headers=headers, content=body)
                count += 1

    await asyncio.gather(*(post() for _ in range(AT_ONCE)))
    return count / seconds


def export(bench: Bench) -> Row:
    """Entries per second of the audit log's export, compared with psycopg's for its statements."""
    url = bench.product.database_url
    statement = feeds.audit_read(frozenset({"organization", "organization_id"})).sql

    def bare() -> float:
        begun, entries, after = time.perf_counter(), 0, 0
        values = {"organization": ORGANIZATION, "organization_id": ORGANIZATION, "limit": PAGE}
        with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as connection:
            for name, value in zip(Tenant._fields, EVERYONE, strict=True):
                connection.execute("SELECT set_config(%s, %s, false)", (f"ledger.{name}_id", value))
            while True:
                rows = connection.execute(
                    statement.encode(), values | {"after": after}, prepare=True
                ).fetchall()
                if rows[0][1] is None:
                    return entries / (time.perf_counter() - begun)
                entries, after = entries + len(rows), rows[-1][1]

    mine, limit = interleave(min(bench.rounds, 3), lambda: exported_rate(bench), bare)
    entries = sum(part.count(b"\n") for part in download(bench.product, EXPORT))
    note = f"{entries:,} entries as JSON lines; limit: the same pages from bare psycopg"
    return compared("export of the audit log, entries/s", 0.5, mine, limit, note)


def exported_rate(bench: Bench) -> float:
    """Entries per second of the audit log's export."""
    begun = time.perf_counter()
    entries = sum(part.count(b"\n") for part in download(bench.product, EXPORT))
    return entries / (time.perf_counter() - begun)


def download(product: Product, path: str) -> Iterator[bytes]:
    """The parts of a long answer."""
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=60)
    connection.request("GET", path, headers={"authorization": f"Bearer {product.key}"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise UnmeasuredError(f"GET {path} answered {answer.status}: {answer.read(300)!r}")
    while part := answer.read1(1 << 18):
        yield part
    connection.close()
