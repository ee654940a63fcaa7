"""Registering views: the tables of new views, and the database views of all, before a start."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.postgres import locks
from ledger.engine.postgres.schema.table import Table
from ledger.engine.views import schema
from ledger.engine.views.contract import Projection

_TRACKING = "SELECT name, version, generation FROM ledger.projection"

_REGISTER = """
INSERT INTO ledger.projection (name, version, generation, position) VALUES (%s, %s, 1, 0)
RETURNING pg_notify('ledger_views', name || ' 0')
"""

# A new view on a log with events has no tables yet; the rebuilder builds it.
_REGISTER_UNBUILT = """
INSERT INTO ledger.projection (name, version, generation, position, stopped_at, error)
VALUES (%s, 0, 0, 0, clock_timestamp(), 'is being built')
RETURNING pg_notify('ledger_views', name || ' stopped')
"""

_IS_EMPTY = "SELECT NOT EXISTS (SELECT FROM ledger.ledger_events)"


def register(conninfo: str, projections: Sequence[Projection]) -> None:
    """Create the empty tables of new views, at position 0, before workers start.

    If the log has events already, the rebuilder builds a new view in the background. A view that
    another version filled, in tables with other columns, stays as it is until it is rebuilt: nodes
    of that version may go on reading it, and those of this version do not (``Versions``).
    """
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        # Of two processes that start at once, the second waits until the first has disconnected.
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.VIEW_TABLES,))
        tracked = _tracked(connection)
        is_empty = connection.execute(_IS_EMPTY).fetchone() == (True,)
        for projection in projections:
            if projection.name in tracked:
                version, generation = tracked[projection.name]
                tables = [(table, generation) for table in projection.tables]
                is_own = version == projection.version
                if is_own or not schema.with_other_columns(connection, tables):
                    schema.renew(connection, projection.name, projection.tables, generation)
            elif is_empty:
                connection.execute(_REGISTER, (projection.name, projection.version))
                schema.create_tables(connection, projection.tables, 1)
                schema.create_indexes(connection, projection.tables, 1)
                schema.expose(connection, projection.tables, 1)
            else:
                connection.execute(_REGISTER_UNBUILT, (projection.name,))
            # A leading projector moves all trackings at once, in any order. A transaction that held
            # several of them would deadlock with it, which stops the views for two seconds.
            connection.commit()


def is_registered(
    connection: psycopg.Connection[TupleRow],
    projections: Sequence[Projection],
    *,
    by_this_version: bool = False,
) -> bool:
    """True if ``register`` would change nothing. Nothing is written.

    A view of another version counts, unless ``by_this_version``: a rebuild replaces it, and
    ``register`` renews it at most.
    """
    tracked = _tracked(connection)
    if not tracked.keys() >= {projection.name for projection in projections}:
        return False
    own = _own(projections, tracked)
    if by_this_version and len(own) < sum(len(view.tables) for view in projections):
        return False
    return schema.are_exposed(connection, own)


def _own(
    projections: Sequence[Projection], tracked: Mapping[str, tuple[int, int]]
) -> list[tuple[Table, int]]:
    """The live tables that this version made, each with its generation."""
    return [
        (table, tracked[view.name][1])
        for view in projections
        if view.name in tracked and tracked[view.name][0] == view.version
        for table in view.tables
    ]


def _tracked(connection: psycopg.Connection[TupleRow]) -> dict[str, tuple[int, int]]:
    tracking = connection.execute(_TRACKING).fetchall()
    return {name: (version, generation) for name, version, generation in tracking}
