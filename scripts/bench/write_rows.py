"""The rows about writes: each loads the product over HTTP, and its limit in the same rounds."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import copy_limit
import limits
import loadgen
import peers
import psycopg
from chronicle import TABLES
from lag import Watch
from measure import SUPPLY, WARM_UP, Bench, Row, compared, interleave, median_ratio
from product import BATCH_CLIENTS, MANY, Client, UnmeasuredError
from story import BATCH, batch_of, line_id


def ceiling(bench: Bench) -> Row:
    """The load generator's own rate, with ASGI without a framework."""
    bench.ceiling = max(bench.bare_rate() for _ in range(min(bench.rounds, 3)))
    note = f"{bench.clients} clients, {bench.workers} workers; near this rate a row is void"
    return Row("ceiling: bare ASGI, requests/s", bench.ceiling, note=note)


def facts(bench: Bench) -> Row:
    """Facts one per request, compared with a FastAPI route that only parses them."""
    same = [
        bench.product.post(fact, path="/fact") for fact in itertools.islice(bench.story.work(), 400)
    ]
    with limits.serve_limit("app", bench.workers, bench.folder) as port:
        ours, limit = interleave(
            bench.rounds,
            bench.measure_facts,
            lambda: bench.rate(port, [same] * bench.clients, 201),
        )
    bench.fact_rate = statistics.median(ours)
    note = f"{bench.clients} clients; limit: FastAPI that parses"
    return compared("facts, one per request, facts/s", 0.35, ours, limit, note)


def with_peers(bench: Bench) -> Iterator[Row]:
    """Single facts, compared with writes of other systems, measured in turn with each."""
    for peer in peers.PEERS:
        theirs: Sequence[float]
        try:
            with peers.measured(bench, peer) as measure:
                ours, theirs = interleave(bench.rounds, bench.measure_facts, measure)
            note = "measured in turn"
        except peers.NotInstalledError as error:
            ours, theirs = [bench.fact_rate or bench.measure_facts()], [peer.recorded]
            note = f"a recorded figure, from the same kind of machine: {error}"
        yield compared(f"facts beside {peer.name}, writes/s", peer.at_least, ours, theirs, note)


def batches(bench: Bench) -> Iterator[Row]:
    """Facts in batches, compared with COPY of the same rows, into empty and into filled tables."""
    client, work = Client(bench.product), bench.story.work()
    with psycopg.connect(bench.product.database_url) as connection:
        tables = [
            copy_limit.TableRows(name, columns, b"") for name, columns, _ in rows_of_batch(0, 0)
        ]
        copy_limit.create_clones(connection, tables)
        try:
            copy_limit.fill_clones(connection, tables)
            ends = [client.post_batch(list(itertools.islice(work, BATCH))) for _ in range(25)]
            written = [
                [copy_limit.read_rows(connection, *table) for table in rows_of_batch(low, high)]
                for low, high in itertools.pairwise(ends)
            ]
            full = statistics.median(copy_limit.copy_batch(connection, batch) for batch in written)

            def copied() -> float:
                times = copy_limit.copy_seconds(connection, written[:8], bench.seconds / 2)
                return BATCH / statistics.median(times)

            mine, limit = interleave(bench.rounds, lambda: batched_facts(bench), copied)
        finally:
            connection.rollback()
            copy_limit.drop_clones(connection)
    work_done, into = f"facts in batches of {BATCH:,}", ", ".join(rows.table for rows in tables)
    note = f"{BATCH_CLIENTS} clients; limit: COPY into {into}"
    yield compared(f"{work_done}, facts/s", 0.15, mine, limit, note)
    rate, there = statistics.median(mine), BATCH / full
    note = "limit: the same COPY into tables that already have the ledger's rows; no bound"
    yield Row(f"{work_done}, beside full tables, facts/s", rate, there, rate / there, note=note)


