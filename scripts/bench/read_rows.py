"""The rows about reads: each in two ways, beside what the parts allow.

*Fresh* requests are drawn anew for each round from so many that hardly one is asked twice in it;
*polled* ones are a few, asked again and again, as screens do. What the parts allow is
1 / (1/A + 1/B): A is FastAPI answering constant bytes of that size, B the same SQL from bare
psycopg, asked as the fresh ones.
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
FRESH = 16_000  # drawn for each round: more than are answered in it
POLLED = 5
DEEP = 1_000  # the page that is far down the list
SMALL = DataSet(10_000, 1_000)
OUTDATED_AFTER = 0.005  # seconds that an answer may be kept in the row about growth

_SAID = {"none": "unfiltered", "rare": "by workspace, tag and cause"}


def lists(bench: Bench) -> Iterator[Row]:
    """Pages by every filter."""
    asker = bench.asker
    for name in IN_SHORT if bench.short else FILTERS:
        work = f"list of {PAGE}, {_SAID.get(name, f'by {name}')}"
        fresh = partial(asker.lists, name)
        yield from read_rows(bench, work, fresh, asker.first_pages(name, POLLED))


def details(bench: Bench) -> Iterator[Row]:
    """One line, another one each time."""
    asker = bench.asker
    yield from read_rows(bench, "detail", asker.details, asker.details(POLLED))


def runs(bench: Bench) -> Iterator[Row]:
    """Pages of the line that has the many runs."""
    work = f"runs of the line with {bench.data.events // 10:,}"
    yield from read_rows(bench, work, bench.asker.runs, bench.asker.first_runs())


def read_rows(
    bench: Bench, work: str, fresh: Callable[[int], Sequence[Ask]], polled: Sequence[Ask]
) -> Iterator[Row]:
    """The two rows of one kind of read, of which ``fresh`` draws as many as are asked for."""
    client = Client(bench.product)
    size = int(statistics.median(len(client.get(path)[1]) for path in paths(fresh(20))))
    constant = [[bench.product.get(f"/bytes/{size}")]] * bench.clients

    def asked_of_database() -> float:
        # Drawn anew for each round, as ours: what was asked before is in its memory.
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
            asked_of_database,
        )
    limit = [1 / (1 / a + 1 / b) for a, b in zip(route, query, strict=True)]
    parts = f"A {statistics.median(route):,.0f}/s, B {statistics.median(query):,.0f}/s"
    yield compared(f"{work}, fresh, requests/s", 0.7, ours, limit, f"{size:,} bytes; {parts}")
    yield compared(f"{work}, polled, requests/s", 0.7, again, limit, f"{len(polled)} different")


def pages(bench: Bench) -> Iterator[Row]:
    """Pages far down the list, to which one walks, beside the first ones."""
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
    """The same requests to this ledger and to a small one, neither from what workers keep.

    All that a small ledger can be asked would soon be kept, and nothing of a large one's.
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
    """Tell the workers again and again that a view has moved on, though there is no such view."""
    over = threading.Event()

    def tell() -> None:
        with contextlib.ExitStack() as stack:
            channels = [
                stack.enter_context(psycopg.connect(product.database_url, autocommit=True))
                for product in products
            ]
            for position in itertools.count(1):
                # In the end it stops: nobody waits for a view that has stopped.
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
    """Pages as they were in the middle of the log, beside the live ones."""
    asker, client = bench.asker, Client(bench.product)

    def states(ask: Ask) -> list[str]:
        return [line["state"] for line in json.loads(client.get(ask.path)[1])["data"]]

    if not any(map(states, asker.past_pages(20))):
        raise UnmeasuredError("the pages of then are empty")
    ours, limit = interleave(
        bench.rounds,
        lambda: bench.gets(paths(asker.past_pages(FRESH))),
        lambda: bench.gets(paths(asker.lists("none", FRESH))),
    )
    note = "fresh, each of another instant; limit: live pages"
    yield compared(f"as-of list of {PAGE}, requests/s", 0.3, ours, limit, note)
