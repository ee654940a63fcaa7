"""The rows about distance: check-ins per second if the database is milliseconds away."""

import contextlib
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import loadgen
from measure import WARM_UP, Bench, Row
from product import Product, UnmeasuredError, serving
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from story import BATCH, ORGANIZATION, story_of_new

from ledger.engine.postgres.embedded import running

DISTANCES = (0, 1, 5, 10)  # ms of a round trip
CLIENTS = (32, 256)
LINES = 500
LEAST_SECONDS = 4.0
SUPPLY = 6_000  # facts a second: more than any row reaches


def distance(bench: Bench) -> Iterator[Row]:
    """Check-ins per second, one per request, by the round trip to the database and by clients."""
    for milliseconds in DISTANCES:
        with far_ledger(bench, milliseconds / 1000) as product:
            # Only check-ins: facts of runs would need those that an earlier row did not send.
            story = replace(story_of_new(LINES), mix="check_ins")
            begun = [fact for n in range(1, LINES + 1) for fact in story.beginning(n)]
            product.load(begun[n : n + BATCH] for n in range(0, len(begun), BATCH))
            work = story.work()
            for clients in CLIENTS:
                seconds = max(LEAST_SECONDS, bench.seconds)
                each = int(SUPPLY * (seconds + WARM_UP)) // clients
                streams = [itertools.islice(work, each) for _ in range(clients)]
                requests = [[product.post(fact) for fact in stream] for stream in streams]
                job = loadgen.Job(product.port, requests, seconds, WARM_UP, workers=bench.workers)
                found = loadgen.run_load(job)
                if set(found.statuses) != {201}:
                    raise UnmeasuredError(f"answers {found.statuses}: {found.refusal}")
                name = f"{milliseconds} ms to the database, {clients} clients, check-ins/s"
                note = f"p50 {found.p50_ms:.0f}, p99 {found.p99_ms:.0f} ms"
                yield Row(name, found.rate, note=note)


@contextlib.contextmanager
def far_ledger(bench: Bench, seconds: float) -> Iterator[Product]:
    """A new ledger of the measured version, with a round trip of ``seconds`` to its database."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="far-", dir=bench.folder))
        folder = Path(made)
        folder.chmod(0o755)  # if root runs this, PostgreSQL's user must reach it
        database = stack.enter_context(running(folder / "database", purpose="bench"))
        url = stack.enter_context(_relayed(database.url, seconds))
        product = stack.enter_context(
            serving(
                folder / "data",
                "",
                bench.workers,
                folder / "log",
                ledger=bench.product.ledger,
                settings={"LEDGER_DATABASE_URL": url},
            )
        )
        product.key = product.command(
            *("keys", "create", "--organization", ORGANIZATION, "--name", "bench"),
            *("--permission", "read", "write"),
        ).strip()
        yield product


@contextlib.contextmanager
def _relayed(url: str, seconds: float) -> Iterator[str]:
    """The connection string of a relay to the database, during the block."""
    conninfo = conninfo_to_dict(url)
    server = f"{conninfo['host']}/.s.PGSQL.{conninfo['port']}"
    command = [sys.executable, str(Path(__file__).with_name("relay.py")), server, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        try:
            port = relay.stdout.readline().strip()
            yield make_conninfo(url, host="127.0.0.1", port=port)
        finally:
            relay.kill()
