"""What PostgreSQL makes of the views' tables is pinned: columns, storage, keys and indexes."""

import hashlib

import pytest

from ledger.projection.contract import Projection
from ledger.projection.generation import create_indexes, create_tables, table_of
from projections import projections
from tests.support.transactions import undone

PINNED = {
    "execution": "2412bbd859a6e552",
    "run": "334eee57b1f769d3",
    "event": "ea0e8645a1955411",
    "webhook": "f434b80016d147e1",
}

# A table's columns, its options and its indexes in the order of their creation.
_CATALOG = """
SELECT array(SELECT (attname, format_type(atttypid, atttypmod), attnotnull, attstorage)::text
             FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),
       reloptions,
       array(SELECT pg_get_indexdef(indexrelid)
                    || CASE WHEN indisprimary THEN ' PRIMARY' ELSE '' END
             FROM pg_index WHERE indrelid = c.oid ORDER BY indexrelid)
FROM pg_class AS c WHERE c.oid = %s::regclass
"""


@pytest.mark.parametrize("projection", projections(), ids=lambda view: view.name)
def test_a_views_version_is_raised_with_every_change_of_its_storage(
    projection: Projection, conninfo: str
) -> None:
    with undone(conninfo) as transaction:
        connection = transaction.cursor().connection
        create_tables(connection, projection, 999)
        create_indexes(connection, projection, 999)
        names = [table_of(table, 999) for table in projection.tables]
        catalog = [connection.execute(_CATALOG, (name,)).fetchone() for name in names]
    found = hashlib.sha256(repr(catalog).encode()).hexdigest()[:16]
    assert found == PINNED.get(projection.name), (
        f"The storage or the indexes of the view {projection.name} changed. Existing ledgers get"
        " that only when the view is rebuilt: raise its version by one (see test_pins.py), then pin"
        f" this: {catalog}"
    )
