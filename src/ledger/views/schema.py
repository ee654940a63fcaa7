"""A view's tables in PostgreSQL, made from their descriptions: one set for each generation.

A generation has its own tables, ``ledger.<table>_g<number>``. The database view
``ledger.<table>`` selects from the table of the live generation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from psycopg import Connection

from ledger.postgres.table import Table

_EXPOSE = """
DROP VIEW IF EXISTS ledger.{name};
CREATE VIEW ledger.{name} WITH (security_invoker = true) AS SELECT * FROM {table};
GRANT SELECT ON ledger.{name}, {table} TO ledger_api
"""

# The columns of a table with their types; none if the table does not exist.
_COLUMNS = """
SELECT attname, atttypid::regtype::text FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""

# Types by the names that PostgreSQL gives them.
_TYPES = "SELECT type::regtype::text FROM unnest(%s::text[]) AS type"


@lru_cache(256)
def of_generation(table: Table, generation: int) -> Table:
    """Return the description of a generation's table: the same object for each call."""
    return replace(table, name=f"{table.name}_g{generation}")


def table_of(table: Table, generation: int) -> str:
    """Return the name of a generation's table."""
    return f"ledger.{of_generation(table, generation).name}"


def create_tables(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Create the empty tables of a generation, without the indexes of ``create_indexes``."""
    for table in tables:
        for statement in table_statements(table, generation):
            connection.execute(statement.encode())


def create_indexes(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Create the indexes: of a new view at once, of a rebuild after its tables are filled.

    Building an index over existing rows costs a fraction of updating it row by row.
    """
    for table in tables:
        for statement in index_statements(table, generation):
            connection.execute(statement.encode())


def expose(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Point the database views at this generation's tables."""
    for table in tables:
        statement = _EXPOSE.format(name=table.name, table=table_of(table, generation))
        connection.execute(statement.encode())


def hide(connection: Connection[Any], tables: Sequence[Table]) -> None:
    """Drop the database views: until ``expose``, statements fail with UndefinedTable."""
    for table in tables:
        connection.execute(f"DROP VIEW IF EXISTS ledger.{table.name}".encode())


def has_columns(connection: Connection[Any], tables: Sequence[Table], generation: int) -> bool:
    """Whether the tables of a generation have the columns of their descriptions."""
    return all(_has_columns(connection, table, generation) for table in tables)


def _has_columns(connection: Connection[Any], table: Table, generation: int) -> bool:
    found = connection.execute(_COLUMNS, (table_of(table, generation),)).fetchall()
    types = connection.execute(_TYPES, (list(table.columns.values()),)).fetchall()
    return dict(found) == dict(zip(table.columns, (type_ for (type_,) in types), strict=True))


def table_statements(table: Table, generation: int) -> Iterator[str]:
    """Yield the statements that create an empty table."""
    name = table_of(table, generation)
    parts = [
        f"{column} {type_}" + ("" if column in table.nullable else " NOT NULL")
        for column, type_ in table.columns.items()
    ]
    if not table.is_keyed_late:
        parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    options = f" WITH ({table.options})" if table.options else ""
    yield f"CREATE TABLE {name} ({', '.join(parts)}){options}"
    for column in table.uncompressed:
        yield f"ALTER TABLE {name} ALTER {column} SET STORAGE MAIN"


def index_statements(table: Table, generation: int) -> Iterator[str]:
    """Yield the statements that create the indexes of a table, that of a late key first."""
    name = table_of(table, generation)
    if table.is_keyed_late:
        yield f"CREATE UNIQUE INDEX ON {name} ({', '.join(table.key)})"
    for index in table.indexes:
        where = f" WHERE {index.where}" if index.where else ""
        yield f"CREATE INDEX ON {name} USING {index.using} ({index.columns}){where}"
