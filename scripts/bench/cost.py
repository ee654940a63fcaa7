"""The cost of facts, requests and commands: what all processes spend on them, PostgreSQL's too.

A cost depends less on other work of the machine than a rate does. Each load is a fixed number of
requests. Its cost counts from the open connections until nothing is left to do.
"""

import dataclasses
import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import loadgen
import psycopg
from lag import TIMEOUT, await_sealed, await_views
from measure import GATHER, NEAR_CEILING, Bench
from processes import usage_of
from product import BATCH_CLIENTS, MANY, Product, UnmeasuredError
from story import batch_of

REPORTED = 1.1  # seconds: a backend reports its commits at most once a second
COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"

_END = "SELECT max(notification_id) FROM ledger.ledger_events"

# An append is one transaction, whose number every row has.
_APPENDED = """
SELECT count(*), count(DISTINCT xmin::text) FROM ledger.ledger_events WHERE notification_id > %s
"""


@dataclass(frozen=True)
class Cost:
    """The cost of one fact, request or event, and the speed of the load."""

    count: int
    """How many facts, requests or events there were."""
    rate: float
    """Per second, until all are answered."""
    cpu: float
    """Microseconds of all processes; of facts, until the views have them and they are sealed."""
    switches: float = 0.0
    """Voluntary context switches of all processes, without threads that have ended."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    in_append: float = 0.0
    """The facts of one append."""


def of_singles(bench: Bench, clients: int, count: int, mix: str | None = None) -> Cost:
    """The cost of a fact that is sent alone; by default of the bench's own mix."""
    story = dataclasses.replace(bench.story, mix=mix or bench.story.mix)
    each = count // clients
    streams = [itertools.islice(story.work(), each) for _ in range(clients)]
    requests = [[bench.product.post(fact) for fact in stream] for stream in streams]
    return _of_facts(bench, requests, 201, each * clients)


def of_batches(bench: Bench, size: int, count: int) -> Cost:
    """The cost of a fact in batches of a size."""
    work = bench.story.work()
    bodies = [batch_of(list(itertools.islice(work, size))) for _ in range(count // size)]
    posts = [bench.product.post(body, MANY) for body in bodies]
    requests = [posts[n::BATCH_CLIENTS] for n in range(BATCH_CLIENTS)]
    return _of_facts(bench, requests, 200, len(posts) * size)


def of_gets(bench: Bench, paths: Sequence[str], clients: int | None = None) -> Cost:
    """The cost of a GET; the clients share the paths."""
    gets = [bench.product.get(path) for path in paths]
    clients = clients or bench.clients
    requests = [gets[n::clients] for n in range(clients)]
    return _of_load(bench, requests, 200, len(gets), gather=GATHER)


def of_command(product: Product, *arguments: str, count: int) -> Cost:
    """The cost of each of ``count`` things that a `ledger` command does beside the service."""
    before, began = usage_of(product.pid).cpu + _cpu_of_commands(), time.perf_counter()
    product.command(*arguments, seconds=TIMEOUT)
    elapsed = time.perf_counter() - began
    await_views(product)
    await_sealed(product)
    used = usage_of(product.pid).cpu + _cpu_of_commands() - before
    return Cost(count, rate=count / elapsed, cpu=used / count * 1e6)


def commits_of(bench: Bench, connection: psycopg.Connection[Any]) -> int:
    """The commits of the database so far, except for the last few.

    Backends report at the end of a transaction, if a second has passed since their last report.
    So this waits, and lets every backend take part in some facts.
    """
    time.sleep(REPORTED)
    of_singles(bench, bench.clients, bench.clients)
    return _row(connection, COMMITS)[0]


def _of_facts(bench: Bench, requests: list[list[bytes]], status: int, facts: int) -> Cost:
    with psycopg.connect(bench.product.database_url, autocommit=True) as connection:
        (end,) = _row(connection, _END)
        cost = _of_load(bench, requests, status, facts)
        events, appends = _row(connection, _APPENDED, end)
    if events != facts:
        raise UnmeasuredError(f"{facts:,} facts gave {events:,} events")
    return dataclasses.replace(cost, in_append=facts / appends)


def _of_load(
    bench: Bench, requests: list[list[bytes]], status: int, count: int, gather: float = 0.0
) -> Cost:
    """The cost of each of ``count`` facts or GETs that the requests hold."""
    product = bench.product
    job = loadgen.Job(
        product.port, requests, workers=bench.workers, gather=gather, server=product.pid
    )
    result = loadgen.run_load(job)
    if set(result.statuses) != {status} or result.before is None:
        raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
    if result.cpu_share > NEAR_CEILING:
        bench.strained[product.port] += 1
    await_views(product)
    await_sealed(product)
    used = usage_of(product.pid)
    return Cost(
        count,
        rate=count / result.seconds,
        cpu=(used.cpu - result.before.cpu) / count * 1e6,
        switches=used.switches_since(result.before) / count,
        p50_ms=result.p50_ms,
        p95_ms=result.p95_ms,
    )


def _cpu_of_commands() -> float:
    """The CPU seconds of this process's children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(connection: psycopg.Connection[Any], statement: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(statement, values).fetchone()
    if row is None:
        raise UnmeasuredError(f"no row from {statement}")
    return tuple(row)
