"""The cost of a statement: the rows that its plan touches, planned as for a service."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Literal

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.principal import ANY, EVERYONE, Tenant
from ledger.engine.views.statements import Read
from ledger.engine.writer.writer import Writer
from tests.support.databases import copied
from tests.support.edge import Edge
from tests.support.racing_writers import running_writer
from tests.support.reader import become_reader
from tests.support.views import projecting

T = TypeVar("T")

_COUNTED = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")

_TYPES = {datetime: "timestamptz", date: "date", bool: "bool", int: "bigint"}
"""The types that the driver declares for parameters; other parameters are left ``unknown``."""


@contextmanager
def database_after(
    server: EmbeddedPostgres, name: str, work: Callable[[Writer], T]
) -> Iterator[tuple[psycopg.Connection[Any], T]]:
    """A database of its own after some work, as reads of the API see it; and the work's result."""
    with copied(server.url, name) as conninfo:
        with running_writer(conninfo, idle_after=timedelta(days=1)) as writer:
            result = work(writer)
        with projecting(conninfo) as projector:
            projector.catch_up()
        with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
            connection.execute("VACUUM ANALYZE")
            become_reader(connection, conninfo, EVERYONE)
            yield connection, result


def _plan_for(connection: psycopg.Connection[Any], planning: Planning) -> None:
    """Have statements planned as reads of the API are: once, or at each execution."""
    plan_cache_mode, enable_seqscan = planning.settings
    connection.execute("SELECT set_config('plan_cache_mode', %s, false)", (plan_cache_mode,))
    connection.execute("SELECT set_config('enable_seqscan', %s, false)", (enable_seqscan,))


def _scanned_rows(plan: dict[str, Any]) -> float:
    """The rows that the scans of a plan returned or removed, multiplied by their loops."""
    own = sum(plan.get(name, 0) for name in _COUNTED) * plan["Actual Loops"]
    scanned = own if "Scan" in plan["Node Type"] else 0
    return scanned + sum(_scanned_rows(part) for part in plan.get("Plans", ()))


class Cost(NamedTuple):
    found: int
    """Returned rows, without the row of NULLs that stands for an empty result."""
    rows: float
    """Rows that scans returned or removed, multiplied by their loops."""
    blocks: int
    """Pages of tables and indexes that were read, from shared buffers or from disk."""


def cost(connection: psycopg.Connection[Any], read: Read, parameters: dict[str, Any]) -> Cost:
    """The cost of an execution of the read as a prepared statement, as in a service.

    Every execution has the same plan, since each ``Planning`` says whether a plan is generic.
    """
    _plan_for(connection, read.planning)
    statement = read.sql
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    text = re.sub(r"%\((\w+)\)s", lambda m: f"${names.index(m[1]) + 1}", statement)
    text = text.replace("%%", "%")
    execute = connection.execute
    found = sum(row[1] is not None for row in execute(statement.encode(), parameters).fetchall())
    types = ", ".join(_TYPES.get(type(parameters[name]), "unknown") for name in names)
    execute(f"PREPARE asked ({types}) AS {text}".encode())
    values = SQL(", ").join(Literal(parameters[name]) for name in names)
    explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE asked ({})"
    ((plans,),) = execute(SQL(explain).format(values)).fetchall()
    execute("DEALLOCATE asked")
    root = plans[0]["Plan"]
    blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    return Cost(found, _scanned_rows(root), blocks)


def rows_touched(edge: Edge, read: Read, values: dict[str, Any]) -> int:
    """The rows that all nodes of the statement's plan returned or removed by a filter.

    The read is one of the organization that the values name.
    """
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        # Collect the statistics that a database has after a while, by its autovacuum.
        connection.execute("ANALYZE")
        become_reader(connection, edge.conninfo, Tenant(values["organization"], ANY))
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {read.sql}".encode()
        ((plans,),) = connection.execute(explain, values).fetchall()

    def rows(node: dict[str, Any]) -> int:
        own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return int(own * node["Actual Loops"]) + sum(map(rows, node.get("Plans", [])))

    return rows(plans[0]["Plan"])
