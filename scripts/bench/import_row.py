"""The row about `ledger import`: a file of facts into a fresh ledger, beside COPY of its rows."""

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

from ledger.postgres.embedded import running

FACTS_A_LINE = 20  # of the file: four begin it
COPIES = 3  # of the rows of a file that has not
MANY = 500_000  # facts
GROWTH = 1.25  # memory at the end against that after a quarter


def imports(bench: Bench) -> Iterator[Row]:
    """Facts a second, and whether memory stays as it is.

    The time that the command takes to start is not counted, and told. The limit copies what the
    import has left in the log's tables, into empty ones with the same indexes.
    """
    folder = bench.folder / "import"
    folder.mkdir(mode=0o755)
    file = folder / "facts.jsonl"
    facts = write_facts(file, bench.imported)
    env = {"LEDGER_DATA_DIR": str(folder / "data")}
    with running(folder / "data", purpose="bench", announce=print) as postgres:
        run_ledger(env, "keys", "list")  # makes the schema
        start = min(seconds_of_start(env) for _ in range(3))
        watched = Watched([LEDGER, "import", str(file)], env)
        if watched.run():
            raise UnmeasuredError(f"ledger import said: {watched.output[-300:]}")
        file.unlink()
        with psycopg.connect(postgres.url) as connection:
            taken = [
                copied_seconds(connection, folder) for _ in range(1 if facts > 500_000 else COPIES)
            ]
    rate, limit = facts / (watched.seconds - start), facts / statistics.median(taken)
    note = f"{facts:,} facts in {watched.seconds:.1f} s, {start:.1f} s of it the command's start"
    yield compared("import of a file, facts/s", 0.15, [rate], [limit], f"{note}; limit: COPY")
    if bench.short:
        return  # it ends before memory could tell
    quarter, end = watched.at(0.25), watched.peak
    growth = end / quarter if quarter else 0.0
    note = f"{quarter:,.0f} MB after a quarter, {end:,.0f} MB at most"
    yield at_most("memory of the import, growth", growth, GROWTH, "×", note)


def write_facts(file: Path, count: int) -> int:
    """A file of that many facts: lines begin, then they work; how many there are."""
    lines = count // FACTS_A_LINE
    story = story_of_new(lines)
    beginnings = (fact for number in range(1, lines + 1) for fact in story.beginning(number))
    with file.open("wb") as output:
        facts = itertools.islice(itertools.chain(beginnings, story.work()), count)
        return sum(output.write(fact + b"\n") > 0 for fact in facts)


def seconds_of_start(env: dict[str, str]) -> float:
    """What a command that does next to nothing takes."""
    began = time.perf_counter()
    run_ledger(env, "keys", "list")
    return time.perf_counter() - began


def copied_seconds(connection: psycopg.Connection[Any], folder: Path) -> float:
    """COPY of all rows of the log and what is beside it, table by table."""
    return sum(
        copy_limit.copied_table_seconds(connection, f"ledger.{table}", columns.split(), folder)
        for table, columns in TABLES.items()
    )
