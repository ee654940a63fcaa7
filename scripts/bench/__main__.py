"""The ledger's speed, each figure beside the limit that this machine sets.

    python scripts/bench                     every row, on 1 M events (a quarter of an hour)
    python scripts/bench facts lists         some rows; the ceiling is always the first
    python scripts/bench --big               10 M events on 1 M lines, in place: reads, rebuild
    python scripts/bench --short             small data, some rows, half the bounds, for CI

The data set is made once and kept (`dataset.py`); the rows run on a copy (`--big`: in place). Each
row warms up, then measures ours and the limit in turn, in several short rounds. The ratio is the
median of the rounds' ratios, so it holds while the machine's speed drifts. A row is void if the
load generator was the limit and not the server. Exit code 1: a row is under its bound, void, or
could not be measured; `--short`: a row reaches less than half of its usual ratio, or of its bound.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bound_rows
import copy_limit
import cost_rows
import count_rows
import distance_rows
import feed_rows
import limits
import log_row
import neighbour_rows
import psycopg
import read_rows
import search_row
import service_rows
import trace_rows
import usage_rows
import watch_rows
import write_rows
from dataset import DataSet
from import_row import imports
from measure import Bench, Row, number
from product import Product, UnmeasuredError, serving
from rebuild_row import rebuild
from story import Story

# The files of the tables, with their indexes, that lists, details, runs and past reads need.
READ_FILES = """
SELECT pg_relation_filepath(oid) FROM pg_class
WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'i')
    AND relname ~ '^(execution|run|search|directory)_'
"""

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")

ROWS: dict[str, Callable[[Bench], Row | Iterator[Row]]] = {
    "facts": write_rows.facts,
    "peers": write_rows.with_peers,
    "batches": write_rows.batches,
    "visible": write_rows.visible,
    "neighbours": neighbour_rows.neighbours,
    "traces": trace_rows.traces,
    "large-traces": trace_rows.held,
    "distance": distance_rows.distance,
    "work": bound_rows.work,
    "costs": cost_rows.costs,
    "curve": cost_rows.curve,
    "logs": log_row.logs,
    "lists": read_rows.lists,
    "detail": read_rows.details,
    "runs": read_rows.runs,
    "pages": read_rows.pages,
    "growth": read_rows.growth,
    "search": search_row.search,
    "usage": usage_rows.usage,
    "usage-export": usage_rows.usage_export,
    "summary": count_rows.summaries,
    "watches": watch_rows.watches,
    "as-of": read_rows.past,
    "stream": feed_rows.stream,
    "deliveries": feed_rows.deliveries,
    "export": feed_rows.export,
    "import": imports,
    "rebuild": rebuild,
    "memory": service_rows.memory,
    "metrics": service_rows.metrics,
    "start": service_rows.start,
    "idle": service_rows.idle,
}


@dataclass(frozen=True)
class Size:
    """The size of a measurement, and its rows unless some are named."""

    data: DataSet
    imported: int
    in_place: bool  # the data set itself is served: no fact may be reported to it
    rows: tuple[str, ...]


_WRITING = {
    "facts",
    "peers",
    "batches",
    "visible",
    "work",
    "costs",
    "curve",
    "logs",
    "stream",
    "deliveries",
}
SIZES = {
    "short": Size(
        DataSet(20_000, 2_000),
        20_000,
        False,
        ("facts", "batches", "lists", "large-traces"),
    ),
    "default": Size(DataSet(1_000_000, 100_000), 100_000, False, tuple(ROWS)),
    "big": Size(
        DataSet(10_000_000, 1_000_000),
        1_000_000,
        True,
        tuple(name for name in ROWS if name not in _WRITING),
    ),
}


# The ratios that the short form reaches on two quiet cores. A ratio is in the list if it is below
# the bound. It is also there if half of its bound would detect a slowdown too late.
USUAL = {
    "facts, one per request, facts/s": 0.17,
}


def is_missed(row: Row, *, short: bool) -> bool:
    """Return True if a row makes the run fail."""
    if row.void:
        return True
    if short and row.ratio is not None and row.work in USUAL:
        return row.ratio < USUAL[row.work] / 2
    return row.reached is not None and row.reached < (0.5 if short else 1)


def measure(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """The ceiling, then each named row. A row that cannot be measured is void, with the reason."""
    yield write_rows.ceiling(bench)
    for name in names:
        bench.strained.clear()
        try:
            found = ROWS[name](bench)
            for row in [found] if isinstance(found, Row) else found:
                strained = max(bench.strained.values(), default=0)
                # For --short such a ratio is good enough: ours was at least as fast.
                if strained > bench.few_rounds / 2 and not bench.short:
                    row.void = f"the load generator was the limit in {strained} rounds"
                yield row
                bench.strained.clear()
        except (UnmeasuredError, RuntimeError, OSError, psycopg.Error) as error:
            yield Row(name, 0.0, void=f"not measured: {' '.join(str(error).split())}")


def cells(row: Row) -> str:
    """One row as a line of a Markdown table."""
    figures = " | ".join(number(value) for value in (row.ours, row.limit, row.ratio))
    note = f"VOID: {row.void}" if row.void else row.note
    return f"| {row.work} | {figures} | {row.bound} | {note} |"


def machine(product: Product) -> dict[str, str]:
    """The machine and the server's settings. Without fsync the figures would mean nothing."""
    about = {"cores": str(os.cpu_count()), "python": platform.python_version()}
    with psycopg.connect(product.database_url) as connection:
        for name in ("server_version", *DURABLE):
            about[name] = str((connection.execute(f"SHOW {name}").fetchone() or [""])[0])
    if any(about[name] != "on" for name in DURABLE):
        raise SystemExit(f"PostgreSQL is not durable here: {about}")
    return about


