"""The row about a rebuild of all views, with the limit of reading the log and writing rows."""

import shutil
import statistics
import time
from collections.abc import Iterator
from typing import Any

import copy_limit
import psycopg
from measure import Bench, Row, at_most, compared
from processes import Watched
from product import LEDGER, UnmeasuredError
from psycopg.rows import tuple_row

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import read_log
from ledger.engine.postgres.pipeline import Pipeline
from ledger.engine.views.statements import LAG

FEW = 100_000  # events: a log with fewer is rebuilt several times
PAGE_OF_LOG = 2_000  # events per SELECT
SETTLED_WITHIN = 20.0  # seconds without progress after which a view counts as stuck
MOST_MB = 300

# The tables behind the live views, each with the columns that COPY can fill.
LIVE_TABLES = """
SELECT 'ledger.' || t.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class AS t
JOIN pg_attribute AS a
    ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE t.relnamespace = 'ledger'::regnamespace AND t.relkind = 'r' AND EXISTS (
    SELECT FROM pg_class AS v
    JOIN pg_rewrite AS r ON r.ev_class = v.oid
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    WHERE v.relkind = 'v' AND v.relnamespace = t.relnamespace
        AND t.relname ~ ('^' || v.relname || '_g[0-9]+$')
)
GROUP BY t.relname ORDER BY t.relname
"""

# The size of these tables on the disk, with their indexes.
SIZE = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) AS t (name)"


def rebuild(bench: Bench) -> Iterator[Row]:
    """Events per second of `ledger projections rebuild`, compared with the limit; its memory.

    The limit is 1 / (1/R + 1/W): R is SELECT and decode of the whole log. W is COPY of every live
    table's rows into tables with the same indexes, one after the other. Both are events per second.
    """
    url = bench.product.database_url
    with psycopg.connect(url) as connection:
        names, start = settle(connection), seconds_of_start(bench)
        events, views = count_events(connection), live_tables(connection)
        require_room(bench, connection, list(views))
        rounds = bench.few_rounds if events < FEW else 1
        peaks: list[float] = []
        mine, read, write = [], [], []
        for _ in range(rounds):
            mine.append(events / rebuilt_seconds(bench, connection, names, peaks))
            read.append(read_rate(url))
            times = [
                copy_limit.copied_table_seconds(connection, table, columns, bench.folder)
                for table, columns in live_tables(connection).items()
            ]
            write.append(events / sum(times))
    limit = [1 / (1 / r + 1 / w) for r, w in zip(read, write, strict=True)]
    median, r, w = (
        events / statistics.median(mine),
        statistics.median(read),
        statistics.median(write),
    )
    times = f"{events:,} events in {median:.1f} s, of which {start:.1f} s are the start"
    note = f"{times}; {len(views)} tables of {', '.join(names)}; R {r:,.0f}/s, W {w:,.0f}/s"
    yield compared("rebuild of all views, events/s", 0.4, mine, limit, note)
    note = "the largest of the processes that build"
    yield at_most("memory of a rebuild at most, MB", max(peaks), MOST_MB, "MB", note)


def rebuilt_seconds(
    bench: Bench, connection: psycopg.Connection[Any], names: list[str], peaks: list[float]
) -> float:
    """The command's seconds for these views. Adds its largest process's memory to ``peaks``."""
    before = live_tables(connection)
    watched = Watched([LEDGER, "projections", "rebuild", *names], bench.product.env, below=True)
    if watched.run():
        raise UnmeasuredError(f"the rebuild failed: {watched.output[-300:]}")
    if remaining := before.keys() & live_tables(connection).keys():
        raise UnmeasuredError(f"still served after the rebuild: {', '.join(sorted(remaining))}")
    peaks.append(watched.peak)
    return watched.seconds


def require_room(bench: Bench, connection: psycopg.Connection[Any], tables: list[str]) -> None:
    """Refuse a rebuild that would fill the disk: for a while every view exists twice."""
    row = connection.execute(SIZE, (tables,)).fetchone()
    connection.commit()
    needed, free = int(row[0]) if row else 0, shutil.disk_usage(bench.product.data_dir).free
    if free < 1.2 * needed:
        raise UnmeasuredError(f"{needed >> 30} GB of views need as much room again")


def seconds_of_start(bench: Bench) -> float:
    """The time of a command that does almost nothing. It is part of our figure, and noted."""
    began = time.perf_counter()
    bench.product.command("projections", "list")
    return time.perf_counter() - began


def count_events(connection: psycopg.Connection[Any]) -> int:
    """The number of events in the log."""
    row = connection.execute("SELECT count(*) FROM ledger.ledger_events").fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def live_tables(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """The columns of every live table. The commit leaves no lock for the rebuild to wait for."""
    tables = dict(connection.execute(LIVE_TABLES).fetchall())
    connection.commit()
    if not tables:
        raise UnmeasuredError("no table was found behind a view of the schema `ledger`")
    return tables


def settle(connection: psycopg.Connection[Any]) -> list[str]:
    """Wait until every view has the whole log; return the views' names."""
    best, deadline = None, time.monotonic() + SETTLED_WITHIN
    while True:
        views = connection.execute(LAG).fetchall()
        connection.commit()
        lag = sum(max(0, head - position) for _, _, _, position, head, _, _ in views)
        if stopped := [str(name) for name, *_, stopped_at, _ in views if stopped_at]:
            raise UnmeasuredError(f"stopped: {', '.join(stopped)}")
        if not lag:
            return [str(view[0]) for view in views]
        if best is None or lag < best:
            best, deadline = lag, time.monotonic() + SETTLED_WITHIN
        if time.monotonic() > deadline:
            raise UnmeasuredError(f"the views stay {lag:,} positions behind")
        time.sleep(0.05)


def read_rate(url: str) -> float:
    """Events per second of reading the whole log, page by page, with each event decoded."""
    decode, after, count = EnvelopeMapper().decode, 0, 0
    with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as connection:
        pipeline = Pipeline(connection)
        began = time.perf_counter()
        while page := read_log(pipeline, after, PAGE_OF_LOG):
            for event in page:
                decode(*event)
            count, after = count + len(page), page[-1][4]
        return count / (time.perf_counter() - began)
