"""The row about views: all of them rebuilt, beside what reading the log and writing rows allow."""

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import limits
import psycopg
from measuring import Bench, Row, compared, interleave
from product import UnmeasuredError
from psycopg.rows import tuple_row
from story import BATCH, Story

from ledger.store.codec import EnvelopeMapper
from ledger.store.recorder import read_log
from projections import reading

ROUNDS = 3  # at most: one rebuild is long already
PAGE_OF_LOG = 2_000  # events a SELECT
SETTLED_WITHIN = 20.0  # seconds without progress after which a view counts as stuck
SLOWEST = 500  # events a second: a rebuild slower than this is given up

# The tables behind the views that serve, each with the columns that COPY can fill.
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


def rebuild(bench: Bench) -> Row:
    """Events a second of `ledger projections rebuild`, beside what its parts allow.

    The limit is 1 / (1/R + 1/W): R is SELECT and decode of the whole log, W is COPY of every live
    table's rows into tables with the same indexes, both in events a second, one after the other.
    """
    url = bench.product.database_url
    with psycopg.connect(url) as connection:
        fill_log(bench, connection)
        names, start = settle(connection), seconds_of_start(bench)
        events, views = count_events(connection), live_tables(connection)
        rows = [read_table(connection, table, columns) for table, columns in views.items()]

        def ours() -> float:
            before = live_tables(connection)
            began = time.perf_counter()
            bench.product.command("projections", "rebuild", *names, seconds=60 + events / SLOWEST)
            taken = time.perf_counter() - began
            if kept := before.keys() & live_tables(connection).keys():
                raise UnmeasuredError(f"still served after the rebuild: {', '.join(sorted(kept))}")
            return events / taken

        def written() -> float:
            taken = limits.copy_seconds(connection, [rows], bench.seconds / 2)
            return events / statistics.median(taken)

        limits.create_clones(connection, rows)
        try:
            mine, read, write = interleave(
                min(bench.rounds, ROUNDS), ours, lambda: read_rate(url), written
            )
        finally:
            connection.rollback()
            limits.drop_clones(connection)
    limit = [1 / (1 / r + 1 / w) for r, w in zip(read, write, strict=True)]
    took, r, w = events / statistics.median(mine), statistics.median(read), statistics.median(write)
    taken = f"{events:,} events in {took:.1f} s, {start:.1f} s of it the command's start"
    note = f"{taken}; {len(views)} tables of {', '.join(names)}; R {r:,.0f}/s, W {w:,.0f}/s"
    return compared("rebuild of all views, events/s", 0.4, mine, limit, note)


def seconds_of_start(bench: Bench) -> float:
    """What a command that does next to nothing takes: part of ours, and said beside it."""
    began = time.perf_counter()
    bench.product.command("projections", "list")
    return time.perf_counter() - began


def read_table(
    connection: psycopg.Connection[Any], table: str, columns: list[str]
) -> limits.TableRows:
    """All rows of a table, ready to be copied in."""
    quoted = ", ".join(f'"{column}"' for column in columns)
    return limits.read_rows(connection, table, columns, f"SELECT {quoted} FROM {table}")


def fill_log(bench: Bench, connection: psycopg.Connection[Any]) -> None:
    """Report daily work until the log holds as many events as were asked for."""
    while (held := count_events(connection)) < bench.events:
        bench.product.load(work_in_batches(bench.story, bench.events - held))
        if count_events(connection) == held:
            raise UnmeasuredError(f"the log stays at {held:,} events")


def work_in_batches(story: Story, facts: int) -> Iterator[list[bytes]]:
    """About that many facts of daily work; nearly each becomes one event."""
    work = story.work()
    for _ in range(-(-facts // BATCH)):
        yield list(itertools.islice(work, BATCH))


def count_events(connection: psycopg.Connection[Any]) -> int:
    """How many events the log holds."""
    row = connection.execute("SELECT count(*) FROM ledger.ledger_events").fetchone()
    connection.commit()
    return int(row[0]) if row else 0


def live_tables(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """The columns of every table that serves now; leaves no lock behind to be waited for."""
    tables = dict(connection.execute(LIVE_TABLES).fetchall())
    connection.commit()
    if not tables:
        raise UnmeasuredError("no table was found behind a view of the schema `ledger`")
    return tables


def settle(connection: psycopg.Connection[Any]) -> list[str]:
    """Wait until every view has all of the log; their names."""
    best, deadline = None, time.monotonic() + SETTLED_WITHIN
    while True:
        views = connection.execute(reading.LAG).fetchall()
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
    """Events a second of reading the whole log, page by page, each event decoded."""
    decode, after, count = EnvelopeMapper().decode, 0, 0
    with psycopg.connect(url, autocommit=True, row_factory=tuple_row) as connection:
        began = time.perf_counter()
        while page := read_log(connection, after, PAGE_OF_LOG):
            for event in page:
                decode(*event)
            count, after = count + len(page), page[-1][4]
        return count / (time.perf_counter() - began)