def batched_facts(bench: Bench) -> float:
    """Facts per second in batches."""

    def bodies(count: int) -> list[bytes]:
        work = bench.story.work()
        return [batch_of(list(itertools.islice(work, BATCH))) for _ in range(count)]

    count = int(2 * SUPPLY * (bench.seconds + WARM_UP) / BATCH / BATCH_CLIENTS) + 1
    streams = [bodies(count) for _ in range(BATCH_CLIENTS)]
    requests = [[bench.product.post(body, MANY) for body in stream] for stream in streams]
    return BATCH * bench.rate(bench.product.port, requests, 200, repeat=False)


def rows_of_batch(low: int, high: int) -> list[tuple[str, tuple[str, ...], str]]:
    """(table, columns, SELECT) for all rows that the appends at low < position <= high inserted.

    Rows that an append changes in place (`line_activity`, `open_run`) have no COPY. Leaving out
    such rows favours the limit.
    """
    events = (
        f"FROM ledger.ledger_events WHERE notification_id > {low} AND notification_id <= {high}"
    )
    begun = f"SELECT originator_id {events} AND originator_version = 1"
    rows = {
        "ledger_events": events,
        "identity": f"FROM ledger.identity WHERE position > {low} AND position <= {high}",
        "run_key": f"FROM ledger.run_key WHERE run_id IN ({begun})",
    }
    return [
        (
            f"ledger.{table}",
            tuple(TABLES[table].split()),
            f"SELECT {TABLES[table].replace(' ', ', ')} {those}",
        )
        for table, those in rows.items()
    ]


def visible(bench: Bench) -> Row:
    """The time from a fact's recording until every view has it, at half load, with one fsync
    beside.

    A write is answered once the views have it; the note has the time of the whole request. A probe
    checks that a read after the answer sees the write.
    """
    half = (bench.fact_rate or bench.measure_facts()) / 2
    writes: list[float] = []
    delays: list[float] = []
    stale: list[bool] = []

    def under_half_load() -> float:
        job = loadgen.Job(bench.product.port, bench.fact_requests(half), bench.seconds, WARM_UP)
        job.rate, job.workers = half, bench.workers
        with Watch(bench.product.database_url) as watch, ThreadPoolExecutor(1) as pool:
            warm = datetime.now(UTC) + timedelta(seconds=WARM_UP)
            load = pool.submit(loadgen.run_load, job)
            probe_visibility(bench, delays, stale, load.done)
            result = load.result()
            times = watch.milliseconds(warm)
        if set(result.statuses) != {201} or result.refusal:
            raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
        writes.append(result.p99_ms)
        return loadgen.percentile(times, 0.99)

    def commit() -> float:
        return 1e3 * copy_limit.commit_seconds(bench.product.database_url, bench.seconds / 5)

    ours, fsync = interleave(bench.rounds, under_half_load, commit)
    ratio, slowest = median_ratio(ours, fsync), statistics.median(ours)
    p50, p99 = (loadgen.percentile(sorted(delays), share) for share in (0.5, 0.99))
    whole = f"the whole write, p99: {statistics.median(writes):.1f} ms"
    label = f"a GET shows it {p50:.1f} ms after the answer, p99 {p99:.1f}"
    unseen = f"{sum(stale)} of {len(delays)} first GETs did not"
    note = f"{half:,.0f} facts/s; {whole}; {label}; {unseen}"
    reached = max(30 / ratio, 15 / slowest)
    work, bound = "commit to visible, p99 ms at half load", "≤ 30 or 15 ms"
    return Row(work, slowest, statistics.median(fsync), ratio, bound, reached, note)


def probe_visibility(
    bench: Bench, delays: list[float], stale: list[bool], over: Callable[[], bool]
) -> None:
    """Report check-ins. Read the line until the answer has each, and note how long that took."""
    client = Client(bench.product)
    for number in itertools.cycle(bench.story.lines):
        if over():
            return
        line = line_id(number)
        position, _ = client.post(bench.story.fact("execution.checked_in", line, hours=0.25))
        answered = time.perf_counter()
        reads = 1
        while client.get(f"/v1/execution/{line}")[0] < position:
            reads += 1
            if time.perf_counter() - answered > 5:
                raise UnmeasuredError(f"position {position} was not visible after 5 s")
        delays.append((time.perf_counter() - answered) * 1e3)
        stale.append(reads > 1)
