"""A view's tables in PostgreSQL, made from their descriptions: one set for each generation.

A generation has its own tables, ``ledger.<table>_g<number>``. The database view ``ledger.<table>``
selects from the live generation's table. A table has its policy from the beginning; the API's role
gets its grants with the database view, on the columns that reads may see.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from psycopg import Connection

from ledger.engine.postgres.schema import walls
from ledger.engine.postgres.schema.table import Table

# Policies bind the session's role where the view has its rights.
_BY_POLICY = (
    "CREATE VIEW ledger.{name} WITH (security_invoker = true) AS SELECT {columns} FROM {table}"
)

# A view with its owner's rights, which no policy binds. So it has the policy's condition, for the
# roles that the policy binds. Conditions reach the indexes: it is no security barrier.
_BY_VIEW = "CREATE VIEW ledger.{name} AS SELECT {columns} FROM {table} AS t WHERE {seen}"
_UNBOUND = "WHEN NOT row_security_active('{table}') THEN true"

# Likewise, with a barrier: a function in a query gets no row of another tenant. Look-ups by key
# pass it, so it costs nothing.
_BY_READING = "CREATE VIEW ledger.{name} WITH (security_barrier = true) AS {select}"

HOLD = "SELECT generation FROM ledger.projection WHERE name = %s FOR UPDATE"

_MARKS = """
SELECT relname, obj_description(oid, 'pg_class')
FROM pg_class WHERE relnamespace = to_regnamespace('ledger') AND relkind = 'v'
"""

# The tables that are missing or have other columns. The parameters are a row for each column, with
# its type.
_OTHER_COLUMNS = """
WITH asked AS (
    SELECT t, c, type::regtype::oid AS type
    FROM unnest(%(tables)s::text[], %(columns)s::text[], %(types)s::text[]) AS a (t, c, type)
),
found AS (
    SELECT t, attname::text AS c, atttypid AS type
    FROM (SELECT DISTINCT t FROM unnest(%(tables)s::text[]) AS t) AS a
    JOIN pg_attribute ON attrelid = to_regclass(t) AND attnum > 0 AND NOT attisdropped
)
SELECT DISTINCT t FROM asked FULL JOIN found USING (t, c, type)
WHERE asked IS NULL OR found IS NULL
"""


@lru_cache(256)
def of_generation(table: Table, generation: int) -> Table:
    """Return the description of a generation's table: the same object for each call."""
    return replace(table, name=f"{table.name}_g{generation}")


def table_of(table: Table, generation: int) -> str:
    return f"ledger.{of_generation(table, generation).name}"


