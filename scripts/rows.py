"""The rows about requests: each loads the product over HTTP, and its limit in the same rounds."""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import limits
import loadgen
import psycopg
from measuring import SUPPLY, WARM_UP, Bench, Row, compared, interleave, median_ratio
from product import BATCH_CLIENTS, MANY, Client, UnmeasuredError
from story import BATCH, ORGANIZATION, batch_of, batches_of_lines, line_id

from ledger.domain.values import day_of, sort_key, week_of
from projections import reading

PAGE = 25

# The columns of the tables that an append inserts into.
EVENT = "originator_id originator_version topic state notification_id recorded_at"
FACT = "organization_id source fact_id digest run_id subject event_ids position"
CHECK_IN = "line_id source fact_id hours at resource_id voided"
RUN_KEY = "run_id organization_id wrapped destroyed_at"


def ceiling(bench: Bench) -> Row:
    """What the generator itself reaches, against ASGI without a framework."""
    bench.ceiling = max(bench.bare_rate() for _ in range(min(bench.rounds, 3)))
    note = f"{bench.clients} clients, {bench.workers} workers; near it a row is void"
    return Row("ceiling: bare ASGI, requests/s", bench.ceiling, note=note)


def facts(bench: Bench) -> Row:
    """Facts one per request beside a FastAPI route that only parses them."""
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
    return compared("facts, one per request, facts/s", 0.2, ours, limit, note)


def batches(bench: Bench) -> Row:
    """Facts in batches beside COPY of the same rows."""

    def bodies(count: int) -> list[bytes]:
        work = bench.story.work()
        return [batch_of(list(itertools.islice(work, BATCH))) for _ in range(count)]

    def ours() -> float:
        count = int(2 * SUPPLY * (bench.seconds + WARM_UP) / BATCH / BATCH_CLIENTS) + 1
        streams = [bodies(count) for _ in range(BATCH_CLIENTS)]
        requests = [[bench.product.post(body, MANY) for body in stream] for stream in streams]
        return BATCH * bench.rate(bench.product.port, requests, 200, repeat=False)

    client, work = Client(bench.product), bench.story.work()
    ends = [client.post_batch(list(itertools.islice(work, BATCH))) for _ in range(9)]
    with psycopg.connect(bench.product.database_url) as connection:
        batches = [
            [limits.read_rows(connection, *table) for table in rows_of_batch(low, high)]
            for low, high in itertools.pairwise(ends)
        ]

        def copied() -> float:
            taken = limits.copy_seconds(connection, batches, bench.seconds / 2)
            return BATCH / statistics.median(taken)

        limits.create_clones(connection, batches[0])
        try:
            mine, limit = interleave(bench.rounds, ours, copied)
        finally:
            connection.rollback()
            limits.drop_clones(connection)
    note = (
        f"{BATCH_CLIENTS} clients; limit: COPY into {', '.join(rows.table for rows in batches[0])}"
    )
    return compared(f"facts in batches of {BATCH:,}, facts/s", 0.08, mine, limit, note)


def rows_of_batch(low: int, high: int) -> list[tuple[str, tuple[str, ...], str]]:
    """(table, columns, SELECT) for all that the append of the positions low < p <= high inserted.

    Rows that it changes in place (`line_activity`, `open_run`) have no COPY. They are left out,
    which favours the limit.
    """
    events = (
        f"FROM ledger.ledger_events WHERE notification_id > {low} AND notification_id <= {high}"
    )
    reported = f"FROM ledger.fact WHERE position > {low} AND position <= {high}"
    check_ins = (
        f"FROM ledger.check_in WHERE (source, fact_id) IN (SELECT source, fact_id {reported})"
    )
    keys = f"FROM ledger.run_key WHERE run_id IN (SELECT run_id {reported})"
    wanted = [
        ("ledger_events", EVENT, events),
        ("fact", FACT, reported),
        ("check_in", CHECK_IN, check_ins),
        ("run_key", RUN_KEY, keys),
    ]
    return [
        (f"ledger.{table}", tuple(columns.split()), f"SELECT {columns.replace(' ', ', ')} {rows}")
        for table, columns, rows in wanted
    ]


def read_row(bench: Bench, work: str, paths: Sequence[str], queries: list[limits.Query]) -> Row:
    """GETs beside what their parts allow: 1 / (1/A + 1/B).

    A is FastAPI answering constant bytes of that size, B the same SQL from bare psycopg.
    """
    client = Client(bench.product)
    size = int(statistics.median(len(client.get(path)[1]) for path in paths[:20]))
    gets = [bench.product.get(path) for path in paths]
    # Each connection begins somewhere else in the paths, as people do.
    starts = [17 * n % len(gets) for n in range(bench.clients)]
    requests = [gets[start:] + gets[:start] for start in starts]
    constant = [[bench.product.get(f"/bytes/{size}")]] * bench.clients
    job = limits.StatementJob(bench.product.database_url, queries, bench.clients, bench.seconds)
    with limits.serve_limit("app", bench.workers, bench.folder, [size]) as port:
        ours, route, query = interleave(
            bench.rounds,
            lambda: bench.rate(bench.product.port, requests, 200),
            lambda: bench.rate(port, constant, 200),
            lambda: limits.statement_rate(job, bench.workers),
        )
    limit = [1 / (1 / a + 1 / b) for a, b in zip(route, query, strict=True)]
    parts = f"A {statistics.median(route):,.0f}/s, B {statistics.median(query):,.0f}/s"
    return compared(work, 0.5, ours, limit, f"{size:,} bytes; {parts}")


