"""The rows about the cost of a fact: bytes on disk, and the CPU time of all processes.

A cost does not depend on other work of the machine. CPU time is that of the service's processes and
of its PostgreSQL. Bytes are those of the files of a ledger that is made for the row.
"""

import contextlib
import itertools
import os
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import loadgen
import psycopg
from lag import await_sealed, await_views
from measure import Bench, Row, at_most
from processes import children_of
from product import BATCH_CLIENTS, MANY, Product, UnmeasuredError, serving
from story import BATCH, ORGANIZATION, Story, batch_of, line_id, story_of_new

LINES = 500
FACTS = 20_000  # of each kind
PAYLOAD = {"text": "x" * 88}  # 100 bytes of JSON
BATCHES = 12
SINGLES = 4_000

_TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds

# All relations, with indexes and TOAST: also those of PostgreSQL itself, which hardly grow.
_SIZE = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind IN ('r', 'm')"


@contextlib.contextmanager
def fresh_ledger(bench: Bench, lines: int = LINES) -> Iterator[Product]:
    """A ledger of the measured version, with lines that have just begun."""
    ledger = bench.product.ledger
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="cost-", dir=bench.folder))
        folder = Path(made)
        folder.chmod(0o755)  # if root runs this, PostgreSQL's user must reach it
        product = stack.enter_context(
            serving(folder / "data", "", bench.workers, folder / "log", ledger=ledger)
        )
        product.key = product.command(
            *("keys", "create", "--organization", ORGANIZATION, "--name", "bench"),
            *("--permission", "read", "write"),
        ).strip()
        story = story_of_new(LINES)
        begun = [fact for n in range(1, lines + 1) for fact in story.beginning(n)]
        product.load(begun[n : n + BATCH] for n in range(0, len(begun), BATCH))
        yield product


def bytes_of(bench: Bench, facts: Iterable[bytes]) -> float:
    """Bytes on disk per fact, after VACUUM."""
    with fresh_ledger(bench) as product:
        before, sent = _size(product), iter(facts)
        product.load(list(itertools.islice(sent, BATCH)) for _ in range(FACTS // BATCH))
        return (_size(product) - before) / FACTS


def _size(product: Product) -> int:
    await_views(product)
    await_sealed(product)
    with psycopg.connect(product.database_url, autocommit=True) as connection:
        connection.execute("VACUUM")
        return int(connection.execute(_SIZE).fetchone()[0])  # type: ignore[index]


def bytes_of_check_ins(bench: Bench) -> float:
    """Bytes of a check-in; the lines take turns."""
    story = story_of_new(LINES)
    lines = itertools.cycle(map(line_id, range(1, LINES + 1)))
    facts = (story.fact("execution.checked_in", line, hours=1.25) for line in lines)
    return bytes_of(bench, facts)


def bytes_of_runs(bench: Bench) -> float:
    """Bytes of an event of a run: a start with input, an end with output."""
    story = story_of_new(LINES)
    return bytes_of(bench, _runs(story))


def _runs(story: Story) -> Iterator[bytes]:
    agents = itertools.cycle(map(line_id, story.agents))
    for line, number in zip(agents, story.run, strict=False):
        run = f"RUN-26-{number}"
        yield story.fact("run.started", run, service_line_id=line, input=PAYLOAD)
        yield story.fact("run.completed", run, output=PAYLOAD, tokens_used=1840)


def work_of_batches(bench: Bench) -> float:
    """Microseconds of CPU per fact in a batch of ``BATCH``."""
    return _in_batches(bench, BATCH, BATCHES * BATCH)[1]


def work_of_singles(bench: Bench) -> float:
    """Microseconds of CPU per fact that is sent alone, by the usual number of clients."""
    return singly(bench, bench.clients, SINGLES)[1]


def curve(bench: Bench) -> Iterator[Row]:
    """Facts per second and CPU time per fact, by number of clients and by size of batches."""
    for clients in (1, 8, 32, 128, 512):
        rate, work = singly(bench, clients, min(SINGLES, 500 * clients))
        yield Row(f"{clients} clients, one fact per request, facts/s", rate, note=f"{work:.0f} µs")
    for size in (10, 100, BATCH):
        rate, work = _in_batches(bench, size, BATCHES * BATCH)
        name = f"batches of {size:,}, {BATCH_CLIENTS} clients, facts/s"
        yield Row(name, rate, note=f"{work:.0f} µs")


def _in_batches(bench: Bench, size: int, count: int) -> tuple[float, float]:
    work = bench.story.work()
    bodies = [batch_of(list(itertools.islice(work, size))) for _ in range(count // size)]
    posts = [bench.product.post(body, MANY) for body in bodies]
    requests = [posts[n::BATCH_CLIENTS] for n in range(BATCH_CLIENTS)]
    job = loadgen.Job(bench.product.port, requests, workers=bench.workers)
    return _measured(bench.product, job, 200, len(posts) * size)


def singly(bench: Bench, clients: int, count: int) -> tuple[float, float]:
    """(facts per second, microseconds of CPU per fact) for facts that are sent alone."""
    each = count // clients
    streams = [itertools.islice(bench.story.work(), each) for _ in range(clients)]
    requests = [[bench.product.post(fact) for fact in stream] for stream in streams]
    job = loadgen.Job(bench.product.port, requests, workers=bench.workers)
    return _measured(bench.product, job, 201, each * clients)


def _measured(product: Product, job: loadgen.Job, status: int, facts: int) -> tuple[float, float]:
    """(facts a second until all are answered, microseconds of CPU a fact until the seal)."""
    before = _microseconds(product.pid)
    result = loadgen.run_load(job)
    if set(result.statuses) != {status}:
        raise UnmeasuredError(f"answers {result.statuses}: {result.refusal}")
    await_views(product)
    await_sealed(product)
    return facts / result.seconds, (_microseconds(product.pid) - before) / facts


def _microseconds(pid: int) -> float:
    """CPU time of a process and its descendants, including those that have ended."""
    ticks = 0
    for each in (pid, *children_of(pid)):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split()
            ticks += sum(map(int, stat[11:15]))
    return ticks * _TICK


def costs(bench: Bench) -> Iterator[Row]:
    """The costs of a fact: bytes with their bounds, CPU time without."""
    for work, measure, most in (
        ("bytes on disk of a check-in", bytes_of_check_ins, 1_500),
        ("bytes on disk of a run's event", bytes_of_runs, 2_400),
    ):
        yield at_most(work, measure(bench), most, "bytes", f"{FACTS:,} facts, after VACUUM")
    for work, measure in (
        (f"CPU of a fact, batches of {BATCH:,}, µs", work_of_batches),
        (f"CPU of a fact, one per request, {bench.clients} clients, µs", work_of_singles),
    ):
        median = statistics.median(measure(bench) for _ in range(bench.few_rounds))
        yield Row(work, median, note="of all processes, PostgreSQL's too; no bound")
