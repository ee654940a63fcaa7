"""Reads through the pool, on both loops: each gets its answer, and long ones delay no others."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from ledger.engine.postgres.pool import read_pool
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.principal import ANY, EVERYONE, Tenant
from tests.support.door import (
    HELD,
    READERS,
    SCOPE,
    count_connections,
    count_held,
    count_writers,
    gather_results,
    holding,
    until_async,
)
from tests.support.reader import reading
from tests.support.relay import Relay
from tests.support.views import query, until

HELD_LATER = "SELECT 2 FROM pg_advisory_xact_lock_shared(1)"

CONNECTIONS = 2  # that an organization may take: two groups of short reads, or two long ones

PREPARED = "SELECT name, statement FROM pg_prepared_statements WHERE statement ~ %(like)s"

Tell = Callable[..., None]


class Nowhere(tzinfo):
    """A time zone with a bug."""

    def utcoffset(self, _: datetime | None) -> Any:
        raise RuntimeError("a bug")


async def scoped(pool: ReadPool, tenant: Tenant = EVERYONE) -> Any:
    """A page of a long walk, which is held."""
    return await pool.fetch(tenant, HELD, {}, Planning.SCAN)


def test_a_repeated_statement_is_planned_once_unless_its_values_matter(tell: Tell) -> None:
    plans = (
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
        " WHERE statement = 'SELECT ' || chr(36) || '1::int'"
    )

    async def play(pool: ReadPool) -> None:
        for value in range(7):
            await pool.fetch(EVERYONE, "SELECT %(n)s::int", {"n": value})
        assert await pool.fetch(EVERYONE, plans, {}) == [(7, 0)]
        await pool.fetch(EVERYONE, "SELECT %(n)s::int", {"n": 7}, Planning.BY_VALUES)
        assert await pool.fetch(EVERYONE, plans, {}) == [(7, 1)]
        await pool.fetch(EVERYONE, "SELECT %(n)s::int", {"n": 8}, Planning.LONG)
        assert await pool.fetch(EVERYONE, plans, {}) == [(8, 1)]

    tell(play)


def test_a_statement_that_is_planned_once_scans_no_table_however_small(tell: Tell) -> None:
    explain = "EXPLAIN SELECT oid FROM pg_am WHERE amname = %(name)s::name"

    async def play(pool: ReadPool) -> None:
        scans = {Planning.BY_VALUES: "Seq Scan", Planning.SHORT: "Index Scan"}
        for planning in (Planning.BY_VALUES, Planning.SHORT, Planning.BY_VALUES):
            rows = await pool.fetch(EVERYONE, explain, {"name": "gin"}, planning)
            assert scans[planning] in rows[0][0]

    tell(play)


@pytest.mark.parametrize("seed", range(4))
def test_each_of_many_reads_gets_its_own_rows_or_its_own_error(
    tell: Tell, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(read_pool, "_OPTIONS", read_pool._OPTIONS.replace("=9s", "=500ms"))
    dice = random.Random(seed)
    failing = [
        ("SELECT * FROM nowhere", errors.UndefinedTable),
        ("SELECT 1 / (%(n)s::int - %(n)s::int)", errors.DivisionByZero),
        ("SELECT pg_sleep(9)", errors.QueryCanceled),
        ("SELECT %(nothing)s", psycopg.ProgrammingError),
        ("SELECT %(odd)s", psycopg.ProgrammingError),
        ("SELECT %(nul)s::text", psycopg.DataError),
        ("SELECT %(broken)s", RuntimeError),
        ("SELECT 'infinity'::timestamptz", psycopg.DataError),
        ("DO 'BEGIN END'", psycopg.ProgrammingError),
        ("COPY (SELECT 1) TO STDOUT", psycopg.ProgrammingError),
        ("SELECT '50%'", psycopg.ProgrammingError),
    ]

    async def read(pool: ReadPool, n: int) -> None:
        tenant = dice.choice([*READERS, EVERYONE, EVERYONE])
        planning = Planning.LONG if dice.random() < 0.1 else Planning.SHORT
        broken = datetime(2026, 1, 1, tzinfo=Nowhere())
        values = {"n": n, "odd": object(), "nul": "\0", "broken": broken}
        if dice.random() < 0.1:
            statement, error = dice.choice(failing)
            with pytest.raises(error):
                await pool.fetch(tenant, statement, values, planning)
        elif dice.random() < 0.1:
            statement = dice.choice(["SELECT pg_sleep(0.02)", failing[1][0]])
            reading = asyncio.create_task(pool.fetch(tenant, statement, values))
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:
            rows = await pool.fetch(tenant, SCOPE, values, planning)
            assert rows == [(*tenant, n)]

    async def play(pool: ReadPool) -> None:
        numbers = iter(range(400))

        async def reader() -> None:
            for n in numbers:
                await read(pool, n)

        assert await gather_results([reader() for _ in range(40)]) == [None] * 40

    tell(play)


def test_a_setting_is_sent_once_for_a_tenants_reads_and_ends_with_their_group(tell: Tell) -> None:
    used = """SELECT generic_plans + custom_plans FROM pg_prepared_statements
        WHERE statement ~ '^.SELECT set_config'"""

    async def play(pool: ReadPool) -> None:
        ((before,),) = await pool.fetch(EVERYONE, used, {})
        one, other = READERS[1:3]
        tenants = [one, other, EVERYONE, one, other, EVERYONE, one]
        request = [pool.fetch(each, SCOPE, {"n": 1}) for each in tenants]
        scopes = [(row[0][0], row[0][1]) for row in await gather_results(request)]
        assert scopes[0] == scopes[3] == scopes[6] == ("ORG-1", "WKS-1")
        assert scopes[1] == scopes[4] == ("ORG-2", "WKS-2")
        assert scopes[2] == scopes[5] == ("*", "*")
        # Three tenants, and this one's own.
        assert await pool.fetch(EVERYONE, used, {}) == [(before + 4,)]
        assert await pool.fetch(EVERYONE, SCOPE, {"n": 1}) == [("*", "*", 1)]

    tell(play, size=1)


def test_no_more_than_a_thousand_reads_wait(tell: Tell, conninfo: str) -> None:
    async def play(pool: ReadPool) -> None:
        async with holding(conninfo):
            reading = [asyncio.create_task(pool.fetch(EVERYONE, HELD, {})) for _ in range(16)]
            await until_async(lambda: count_held(conninfo, HELD) == 2, "all to be busy")
            reading += [asyncio.create_task(pool.fetch(EVERYONE, HELD, {})) for _ in range(1000)]
            await asyncio.sleep(0)  # they ask, and each of them waits
            with pytest.raises(psycopg.OperationalError, match="too many"):
                await pool.fetch(EVERYONE, HELD, {})
        assert await gather_results(reading) == [[(1,)]] * 1016

    tell(play, size=2)


def test_long_reads_delay_no_short_read(tell: Tell, conninfo: str) -> None:
    async def play(pool: ReadPool) -> None:
        async with holding(conninfo):
            pages = [asyncio.create_task(scoped(pool, each)) for each in READERS for _ in range(2)]
            await until_async(lambda: count_held(conninfo, HELD) == 4, "some pages to be under way")
            for _ in range(3):
                longs = [pool.fetch(each, HELD_LATER, {}, Planning.LONG) for each in READERS]
                pages += map(asyncio.create_task, longs)
                shorts = [pool.fetch(READERS[0], SCOPE, {"n": n}) for n in range(20)]
                assert [rows[0][2] for rows in await gather_results(shorts)] == list(range(20))
            await until_async(lambda: count_held(conninfo, HELD_LATER) > 0, "others that take long")
            assert count_held(conninfo, HELD) == 4, "pages wait for each other, not before others"
            held = count_held(conninfo, HELD) + count_held(conninfo, HELD_LATER)
            assert held <= count_connections(conninfo) / 2
            assert not any(page.done() for page in pages)
        assert await gather_results(pages) == [[(1,)]] * 12 + [[(2,)]] * 18

    tell(play)


@pytest.mark.parametrize("planning", [Planning.SHORT, Planning.LONG, Planning.BY_VALUES])
def test_an_organization_that_asks_much_leaves_connections_to_others(
    tell: Tell, conninfo: str, planning: Planning
) -> None:
    flooding, other = READERS[0], READERS[1]

    async def play(pool: ReadPool) -> None:
        async with holding(conninfo):
            reads = [pool.fetch(flooding, HELD, {}, planning) for _ in range(60)]
            flood = [*map(asyncio.create_task, reads)]
            await until_async(lambda: count_held(conninfo, HELD) == CONNECTIONS, "the flood")
            for n in range(20):
                assert (await pool.fetch(other, SCOPE, {"n": n}, planning))[0][2] == n
            assert count_held(conninfo, HELD) == CONNECTIONS
            for request in flood[:50]:
                request.cancel()
        assert await gather_results(flood[50:]) == [[(1,)]] * 10
        # The connections and slots of reads whose callers had left are free again.
        reads = [pool.fetch(flooding, SCOPE, {"n": n}, planning) for n in range(60)]
        assert [rows[0][2] for rows in await gather_results(reads)] == [*range(60)]

    tell(play)


def test_a_long_read_waits_for_others_of_its_organization_longer_than_for_a_connection(
    tell: Tell, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(pool: ReadPool) -> None:
        async with holding(conninfo):
            reads = [pool.fetch(READERS[0], HELD, {}, Planning.LONG) for _ in range(3)]
            flood = [*map(asyncio.create_task, reads)]
            await until_async(lambda: count_held(conninfo, HELD) == CONNECTIONS, "the flood")
            monkeypatch.setattr(read_pool, "_QUEUE_SECONDS", 0.1)
            with pytest.raises(psycopg.OperationalError, match="no connection in time"):
                await pool.fetch(READERS[1], HELD, {}, Planning.LONG)
        assert await gather_results(flood) == [[(1,)]] * 3

    tell(play, size=4)


def test_organizations_whose_reads_wait_share_fairly(tell: Tell, conninfo: str) -> None:
    async def play(pool: ReadPool) -> None:
        order = list[str]()

        async def read(tenant: Tenant) -> None:
            await pool.fetch(tenant, "SELECT 1", {}, Planning.LONG)
            order.append(tenant.organization)

        async with holding(conninfo):
            held = asyncio.create_task(pool.fetch(EVERYONE, HELD, {}, Planning.LONG))
            await until_async(lambda: count_held(conninfo, HELD) == 1, "the lane to be taken")
            request = [asyncio.create_task(read(READERS[n])) for n in (0, 0, 0, 0, 1, 1, 2)]
            await asyncio.sleep(0)  # they ask, and each of them waits
        await gather_results([held, *request])
        assert order == ["ORG-0", "ORG-1", "ORG-2", "ORG-0", "ORG-1", "ORG-0", "ORG-0"]

    tell(play, size=1)


def test_a_read_that_an_error_passed_over_is_retried_before_all_others(tell: Tell) -> None:
    async def play(pool: ReadPool) -> None:
        order = list[Any]()

        async def read(n: int) -> None:
            rows = await pool.fetch(EVERYONE, "SELECT %(n)s::int", {"n": n})
            order.append(rows[0][0])

        bad = [pool.fetch(EVERYONE, "SELECT 1 / %(n)s::int", {"n": 0}) for _ in range(4)]
        results = await gather_results([*bad, *map(read, range(12))])
        assert [type(error) for error in results[:4]] == [errors.DivisionByZero] * 4
        assert order == list(range(12))

    tell(play, size=1)


def test_a_read_whose_scope_cannot_be_set_is_refused(tell: Tell, conninfo: str) -> None:
    async def play(pool: ReadPool) -> None:
        no_tenant = Tenant("ORG-\0", ANY)
        request = [pool.fetch(each, SCOPE, {"n": 1}) for each in (no_tenant, READERS[1])]
        error, rows = await gather_results(request)
        assert isinstance(error, psycopg.DataError)
        assert rows == [("ORG-1", "WKS-1", 1)]
        query(conninfo, "REVOKE EXECUTE ON FUNCTION set_config FROM PUBLIC")
        results = await gather_results([pool.fetch(each, SCOPE, {"n": 1}) for each in READERS])
        assert {type(error) for error in results} == {errors.InsufficientPrivilege}

    tell(play)


def test_a_read_that_meets_a_deadlock_is_retried(tell: Tell, conninfo: str) -> None:
    locking = "SELECT 1 FROM pg_advisory_xact_lock_shared(%(n)s::int)"

    async def play(pool: ReadPool) -> None:
        async with await psycopg.AsyncConnection.connect(conninfo) as other:
            # The read is the one that finds the deadlock, and gives way.
            await other.execute("SET LOCAL deadlock_timeout = '60s'")
            await other.execute("SELECT pg_advisory_xact_lock(2)")
            reading = [asyncio.create_task(pool.fetch(EVERYONE, locking, {"n": n})) for n in (1, 2)]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while await asyncio.to_thread(query, conninfo, waiting) != [(1,)]:
                assert not reading[1].done()
            await other.execute("SELECT pg_advisory_xact_lock(1)")
        assert await gather_results(reading) == [[(1,)]] * 2

    tell(play)


def test_values_of_every_kind_come_back_as_they_were(tell: Tell) -> None:
    values: list[tuple[str, Any]] = [
        ("text", "50% of »ä« 'x' %s %% \\"),
        ("text[]", ["a,b", '"', "ü", ""]),
        ("text[]", []),
        ("timestamptz", datetime(2026, 3, 31, 23, 59, 59, 123456, UTC)),
        ("date", date(2026, 2, 28)),
        *(("bigint", number) for number in (0, -1, 2**15, 2**31, 2**62)),
        ("bool", True),
        ("bool", False),
        ("text", None),
        ("bytea", b"\0\xff"),
    ]

    async def play(pool: ReadPool) -> None:
        for kind, value in values:
            statement = f"SELECT 1 AS a, %(v)s::{kind}, 7 %% 4, '%%', %(v)s::{kind} IS NULL"
            rows = await pool.fetch(EVERYONE, statement, {"v": value, "unused": object()})
            assert rows == [(1, value, 3, "%", value is None)]

    tell(play)


def test_large_parameters_and_large_results_travel_at_once(tell: Tell) -> None:
    async def play(pool: ReadPool) -> None:
        text = "x" * 3_000_000
        both = [
            pool.fetch(EVERYONE, "SELECT %(t)s::text || %(n)s", {"t": text, "n": n}) for n in "abcd"
        ]
        rows = "SELECT n, repeat('y', 500) FROM generate_series(1, 20000) AS n"
        *results, many = await gather_results([*both, pool.fetch(EVERYONE, rows, {})])
        assert [row[0][0] == text + n for row, n in zip(results, "abcd", strict=True)] == [True] * 4
        assert len(many) == 20_000
        assert count_writers() == 0

    tell(play, size=1)


def test_statements_are_prepared_once_and_anew_after_an_error(tell: Tell) -> None:
    async def names(pool: ReadPool, like: str) -> list[str]:
        return [name for name, _ in await pool.fetch(EVERYONE, PREPARED, {"like": like})]

    async def play(pool: ReadPool) -> None:
        dividing = "SELECT 12 / %(n)s::int AS divided"
        for n in (1, 2, 3):
            assert await pool.fetch(EVERYONE, dividing, {"n": n}) == [(12 // n,)]
        (first,) = await names(pool, "divided")
        with pytest.raises(errors.DivisionByZero):
            await pool.fetch(EVERYONE, dividing, {"n": 0})
        assert await names(pool, "divided") == []
        assert await pool.fetch(EVERYONE, dividing, {"n": 4}) == [(3,)]
        assert await names(pool, "divided") != [first]
        for _ in range(2):
            request = [pool.fetch(EVERYONE, f"SELECT {n} AS one_of_many", {}) for n in range(250)]
            assert await gather_results(request) == [[(n,)] for n in range(250)]
        assert 90 < len(await names(pool, "")) <= 101

    tell(play, size=1)


def test_a_prepared_statement_reads_what_its_view_is_made_of_now(tell: Tell, conninfo: str) -> None:
    made = """CREATE TABLE ledger.made_{n} AS SELECT {n} AS number;
        CREATE OR REPLACE VIEW ledger.made AS SELECT number FROM ledger.made_{n};
        GRANT SELECT ON ledger.made TO PUBLIC; DROP TABLE IF EXISTS ledger.made_{before}"""

    async def play(pool: ReadPool) -> None:
        for n in range(1, 5):
            await asyncio.to_thread(query, conninfo, made.format(n=n, before=n - 1))
            for _ in range(8):
                rows = await pool.fetch(EVERYONE, "SELECT number FROM ledger.made", {})
                assert rows == [(n,)]
        assert len(await pool.fetch(EVERYONE, PREPARED, {"like": "^SELECT number"})) == 1

    tell(play, size=1)


def test_reads_and_connections_under_way_end_with_the_pool(
    tell: Tell, conninfo: str, relay: Relay
) -> None:
    async def play(pool: ReadPool) -> None:
        async with holding(conninfo):
            gone = asyncio.create_task(scoped(pool))
            await until_async(lambda: count_held(conninfo, HELD) == 1, "the page to be under way")
            gone.cancel()
            opened, relay.swallows = relay.connections_opened, True
            pages = [asyncio.create_task(scoped(pool)) for _ in range(9)]
            shorts = [asyncio.create_task(pool.fetch(EVERYONE, HELD, {})) for _ in range(300)]
            await until_async(
                lambda: relay.connections_opened > opened, "a connection in the making"
            )
            await pool.close()
            others = asyncio.all_tasks() - {asyncio.current_task(), *pages, *shorts}
            assert others == set()
            results = await gather_results([*pages, *shorts])
            assert {type(error) for error in results} == {psycopg.OperationalError}
            with pytest.raises(psycopg.OperationalError):
                await pool.fetch(EVERYONE, "SELECT 1", {})

    tell(play, through=relay.conninfo)


@pytest.mark.parametrize(
    ("give", "revoke", "fault"),
    [
        ("ALTER ROLE {role} SUPERUSER", "ALTER ROLE {role} NOSUPERUSER", "no plain login"),
        ("ALTER ROLE {role} BYPASSRLS", "ALTER ROLE {role} NOBYPASSRLS", "no plain login"),
        ("ALTER ROLE {role} CREATEROLE", "ALTER ROLE {role} NOCREATEROLE", "no plain login"),
        ("GRANT pg_monitor TO {role}", "REVOKE pg_monitor FROM {role}", "member of another"),
        ("CREATE SCHEMA made AUTHORIZATION {role}", "DROP SCHEMA made", "owns an object"),
    ],
)
def test_a_role_with_special_powers_is_none_to_read_as(
    conninfo: str, give: str, revoke: str, fault: str
) -> None:
    async def play() -> None:
        pool = ReadPool(own)
        with pytest.raises(AssertionError, match=fault):
            await pool.open()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    own = reading(conninfo)
    role = conninfo_to_dict(own)["user"]
    query(conninfo, give.format(role=role))
    try:
        asyncio.run(play())
        until(lambda: count_connections(conninfo) == 0, "its connections to end")
    finally:
        query(conninfo, revoke.format(role=role))
