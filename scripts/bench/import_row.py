"""The row about `ledger import`: a file of facts into a fresh ledger, and COPY of its rows."""

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import copy_limit
import psycopg
from chronicle import TABLES
from measure import Bench, Row, at_most, compared
from processes import Watched
from product import LEDGER, UnmeasuredError, run_ledger
from story import story_of_new

from ledger.engine.postgres.embedded import running

FACTS_A_LINE = 20  # of the file: four activate it
COPIES = 3  # rounds of COPY, for a file with fewer facts than MANY
MANY = 500_000  # facts
GROWTH = 1.25  # memory at the end against that after a quarter


def imports(bench: Bench) -> Iterator[Row]:
    """Facts per second, and if memory stays constant.

    The command's start is not counted; the note has its time. The limit copies the rows of the
    import from the log's tables into empty tables with the same indexes.
    """
    folder = bench.folder / "import"
    folder.mkdir(mode=0o755)
    file = folder / "facts.jsonl"
    facts = write_facts(file, bench.imported)
    env = {"LEDGER_DATA_DIR": str(folder / "data")}
    with running(folder / "data", purpose="bench", announce=print) as postgres:
        run_ledger(env, "migrate")
        start = min(seconds_of_start(env) for _ in range(3))
        watched = Watched([LEDGER, "import", str(file)], env)
        if watched.run():
            raise UnmeasuredError(f"ledger import failed: {watched.output[-300:]}")
        file.unlink()
        with psycopg.connect(postgres.url) as connection:
            rounds = 1 if facts > MANY else COPIES
            times = [copied_seconds(connection, folder) for _ in range(rounds)]
    rate, limit = facts / (watched.seconds - start), facts / statistics.median(times)
    note = f"{facts:,} facts in {watched.seconds:.1f} s, of which {start:.1f} s are the start"
    yield compared("import of a file, facts/s", 0.15, [rate], [limit], f"{note}; limit: COPY")
    if bench.short:
        return  # the import is too short to judge its memory
    quarter, end = watched.at(0.25), watched.peak
    growth = end / quarter if quarter else 0.0
    note = f"{quarter:,.0f} MB after a quarter, {end:,.0f} MB at most"
    yield at_most("memory of the import, growth", growth, GROWTH, "×", note)


def write_facts(file: Path, count: int) -> int:
    """Write a file of about ``count`` facts: lines begin, then they work. Return the number."""
    lines = count // FACTS_A_LINE
    story = story_of_new(lines)
    beginnings = (fact for number in range(1, lines + 1) for fact in story.beginning(number))
    with file.open("wb") as output:
        facts = itertools.islice(itertools.chain(beginnings, story.work()), count)
        return sum(output.write(fact + b"\n") > 0 for fact in facts)


def seconds_of_start(env: dict[str, str]) -> float:
    """The time of a command that does almost nothing."""
    began = time.perf_counter()
    run_ledger(env, "keys", "list")
    return time.perf_counter() - began


def copied_seconds(connection: psycopg.Connection[Any], folder: Path) -> float:
    """The time of COPY of all rows of the log and its decision tables, table by table."""
    return sum(
        copy_limit.copied_table_seconds(connection, f"ledger.{table}", columns.split(), folder)
        for table, columns in TABLES.items()
    )
