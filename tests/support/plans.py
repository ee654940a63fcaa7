"""What a statement costs: the rows that its plan touches, as a service would have it planned."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Literal

from ledger.application.writer import Writer
from ledger.postgres.embedded import EmbeddedPostgres
from ledger.postgres.scope import Planning
from tests.support.databases import copied
from tests.support.racers import fast_idling
from tests.support.views import projecting

T = TypeVar("T")

_COUNTED = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")

_TYPES = {datetime: "timestamptz", date: "date", bool: "bool", int: "bigint"}
"""As the driver names them; what is not here it leaves to the statement."""


@contextmanager
def worked(
    server: EmbeddedPostgres,
    name: str,
    work: Callable[[Writer], T],
    planning: Planning = Planning.SHORT,
) -> Iterator[tuple[psycopg.Connection[Any], T]]:
    """A database of its own after some work, as the edge's reads see it; and what the work gave."""
    with copied(server.url, name) as conninfo:
        with fast_idling(conninfo, idle_after=timedelta(days=1)) as writer:
            given = work(writer)
        with projecting(conninfo) as projector:
            projector.catch_up()
        with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
            connection.execute("VACUUM ANALYZE")
            connection.execute("SET ROLE ledger_api")
            plan_for(connection, planning)
            yield connection, given


def plan_for(connection: psycopg.Connection[Any], planning: Planning) -> None:
    """Have statements planned as the edge's reads are: once, or each time by their values."""
    plans, walks = planning.settings
    connection.execute("SELECT set_config('plan_cache_mode', %s, false)", (plans,))
    connection.execute("SELECT set_config('enable_seqscan', %s, false)", (walks,))


def _touched(plan: dict[str, Any]) -> float:
    """Rows that the scans of a plan brought or threw away, loops and all."""
    own = sum(plan.get(name, 0) for name in _COUNTED) * plan["Actual Loops"]
    scanned = own if "Scan" in plan["Node Type"] else 0
    return scanned + sum(_touched(part) for part in plan.get("Plans", ()))


class Cost(NamedTuple):
    """What a statement came to."""

    found: int
    """Rows that it gave, but for the one of nulls where there is nothing."""
    rows: float
    """Brought or thrown away by scans, loops and all."""
    blocks: int
    """Pages of tables and indexes that were looked at."""


def cost(connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]) -> Cost:
    """What a statement comes to that was prepared, and used a few times.

    As a service uses it: after five times PostgreSQL may choose a plan for any parameters.
    """
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    text = re.sub(r"%\((\w+)\)s", lambda m: f"${names.index(m[1]) + 1}", statement)
    text = text.replace("%%", "%")
    execute = connection.execute
    found = sum(row[1] is not None for row in execute(statement.encode(), parameters).fetchall())
    types = ", ".join(_TYPES.get(type(parameters[name]), "unknown") for name in names)
    execute(f"PREPARE asked ({types}) AS {text}".encode())
    values = SQL(", ").join(Literal(parameters[name]) for name in names)
    explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE asked ({})"
    for _ in range(8):
        ((plans,),) = execute(SQL(explain).format(values)).fetchall()
    execute("DEALLOCATE asked")
    root = plans[0]["Plan"]
    blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return Cost(found, _touched(root), blocks)
