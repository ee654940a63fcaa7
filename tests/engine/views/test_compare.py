"""A rebuild counts the rows that differ, at first by digests of whole tables."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.postgres.schema.table import Table
from ledger.engine.views.contract import Projection
from ledger.engine.views.rebuilding.compare import count_differing
from ledger.engine.views.schema import create_tables, table_of
from tests.support.rebuilding import NAMES, Vandal, view
from tests.support.soak import repeated

LIVE, COPY = 1, 7


@pytest.fixture
def connection(worked: str, name: str) -> Iterator[Connection[TupleRow]]:
    """A connection to a ledger in which the view has a second generation with the same rows."""
    with psycopg.connect(worked, autocommit=True, row_factory=tuple_row) as opened:
        create_tables(opened, view(name).tables, COPY)
        for table in view(name).tables:
            restore(opened, table, COPY, LIVE)
        yield opened


def restore(connection: Connection[TupleRow], table: Table, to: int, source: int) -> None:
    """Replace a table's rows by those of another generation, in another order."""
    columns = ", ".join(table.columns)
    connection.execute(f"TRUNCATE {table_of(table, to)}".encode())
    connection.execute(
        f"INSERT INTO {table_of(table, to)} ({columns})"
        f" SELECT {columns} FROM {table_of(table, source)} ORDER BY random()".encode()
    )


def differing(connection: Connection[TupleRow], projection: Projection) -> int:
    with connection.transaction():
        return count_differing(connection, projection, LIVE, COPY)


@pytest.mark.parametrize("name", repeated(NAMES, 3))
def test_any_cell_that_differs_is_counted(
    worked: str, connection: Connection[TupleRow], name: str
) -> None:
    projection, vandal = view(name), Vandal(worked, 5)
    assert differing(connection, projection) == 0
    for table in projection.tables:
        for column in [c for c in table.columns if c not in table.key]:
            assert vandal.spoil_cell(projection, table, column), column
            assert differing(connection, projection) == 1, column
            restore(connection, table, LIVE, COPY)
    assert differing(connection, projection) == 0


@pytest.mark.parametrize("name", NAMES)
def test_rows_on_one_side_only_are_counted(
    worked: str, connection: Connection[TupleRow], name: str
) -> None:
    projection, vandal = view(name), Vandal(worked, 6)
    for number, table in enumerate(projection.tables):
        vandal.remove(projection, table)
        vandal.add(projection, table)
        assert differing(connection, projection) == 2 * (number + 1)
    for table in projection.tables:
        connection.execute(f"TRUNCATE {table_of(table, LIVE)}".encode())
    rows = sum(
        row[0]
        for table in projection.tables
        for row in connection.execute(f"SELECT count(*) FROM {table_of(table, COPY)}".encode())
    )
    assert differing(connection, projection) == rows