def lists(bench: Bench) -> Row:
    """Pages of 25 lines, the first eight in turn."""
    client, paths, queries = Client(bench.product), [], []
    cursor = ""
    after: dict[str, object] = {}
    for _ in range(8):
        paths.append(f"/v1/execution?limit={PAGE}{cursor}")
        statement = reading.list_statement(frozenset({"organization", *after}))
        queries.append((statement, {**tenant_and_clock(), "limit": PAGE + 1, **after}))
        answer = json.loads(client.get(paths[-1])[1])
        if not answer["meta"]["has_more"]:
            break
        cursor = f"&cursor={answer['meta']['cursor']}"
        after = {"after": sort_key(answer["data"][-1]["id"])}
    return read_row(bench, f"list of {PAGE}, requests/s", paths, queries)


def as_of(bench: Bench) -> Row:
    """The first page as it was between the two halves of the load, beside the page of now.

    Every line has moved on since then: more lines have begun, and those there have changed.
    """
    client, story = Client(bench.product), bench.story
    live = f"/v1/execution?limit={PAGE}"
    then = f"{live}&as_of={bench.between}"

    def ids(path: str) -> list[str]:
        return [line["id"] for line in json.loads(client.get(path)[1])["data"]]

    if ids(then) == ids(live):
        raise UnmeasuredError("a page as of then holds the lines of now")
    bench.product.load(batches_of_lines(story.later, range(1, story.lines + 1)))
    sizes = [len(client.get(path)[1]) for path in (then, live)]

    def rate_of(path: str) -> float:
        return bench.rate(bench.product.port, [[bench.product.get(path)]] * bench.clients, 200)

    ours, limit = interleave(bench.rounds, lambda: rate_of(then), lambda: rate_of(live))
    note = f"{sizes[0]:,} bytes; limit: the live page, {sizes[1]:,} bytes"
    return compared(f"as-of list of {PAGE}, requests/s", 0.3, ours, limit, note)


def detail(bench: Bench) -> Row:
    """One line, another one each time."""
    numbers = range(1, bench.story.lines + 1, max(1, bench.story.lines // 200))
    ids = [line_id(number) for number in numbers]
    statement = reading.detail_statement(frozenset({"organization"}))
    queries = [(statement, {**tenant_and_clock(), "line_id": line}) for line in ids]
    return read_row(bench, "detail, requests/s", [f"/v1/execution/{line}" for line in ids], queries)


def tenant_and_clock() -> dict[str, object]:
    """What the edge binds in every read of lines."""
    now = datetime.now(UTC)
    return {"organization": ORGANIZATION, "today": day_of(now), "week": week_of(now)}


def visible(bench: Bench) -> Row:
    """How long a write takes until every read sees it, under half load, beside one fsync.

    A write is answered once the views have it, so its own time is an upper bound; a probe looks
    whether that holds.
    """
    half = (bench.fact_rate or bench.measure_facts()) / 2
    shown: list[float] = []
    stale: list[bool] = []

    def under_half_load() -> float:
        job = loadgen.Job(bench.product.port, bench.fact_requests(half), bench.seconds, WARM_UP)
        job.rate, job.workers = half, bench.workers
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(loadgen.run_load, job)
            probe_visibility(bench, shown, stale, load.done)
            result = load.result()
        if set(result.statuses) != {201} or result.refusal:
            raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
        return result.p99_ms

    def commit() -> float:
        return 1e3 * limits.commit_seconds(bench.product.database_url, bench.seconds / 5)

    ours, fsync = interleave(bench.rounds, under_half_load, commit)
    ratio, slowest = median_ratio(ours, fsync), statistics.median(ours)
    p50, p99 = (loadgen.percentile(sorted(shown), share) for share in (0.5, 0.99))
    seen = f"a GET shows it {p50:.1f} ms after the answer, p99 {p99:.1f}"
    note = f"{half:,.0f} facts/s; {seen}; {sum(stale)} of {len(shown)} first GETs did not"
    reached = max(30 / ratio, 15 / slowest)
    work, bound = "commit to visible, p99 ms at half load", "≤ 30 or 15 ms"
    return Row(work, slowest, statistics.median(fsync), ratio, bound, reached, note)


def probe_visibility(
    bench: Bench, shown: list[float], stale: list[bool], over: Callable[[], bool]
) -> None:
    """Report a check-in, ask for its line until the answer is as late; note how long that took."""
    client = Client(bench.product)
    for number in itertools.cycle(range(1, bench.story.lines + 1)):
        if over():
            return
        line = line_id(number)
        position, _ = client.post(bench.story.fact("execution.checked_in", line, hours=0.25))
        answered = time.perf_counter()
        asked = 1
        while client.get(f"/v1/execution/{line}")[0] < position:
            asked += 1
            if time.perf_counter() - answered > 5:
                raise UnmeasuredError(f"position {position} was not visible after 5 s")
        shown.append((time.perf_counter() - answered) * 1e3)
        stale.append(asked > 1)