def warm(product: Product) -> None:
    """Read the files of the reads' tables into memory, as in a ledger that has served a while."""
    with psycopg.connect(product.database_url) as connection:
        paths = [path for (path,) in connection.execute(READ_FILES)]
    for path in paths:
        target = product.data_dir / "postgres" / path
        for file in (target, *target.parent.glob(f"{target.name}.*")):  # a large table has several
            with file.open("rb", buffering=0) as content:
                while content.read(copy_limit.PART):
                    pass


@contextlib.contextmanager
def benched(args: argparse.Namespace, size: Size) -> Iterator[Bench]:
    """The running product on the data set, the bare server, a folder."""
    size.data.prepare()
    with contextlib.ExitStack() as stack:
        # Next to the data sets, on a disk with room. If root runs this, PostgreSQL's user must
        # reach it.
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="bench-", dir=size.data.data_dir.parent)
            )
        )
        folder.chmod(0o755)
        data_dir = size.data.data_dir
        if not size.in_place:
            data_dir = folder / "data"
            size.data.copy_to(data_dir)
        log = folder / "ledger.log"
        product = stack.enter_context(serving(data_dir, size.data.key, args.workers, log))
        if size.in_place:
            warm(product)  # a copied data set is in memory already
        bare = stack.enter_context(limits.serve_limit("bare", args.workers, folder))
        population = size.data.population
        yield Bench(
            product=product,
            data=size.data,
            bare_port=bare,
            story=Story(
                population.numbers_at_work(), population.numbers_at_work(with_runs=True), args.mix
            ),
            asker=size.data.asker(product),
            folder=folder,
            seconds=args.seconds,
            rounds=args.rounds,
            clients=args.clients,
            workers=args.workers,
            short=args.size == "short",
            imported=size.imported,
        )


def run(args: argparse.Namespace) -> list[Row]:
    """Start everything, measure and print."""
    size = SIZES[args.size]
    measured = []
    with benched(args, size) as bench:
        about = machine(bench.product) | {
            "events": f"{size.data.events:,}",
            "lines": f"{size.data.lines:,}",
        }
        if not args.json:
            print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
            print("| work | ours | limit | ratio | bound | |\n|---|--:|--:|--:|--:|---|")
        for row in measure(bench, args.rows or size.rows):
            measured.append(row)
            if not args.json:
                print(cells(row), flush=True)
    if args.json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in measured]}))
    return measured


def main() -> int:
    """Read the options, measure, judge; `--short` changes only options that were not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(ROWS)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=names)
    parser.add_argument("--seconds", type=float, help="per round (1.2; short: 0.4)")
    parser.add_argument("--rounds", type=int, help="per row (5; short: 3)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mix", choices=("mixed", "check_ins"), default="mixed")
    size = {"dest": "size", "action": "store_const", "default": "default"}
    parser.add_argument("--short", const="short", help="20,000 events, 2,000 lines", **size)
    parser.add_argument("--big", const="big", help="10 M events, 1 M lines, in place", **size)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    short = args.size == "short"
    args.seconds = args.seconds or (0.4 if short else 1.2)
    args.rounds = args.rounds or (3 if short else 5)
    if SIZES[args.size].in_place and (writing := _WRITING & set(args.rows)):
        parser.error(f"would write to the data set: {', '.join(sorted(writing))}")
    os.environ.pop("LEDGER_DATABASE_URL", None)  # data sets have their own servers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    missed = [row for row in run(args) if is_missed(row, short=short)]
    for row in missed:
        print(f"too slow, or not measured: {row.work}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
