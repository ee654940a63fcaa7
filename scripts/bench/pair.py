"""Compares this version with an earlier one: are the answers the same, and as fast?

    python scripts/bench/pair.py --old COMMIT                    answers, then every row
    python scripts/bench/pair.py --old COMMIT lists mixed        answers, then some rows
    python scripts/bench/pair.py --old COMMIT --rates bounds     the rows with bounds, no answers
    python scripts/bench/pair.py --old COMMIT --corpus-only      answers: a minute

Answers: the old version has written a ledger with the data of `ledger demo` (`told_ledgers.py`).
Both versions serve a copy of that ledger and get the same requests (`corpus.py`). The answers are
compared byte for byte.

Rates: both versions serve a copy of a data set that the old version has made; the new version
migrates its copy first. The versions are measured in turn, every other round in reverse order. The
ratio is the median of the rounds' ratios, so it holds while the machine's speed drifts. The bounds
are those beside commit 35aed26e.

Exit code 1: an answer differs, or a ratio is below --at-least. A missed bound is only marked.
"""

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from bound_rows import BOUNDS
from compare_answers import print_comparison
from dataset import DataSet
from lag import await_views
from measure import Bench, Work, interleave, number
from pair_rows import WORKS, measured
from product import copy_ledger, serving
from story import Story
from told_ledgers import adopt
from versions import HERE, OLD, Version, version_of

GROUPS = {"bounds": tuple(BOUNDS)}
"""Rows that are named together."""


def data_of(old: Version, size: DataSet) -> Path:
    """The old version's own data set of a size, made once."""
    folder = OLD / f"data-{old.name}"
    script = old.folder / "scripts" / "bench" / "dataset.py"
    command = [str(old.python), str(script)]
    command += ["--events", str(size.events), "--lines", str(size.lines)]
    environment = os.environ | {"LEDGER_BENCH_DATA": str(folder)}
    made = subprocess.run(
        command, cwd=old.folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(made.stdout.splitlines()[-1])


@contextlib.contextmanager
def served_data(
    version: Version, data: Path, folder: Path, size: DataSet, args: argparse.Namespace
) -> Iterator[Bench]:
    """A version on a copy of the data set, ready to be measured. Prints the time of an upgrade."""
    data_dir = folder / version.name[:7]
    copy_ledger(data, data_dir)
    if version is HERE:
        adopt(data_dir)
    key = (data / "bench.key").read_text().strip()
    log = folder / f"{version.name[:7]}.log"
    began = time.perf_counter()
    with serving(data_dir, key, args.workers, log, ledger=version.ledger) as product:
        await_views(product)
        if version is HERE:
            elapsed = time.perf_counter() - began
            print(f"Started on the old ledger, migrated, views built: {elapsed:.1f} s.\n")
        # Otherwise PostgreSQL would vacuum one version's new tables during its first rows.
        with psycopg.connect(product.database_url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
        lines = size.population
        yield Bench(
            product=product,
            data=size,
            bare_port=0,
            story=Story(lines.numbers_at_work(), lines.numbers_at_work(with_runs=True)),
            asker=size.asker(product),
            folder=folder,
            seconds=args.seconds,
            rounds=args.rounds,
            clients=args.clients,
            workers=args.workers,
            short=False,
            imported=0,
            ceiling=float("inf"),  # the generator's CPU time shows if it was the limit
        )


def measure(work: Work, old: Bench, new: Bench) -> Iterator[tuple[str, str, float]]:
    """Each row of a work: its label, its line of the table, and how much better the new one is."""
    rounds = min(old.rounds, work.most_rounds or old.rounds)
    for bench in (old, new):
        bench.strained.clear()
    every = interleave(rounds, lambda: measured(work, old), lambda: measured(work, new))
    strained = max([*old.strained.values(), *new.strained.values()], default=0)
    note = f"the generator was the limit in {strained} of {rounds} rounds" if strained else ""
    for figure, *both in zip(work.figures, *(zip(*one, strict=True) for one in every), strict=True):
        before, after = both
        ratios = [mine / theirs for mine, theirs in zip(after, before, strict=True)]
        ratio, theirs, ours = map(statistics.median, (ratios, before, after))
        reached = figure.reached(ours, ratio)
        bound = f"{figure} (missed)" if reached is not None and reached < 1 else str(figure)
        figures = f"{number(theirs)} | {number(ours)} | {ratio:.2f}"
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        line = f"| {figure.label} | {figures} | {spread} | {bound} | {note} |"
        yield figure.label, line, 1 / ratio if figure.is_cost else ratio


def print_rates(old: Version, args: argparse.Namespace) -> bool:
    """Measure the rows and print them; return True if each ratio is high enough."""
    size = DataSet(args.events, args.lines)
    slow = list[str]()
    data = data_of(old, size)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rates-", dir=OLD)))
        folder.chmod(0o755)
        before, after = (
            stack.enter_context(served_data(version, data, folder, size, args))
            for version in (old, HERE)
        )
        about = f"{args.rounds} rounds of {args.seconds} s, {args.clients} clients"
        print(f"{size.events:,} events on {size.lines:,} lines, {about}, {args.workers} workers\n")
        print("| work | old | new | ratio | spread | bound | |\n|---|--:|--:|--:|--:|---|---|")
        names = [*args.rows] or [*WORKS]
        for name in itertools.chain.from_iterable(GROUPS.get(name, (name,)) for name in names):
            for label, line, gain in measure(WORKS[name], before, after):
                print(line, flush=True)
                if gain < args.at_least:
                    slow.append(f"{label}: {gain:.2f}")
    for row in slow:
        print(f"slower than {args.at_least}: {row}", file=sys.stderr)
    return not slow


def main() -> int:
    """Read the options, compare, measure, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = [*GROUPS, *WORKS]
    parser.add_argument("rows", nargs="*", choices=[[], *rows], metavar="ROW", help=", ".join(rows))
    parser.add_argument("--old", required=True, metavar="COMMIT")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--corpus-only", action="store_true", help="no rates")
    part.add_argument("--rates", action="store_true", help="no answers")
    parser.add_argument("--rounds", type=int, default=5, help="per row (long rows: at most 3)")
    parser.add_argument("--seconds", type=float, default=1.2, help="per round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--at-least", type=float, default=0.0, help="the lowest ratio that passes")
    args = parser.parse_args()
    os.environ.pop("LEDGER_DATABASE_URL", None)  # each side has its own server
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    old = version_of(args.old)
    is_same = args.rates or print_comparison(old)
    is_fast = args.corpus_only or print_rates(old, args)
    return 0 if is_same and is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
