"""How fast the ledger is, each figure beside the limit that this machine sets for it.

    python scripts/bench.py                     every row (under 5 minutes)
    python scripts/bench.py facts list          some rows; the ceiling is always the first
    python scripts/bench.py rebuild --events 1000000
    python scripts/bench.py --short             small data and half the bounds, for CI

Each row warms up, then measures ours and the limit in turn, several short rounds; the ratio is the
median of the rounds' ratios, so it holds while the machine's speed drifts. A row is void when the
load generator was the limit rather than the server. Exit code 1: a row is under its bound
(`--short`: under half of it), void, or could not be measured.
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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import feed_rows
import limits
import psycopg
import rows
from measuring import Bench, Row
from product import Client, Product, UnmeasuredError, serve_product
from rebuild_row import rebuild
from story import Story, batches_of_lines

from ledger.domain.values import format_instant

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")

ROWS: dict[str, Callable[[Bench], Row]] = {
    "facts": rows.facts,
    "batches": rows.batches,
    "list": rows.lists,
    "detail": rows.detail,
    "visible": rows.visible,
    "as-of": rows.as_of,
    "stream": feed_rows.stream,
    "deliveries": feed_rows.deliveries,
    "export": feed_rows.export,
    "rebuild": rebuild,
}


def load_lines(bench: Bench) -> None:
    """Put the lines in, in batches of whole lines; look at the first's outcomes, and at the count.

    They come in two halves, with an instant between them that the log can be asked about.
    """
    client, story = Client(bench.product), bench.story
    every = range(1, story.lines + 1)
    half = -(-story.lines // 2)
    first, *others = batches_of_lines(story.beginning, every[:half])
    client.post_batch(first)
    bench.product.load(others)
    bench.between = format_instant(datetime.now(UTC))
    bench.product.load(batches_of_lines(story.beginning, every[half:]))
    total = json.loads(client.get("/v1/execution/summary")[1])["data"]["total"]
    if total < story.lines:
        raise UnmeasuredError(f"only {total} of {story.lines} lines are there")


def measure(bench: Bench, names: Sequence[str]) -> Iterator[Row]:
    """The ceiling, then each named row; one that cannot be measured is void, and says why."""
    yield rows.ceiling(bench)
    for name in names:
        bench.strained.clear()
        try:
            row = ROWS[name](bench)
            strained = max(bench.strained.values(), default=0)
            if strained > bench.rounds / 2:
                row.void = f"the load generator was the limit in {strained} rounds"
        except (UnmeasuredError, RuntimeError, OSError, psycopg.Error) as error:
            row = Row(name, 0.0, void=f"not measured: {' '.join(str(error).split())}")
        yield row


def cells(row: Row) -> str:
    """One row as a line of a Markdown table."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    figures = " | ".join(number(value) for value in (row.ours, row.limit, row.ratio))
    note = f"VOID: {row.void}" if row.void else row.note
    return f"| {row.work} | {figures} | {row.bound} | {note} |"


def machine(product: Product) -> dict[str, str]:
    """What the figures were measured on; without fsync they would say nothing."""
    about = {"cores": str(os.cpu_count()), "python": platform.python_version()}
    with psycopg.connect(product.database_url) as connection:
        for name in ("server_version", *DURABLE):
            about[name] = str((connection.execute(f"SHOW {name}").fetchone() or [""])[0])
    if any(about[name] != "on" for name in DURABLE):
        raise SystemExit(f"PostgreSQL is not durable here: {about}")
    return about


def run(asked: argparse.Namespace) -> list[Row]:
    """Start everything, load the lines, measure and print."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-bench-")))
        folder.chmod(0o755)  # as root, PostgreSQL runs as somebody else, who must get in
        product = stack.enter_context(serve_product(asked.workers, folder))
        bare = stack.enter_context(limits.serve_limit("bare", asked.workers, folder))
        story = Story(asked.lines, asked.mix)
        bench = Bench(
            product,
            bare,
            story,
            folder,
            asked.seconds,
            asked.rounds,
            asked.clients,
            asked.workers,
            asked.events,
        )
        about = machine(product) | {"lines": str(asked.lines), "mix": asked.mix}
        load_lines(bench)
        if not asked.json:
            print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
            print("| work | ours | limit | ratio | at least | |\n|---|--:|--:|--:|--:|---|")
        measured = []
        for row in measure(bench, asked.rows or list(ROWS)):
            measured.append(row)
            if not asked.json:
                print(cells(row), flush=True)
    if asked.json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in measured]}))
    return measured


def main() -> int:
    """Read the options, measure, judge; `--short` changes only what was not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(ROWS)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=names)
    parser.add_argument("--seconds", type=float, help="of each round (1.2)")
    parser.add_argument("--rounds", type=int, help="of each row (5)")
    parser.add_argument("--lines", type=int, help="service lines loaded first (2000)")
    parser.add_argument("--events", type=int, help="in the log before `rebuild` (200000)")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mix", choices=("mixed", "check_ins"), default="mixed")
    parser.add_argument(
        "--short", action="store_true", help="200 lines, 10000 events, 3 rounds of 0.5 s"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    asked = parser.parse_args()
    asked.seconds = asked.seconds or (0.5 if asked.short else 1.2)
    asked.rounds = asked.rounds or (3 if asked.short else 5)
    asked.lines = asked.lines or (200 if asked.short else 2_000)
    asked.events = asked.events or (10_000 if asked.short else 200_000)
    needed = 0.5 if asked.short else 1.0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    missed = [
        row for row in run(asked) if row.void or (row.reached is not None and row.reached < needed)
    ]
    for row in missed:
        print(f"under {needed:.0%} of its bound, or void: {row.work}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