def create_tables(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Create the empty tables of a generation, without the indexes of ``create_indexes``."""
    for table in tables:
        for statement in table_statements(table, generation):
            connection.execute(statement.encode())
    protect(connection, tables, generation)


def create_indexes(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Create the indexes: of a new view at once, of a rebuild after its tables are filled.

    Building an index over existing rows costs a fraction of updating it row by row.
    """
    for table in tables:
        for statement in index_statements(table, generation):
            connection.execute(statement.encode())


def protect(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    conditions = {of_generation(t, generation).name: _condition_of(t, generation) for t in tables}
    walls.ensure_policies(connection, conditions)


def expose(connection: Connection[Any], tables: Sequence[Table], generation: int) -> None:
    """Point the database views at this generation's tables, and let the API's role read them."""
    marks = _marks(connection)
    for table in tables:
        for name, statement in _views_of(table, generation):
            if marks.get(name) != _mark_of(statement):
                _make_view(connection, name, statement)
    reader = walls.reader_of(connection)
    if reader is not None:
        grant(connection, tables, generation, reader)


def grant(connection: Connection[Any], tables: Sequence[Table], generation: int, role: str) -> None:
    """Let the API's role read the database views, and what their policies need of the tables."""
    for name, columns in readable(tables, generation):
        if columns is None:
            walls.grant_whole(connection, name, role)
        else:
            walls.grant(connection, name, columns, role)


def readable(
    tables: Sequence[Table], generation: int
) -> Iterator[tuple[str, Sequence[str] | None]]:
    """Yield what ``grant`` lets the role select: tables and views, with columns (None: all)."""
    owners = {table.owner for table in tables if table.owner}
    for table in tables:
        if table.reading:
            yield table.reading.name, None
        if table.is_internal:
            continue
        name = of_generation(table, generation).name
        visible = None if len(table.visible) == len(table.columns) else table.visible
        if not table.is_filtered_by_view:
            yield table.name, None  # made of the visible columns
            yield name, visible
            continue
        yield table.name, visible
        compared = [column for owner, column in owners if owner == table.name]
        if compared:
            yield name, (*compared, *table.tenant)


def are_exposed(connection: Connection[Any], tables: Sequence[tuple[Table, int]]) -> bool:
    """True if ``expose`` would change no database view of tables, each with its generation."""
    marks = _marks(connection)
    views = (view for table in tables for view in _views_of(*table))
    return all(marks.get(name) == _mark_of(statement) for name, statement in views)


def _views_of(table: Table, generation: int) -> Iterator[tuple[str, str]]:
    """Yield the names of a table's database views with the statements that create them."""
    name = table_of(table, generation)
    unbound = _UNBOUND.format(table=name)
    statement = (_BY_VIEW if table.is_filtered_by_view else _BY_POLICY).format(
        name=table.name,
        columns=", ".join(table.columns if table.is_filtered_by_view else table.visible),
        table=name,
        seen=walls.of_tenant(table.tenant, "t.", unbound) if table.is_filtered_by_view else "",
    )
    yield table.name, statement
    if table.reading:
        select = table.reading.select.replace("{g}", f"g{generation}")
        yield table.reading.name, _BY_READING.format(name=table.reading.name, select=select)


def _make_view(connection: Connection[Any], name: str, statement: str) -> None:
    connection.execute(f"DROP VIEW IF EXISTS ledger.{name}".encode())
    connection.execute(statement.encode())
    connection.execute(f"COMMENT ON VIEW ledger.{name} IS '{_mark_of(statement)}'".encode())


def _marks(connection: Connection[Any]) -> dict[str, str | None]:
    return dict(connection.execute(_MARKS).fetchall())


def _mark_of(statement: str) -> str:
    return hashlib.sha256(statement.encode()).hexdigest()[:12]


def _condition_of(table: Table, generation: int) -> str:
    if table.is_internal or table.owner is None:
        return walls.condition_of(table)
    owner, column = table.owner
    name = of_generation(table, generation).name
    return walls.of_owner(name, f"{owner}_g{generation}", column)


def renew(connection: Connection[Any], name: str, tables: Sequence[Table], generation: int) -> None:
    """Ensure the policies and database views of a view that an earlier version may have made.

    The caller's transaction locks the view's tracking, so that no rebuild swaps meanwhile.
    """
    protect(connection, tables, generation)
    ((live,),) = connection.execute(HOLD, (name,)).fetchall()
    if live == generation and not are_exposed(connection, [(t, live) for t in tables]):
        # With the grants: running nodes read these views all the time.
        expose(connection, tables, generation)


def with_other_columns(
    connection: Connection[Any], tables: Sequence[tuple[Table, int]]
) -> set[str]:
    """The names of tables of generations that are missing, or differ from their descriptions."""
    columns = [
        (table_of(table, generation), column, type_)
        for table, generation in tables
        for column, type_ in table.columns.items()
    ]
    names, found, types = [list(each) for each in zip(*columns, strict=True)]
    values = {"tables": names, "columns": found, "types": types}
    return {name for (name,) in connection.execute(_OTHER_COLUMNS, values)}


def table_statements(table: Table, generation: int) -> Iterator[str]:
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
    """Yield the statements that create the indexes of a table, a late key's first."""
    name = table_of(table, generation)
    if table.is_keyed_late:
        yield f"CREATE UNIQUE INDEX ON {name} ({', '.join(table.key)})"
    for index in table.indexes:
        where = f" WHERE {index.where}" if index.where else ""
        yield f"CREATE INDEX ON {name} USING {index.using} ({index.columns}){where}"
