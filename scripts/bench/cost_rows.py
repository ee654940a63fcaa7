"""The rows about the bytes of a fact on disk, and about its CPU time by clients and batches.

Bytes are those of the files of a ledger that is made for the row.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import psycopg
from cost import of_batches, of_singles
from lag import await_sealed, await_views
from measure import Bench, Row, at_most
from product import BATCH_CLIENTS, Product, serving
from story import BATCH, ORGANIZATION, Story, line_id, story_of_new

LINES = 500
FACTS = 20_000  # of each kind
PAYLOAD = {"text": "x" * 88}  # 100 bytes of JSON
BATCHES = 12
SINGLES = 4_000
BEGUN = 1_000_000_000  # the ids of first facts: far above those of another story

# All relations, with indexes and TOAST: also those of PostgreSQL itself, which hardly grow.
_SIZE = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind IN ('r', 'm')"


@contextlib.contextmanager
def fresh_ledger(
    bench: Bench, lines: int = LINES, settings: Mapping[str, str] | None = None
) -> Iterator[Product]:
    """A ledger of the measured version, with lines that have just begun."""
    ledger = bench.product.ledger
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="cost-", dir=bench.folder))
        folder = Path(made)
        folder.chmod(0o755)  # if root runs this, PostgreSQL's user must reach it
        product = stack.enter_context(
            serving(
                *(folder / "data", "", bench.workers, folder / "log"),
                ledger=ledger,
                settings=settings,
            )
        )
        product.key = product.command(
            *("keys", "create", "--organization", ORGANIZATION, "--name", "bench"),
            *("--permission", "read", "write"),
        ).strip()
        story = story_of_new(LINES)
        story.serial = itertools.count(BEGUN)
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


def curve(bench: Bench) -> Iterator[Row]:
    """Facts per second and CPU time per fact, by number of clients and by size of batches."""
    for clients in (1, 8, 32, 128, 512):
        cost = of_singles(bench, clients, min(SINGLES, 500 * clients))
        name = f"{clients} clients, one fact per request, facts/s"
        yield Row(name, cost.rate, note=f"{cost.cpu:.0f} µs")
    for size in (10, 100, BATCH):
        cost = of_batches(bench, size, BATCHES * BATCH)
        name = f"batches of {size:,}, {BATCH_CLIENTS} clients, facts/s"
        yield Row(name, cost.rate, note=f"{cost.cpu:.0f} µs")


def costs(bench: Bench) -> Iterator[Row]:
    """The bytes of a fact with their bounds."""
    for work, measure, most in (
        ("bytes on disk of a check-in", bytes_of_check_ins, 1_500),
        ("bytes on disk of a run's event", bytes_of_runs, 2_400),
    ):
        yield at_most(work, measure(bench), most, "bytes", f"{FACTS:,} facts, after VACUUM")
