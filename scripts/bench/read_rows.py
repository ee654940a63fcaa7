"""The rows about reads. Each has two forms, and the limit that its parts set.

*Fresh* requests are drawn anew for each round, from so many that hardly any is sent twice in it.
*Polled* requests are a few that are repeated, as screens do. The limit of the parts is 1 / (1/A +
1/B): A is FastAPI answering constant bytes of that size, B is the same SQL by bare psycopg, with
fresh requests.
"""

import contextlib
import itertools
import json
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import limits
import psycopg
from dataset import DataSet
from line_requests import PAGE, Ask, paths, queries
from measure import Bench, Row, compared, interleave
from product import Client, Product, UnmeasuredError, serving

FILTERS = (
    "none",
    "workspace_id",
    "state",
    "execution_model",
    "product_line",
    "project_tag",
    "blocked_cause",
    "rare",
)
IN_SHORT = ("none", "state")
FRESH = 16_000  # requests drawn for each round: more than are answered in it
POLLED = 5
DEEP = 1_000  # the number of a page far down the list
SMALL = DataSet(10_000, 1_000)
OUTDATED_AFTER = 0.005  # seconds that workers may cache an answer in the row about growth

_LABELS = {"none": "unfiltered", "rare": "by workspace, tag and cause"}


def lists(bench: Bench) -> Iterator[Row]:
    """Pages by every filter."""
    asker = bench.asker
    for name in IN_SHORT if bench.short else FILTERS:
        work = f"list of {PAGE}, {_LABELS.get(name, f'by {name}')}"
        fresh = partial(asker.lists, name)
        yield from read_rows(bench, work, fresh, asker.first_pages(name, POLLED))


def details(bench: Bench) -> Iterator[Row]:
    """The detail of a line, a different line each time."""
    asker = bench.asker
    yield from read_rows(bench, "detail", asker.details, asker.details(POLLED))


def runs(bench: Bench) -> Iterator[Row]:
    """Pages of runs of the line with the many runs."""
    work = f"runs of the line with {bench.data.events // 10:,}"
    yield from read_rows(bench, work, bench.asker.runs, bench.asker.first_runs())


def read_rows(
    bench: Bench, work: str, fresh: Callable[[int], Sequence[Ask]], polled: Sequence[Ask]
) -> Iterator[Row]:
    """The two rows of one kind of read. ``fresh`` draws a number of requests."""
    client = Client(bench.product)
    size = int(statistics.median(len(client.get(path)[1]) for path in paths(fresh(20))))
    constant = [[bench.product.get(f"/bytes/{size}")]] * bench.clients

    def query_database() -> float:
        # Drawn anew for each round, as ours are: the database has earlier rows in memory.
        job = limits.StatementJob(
            bench.product.database_url, queries(fresh(FRESH)), bench.clients, bench.seconds
        )
        return limits.statement_rate(job, bench.workers)

    with limits.serve_limit("app", bench.workers, bench.folder, [size]) as port:
        ours, again, route, query = interleave(
            bench.few_rounds,
            lambda: bench.gets(paths(fresh(FRESH))),
            lambda: bench.gets(paths(polled)),
            lambda: bench.rate(port, constant, 200),
            query_database,
        )
    limit = [1 / (1 / a + 1 / b) for a, b in zip(route, query, strict=True)]
    parts = f"A {statistics.median(route):,.0f}/s, B {statistics.median(query):,.0f}/s"
    yield compared(f"{work}, fresh, requests/s", 0.7, ours, limit, f"{size:,} bytes; {parts}")
    yield compared(f"{work}, polled, requests/s", 0.7, again, limit, f"{len(polled)} different")


def pages(bench: Bench) -> Iterator[Row]:
    """Pages far down the list, reached by their cursors, compared with the first pages."""
    client = Client(bench.product)
    first = path = f"/v1/execution?limit={PAGE}"
    walked: list[str] = []
    while len(walked) < DEEP + 50:
        walked.append(path)
        answer = json.loads(client.get(path)[1])
        if not answer["meta"]["has_more"]:
            break
        path = f"{first}&cursor={answer['meta']['cursor']}"
    some = min(50, len(walked) // 4)
    near, far = walked[:some], walked[-some - 1 : -1]
    ours, limit = interleave(bench.rounds, lambda: bench.gets(far), lambda: bench.gets(near))
    work = f"list of {PAGE}, pages from {len(walked) - some - 1:,} on, requests/s"
    yield compared(work, 0.9, ours, limit, f"limit: the first {some} pages")


def growth(bench: Bench) -> Iterator[Row]:
    """The same requests to this ledger and to a small one, without the workers' cached answers.

    Otherwise the workers would soon cache all answers of a small ledger, and hardly any of a large
    one.
    """
    SMALL.prepare()
    log = bench.folder / "small.log"
    with (
        serving(SMALL.data_dir, SMALL.key, bench.workers, log) as small,
        outdated_soon(bench.product, small),
    ):
        asker = SMALL.asker(small)
        large = bench.asker
        for work, of_large, of_small in (
            (f"list of {PAGE}", partial(large.lists, "none"), partial(asker.lists, "none")),
            ("detail", large.details, asker.details),
        ):
            ours, limit = interleave(
                bench.rounds,
                lambda draw=of_large: bench.gets(paths(draw(FRESH))),
                lambda draw=of_small: bench.gets(paths(draw(FRESH)), small),
            )
            note = f"limit: a ledger of {SMALL.events:,} events"
            work = f"{work}, {bench.data.events:,} events, requests/s"
            yield compared(work, 0.9, ours, limit, note)


@contextlib.contextmanager
def outdated_soon(*products: Product) -> Iterator[None]:
    """Tell the workers again and again that a view has moved; the view does not exist."""
    over = threading.Event()

    def tell() -> None:
        with contextlib.ExitStack() as stack:
            channels = [
                stack.enter_context(psycopg.connect(product.database_url, autocommit=True))
                for product in products
            ]
            for position in itertools.count(1):
                # At the end, announce the view as stopped: no read waits for a stopped view.
                is_over = over.wait(OUTDATED_AFTER)
                word = f"bench {'stopped' if is_over else position}"
                for channel in channels:
                    channel.execute("SELECT pg_notify('ledger_views', %s)", (word,))
                if is_over:
                    return

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def past(bench: Bench) -> Iterator[Row]:
    """Pages as of the middle of the log, compared with live pages."""
    asker, client = bench.asker, Client(bench.product)

    def states(ask: Ask) -> list[str]:
        return [line["state"] for line in json.loads(client.get(ask.path)[1])["data"]]

    if not any(map(states, asker.past_pages(20))):
        raise UnmeasuredError("the pages of the past are empty")
    ours, limit = interleave(
        bench.rounds,
        lambda: bench.gets(paths(asker.past_pages(FRESH))),
        lambda: bench.gets(paths(asker.lists("none", FRESH))),
    )
    note = "fresh, each of another instant; limit: live pages"
    yield compared(f"as-of list of {PAGE}, requests/s", 0.3, ours, limit, note)
