"""The descriptions of the tables that an append writes equal the migrated schema."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from ledger.engine.log.tables import DECISION_TABLES, LOG, SNAPSHOT
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.table import Table
from tests.conftest import Databases
from tests.support.databases import drop, named

TABLES = pytest.mark.parametrize(
    "table", [*DECISION_TABLES, LOG, SNAPSHOT], ids=lambda table: table.name
)

COLUMNS = """
SELECT attname::text, format_type(atttypid, atttypmod), NOT attnotnull
FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

KEY = """
SELECT a.attname::text FROM pg_index AS i
CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS part (number, place)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.number
WHERE i.indrelid = %s::regclass AND i.indisprimary ORDER BY part.place
"""

SHORT = {
    "integer": "int",
    "boolean": "bool",
    "double precision": "float8",
    "timestamp with time zone": "timestamptz",
}
"""The catalog's names of types, and the shorter names that descriptions use."""


@pytest.fixture(scope="module")
def connection(
    server: EmbeddedPostgres, databases: Databases
) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    name = databases.take()
    with psycopg.connect(named(server.url, name), autocommit=True) as connection:
        yield connection
    drop(server.url, name)


@TABLES
def test_a_tables_description_equals_the_catalog(
    connection: psycopg.Connection[tuple[Any, ...]], table: Table
) -> None:
    name = [f"ledger.{table.name}"]
    assert [
        (column, type_, column in table.nullable) for column, type_ in table.columns.items()
    ] == [
        (column, SHORT.get(type_, type_), is_nullable)
        for column, type_, is_nullable in connection.execute(COLUMNS, name)
    ]
    assert table.key == tuple(column for (column,) in connection.execute(KEY, name))


@TABLES
def test_a_tables_description_names_the_tenants_columns(table: Table) -> None:
    tenants = [name for name in ("organization_id", "workspace_id") if name in table.columns]
    assert list(table.tenant) == tenants
