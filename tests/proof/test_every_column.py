"""``ledger verify`` notices a change of any column of any table, but for what ``OUTSIDE`` names.

The test walks the catalog. A new table or column fails by its name, until it is compared with the
log or named among those that are outside of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.app.composition.verification import compare
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.proof.tables import Difference
from ledger.features.proof.verification.check import check
from ledger.features.proof.verification.derived import TABLES
from ledger.features.webhooks.commands import GiveUpDelivery
from ledger.features.webhooks.model.endpoint import WebhookDeliveryFailed
from tests.engine.log.test_derived import fill
from tests.proof.conftest import report
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.ledger import Ledger, working
from tests.support.sealing import seal

# The tables that do not follow from the log, with what they hold; ``OTHER_COLUMNS`` likewise.
OUTSIDE = {
    "append_lock": "has no rows: appends lock it",
    "append_probe": "a beat of the service, of which no event tells",
    "delivery": "what became of webhooks outside, of which only failures are events",
    "dispatch": "how far the dispatcher is with each endpoint",
    "former_checkpoint": "of earlier origins: those of the present log are compared",
    "former_origin": "the origins before the present one, and who adopted the log, and why",
    "idempotency": "outcomes of commands under their Idempotency-Keys, kept for a day",
    "key_use": "when each key was last used, of which no event tells",
    "leader": "which session leads each loop now",
    "lineage": "the PostgreSQL that wrote the log last",
    "listening": "beats of the service, of which no event tells",
    "migration": "which migrations were applied; their checksums are compared at each start",
    "node": "the nodes that beat now",
    "person": "names of people, which are kept beside the log so that they can be forgotten",
    "projection": "how far each view is",
    "refusals_omitted": "refusals that are counted until an event tells their number",
    "session": "by what a session is known, and what it may; its beginning and end are events",
    "setting": "what processes must agree on; each compares its own value with it at its start",
    "signer": "the key that signs, and whether sealing has stopped",
    "span": "what runs need of other spans of their traces: ids and tokens, for an hour",
    "watch_due": "when watches look at lines next: without a row, all lines are looked at anew",
    "watch_look": "how far watches have looked",
    "watch_overflow": "how many alerts wait for room, counted anew each minute",
    "verification": "what the comparisons themselves found",
}

OTHER_COLUMNS = {
    ("run_key", "wrapped"): "random, and to be destroyed: compared is whether there is one",
}

# The tables whose rows are compared, but may be missing: they are made again.
CACHES = {"snapshot"}

UNTIL_ISSUED = {"statement_document"}
"""The tables whose rows come before their events: a row without one is dropped within a day."""

# The tables of the schema, but for those of views.
_TABLES = r"""
SELECT relname::text FROM pg_class
WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'p', 'm', 'f')
  AND relname !~ '_g[0-9]+$'
ORDER BY 1
"""
_COLUMNS = """
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CONSTRAINTS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', conrelid::regclass, conname)
FROM pg_constraint
WHERE connamespace = 'ledger'::regnamespace AND conrelid <> 0 AND contype NOT IN ('n', 't')
"""

_SEALED = {
    "ledger_events": ("notification_id",), "tile": ("level", "number"), "checkpoint": ("size",),
}  # fmt: skip
_INDEXES = """
SELECT format('DROP INDEX %s', i.indexrelid::regclass) FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indisunique AND c.relnamespace = 'ledger'::regnamespace
"""

KEYS = {table.name: table.key for table in TABLES} | _SEALED
"""The tables that are compared, with the columns that name a row."""

CHANGES = {
    "text": "concat({0}, 'x')",
    "text[]": "{0} || 'x'::text",
    "bigint": "{0} + 1",
    "integer": "{0} + 1",
    "smallint": "{0} + 1",
    "boolean": "NOT {0}",
    "uuid": "gen_random_uuid()",
    "bytea": "set_bit({0}, length({0}) * 4, 1 - get_bit({0}, length({0}) * 4))",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 hour'",
}
"""An altered value of a column, by the column's type."""

MAY_BE_AHEAD = {("id_counter", "last"): "{0} - 1"}

INSERTED = {"ledger_events": {"notification_id": "0"}}
"""The key of an inserted row, where not any other key will do: the log may always grow."""


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres, folder: Path) -> Iterator[Ledger]:
    """A sealed ledger with rows in each table, and without constraints."""
    settings = Settings(master_key=MASTER_KEY)
    with copied(server.url, "every_column") as conninfo, working(conninfo, settings) as ledger:
        fill(ledger)
        (endpoint,) = ledger.rows("SELECT endpoint_id FROM ledger.endpoint")
        failed = WebhookDeliveryFailed(event_id="EVT-26-000001", sequence=1, attempts=5)
        ledger.execute(GiveUpDelivery(endpoint["endpoint_id"], failed.event_id, 0, failed))
        seal(conninfo, folder)
        report(ledger, ledger.line("capacity"), 30)
        seal(conninfo, folder)
        ledger.catch_up()
        with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
            for of in (_CONSTRAINTS, _INDEXES):
                for (statement,) in connection.execute(of).fetchall():
                    connection.execute(statement.encode())
        yield ledger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("every") / "sealed"


@pytest.fixture(scope="module")
def columns(ledger: Ledger) -> dict[str, dict[str, str]]:
    """The type of each column of each table that is to be compared."""
    with psycopg.connect(ledger.conninfo, row_factory=tuple_row) as connection:
        tables = [name for (name,) in connection.execute(_TABLES)]
        return {
            table: dict(connection.execute(_COLUMNS, (f"ledger.{table}",)).fetchall())
            for table in tables
            if table not in OUTSIDE
        }


def found(ledger: Ledger, folder: Path) -> list[Difference]:
    differences: list[Difference] = []
    check(ledger.conninfo, folder, differences.append, lambda *_: None)
    compare(ledger.conninfo, differences.append, lambda *_: None)
    return differences


@contextmanager
def altered(ledger: Ledger, statements: Mapping[str, str]) -> Iterator[None]:
    """Alter tables as their owner can, without triggers, and restore them afterwards."""
    keep = "CREATE TABLE {0}_before AS TABLE ledger.{0}"
    restore = "TRUNCATE ledger.{0}; INSERT INTO ledger.{0} TABLE {0}_before; DROP TABLE {0}_before"
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("; ".join(map(keep.format, statements)).encode())
        try:
            for statement in statements.values():
                assert connection.execute(statement.encode()).rowcount == 1
            yield
        finally:
            connection.execute("; ".join(map(restore.format, statements)).encode())


def together(columns: Mapping[str, Iterable[str]]) -> list[dict[str, str]]:
    """Groups of tables, each with a column, that are altered at a time.

    A sealed table is altered alone. The others are compared with the log one by one, so a change of
    one of them cannot hide a change of another.
    """
    alone = [{table: column} for table in _SEALED for column in columns[table]]
    others = [
        [(table, column) for column in names]
        for table, names in columns.items()
        if table not in _SEALED
    ]
    return alone + [dict(filter(None, group)) for group in zip_longest(*others)]


def found_after(
    ledger: Ledger, folder: Path, statements: Mapping[str, str]
) -> dict[str, list[Difference]]:
    """The differences of each table, found while the tables are altered by the statements."""
    with altered(ledger, statements):
        differences = found(ledger, folder)
    return {table: [d for d in differences if d.table == table] for table in statements}


def row_of(ledger: Ledger, table: str, column: str) -> dict[str, Any]:
    """A row of the table, if possible with a value in the column."""
    (row,) = ledger.rows(
        f"SELECT ctid::text AS ctid, * FROM ledger.{table}"
        f" ORDER BY {column} IS NULL, {', '.join(KEYS[table])} LIMIT 1"
    )
    return row


def key_of(table: str, row: dict[str, Any]) -> str:
    values = {column: row[column] for column in KEYS[table]}
    return " ".join(
        f"{column}=\\x{value.hex()}" if isinstance(value, bytes) else f"{column}={value}"
        for column, value in values.items()
    )


def test_the_tables_of_the_catalog_are_compared_or_outside(ledger: Ledger) -> None:
    with psycopg.connect(ledger.conninfo, row_factory=tuple_row) as connection:
        tables = {name for (name,) in connection.execute(_TABLES)}
    assert tables == KEYS.keys() | OUTSIDE.keys()
    assert not KEYS.keys() & OUTSIDE.keys()
    assert KEYS.keys() >= CACHES


def test_a_sound_ledger_has_no_difference(ledger: Ledger, folder: Path) -> None:
    assert found(ledger, folder) == []


def test_each_altered_column_is_named_by_table_key_and_column(
    ledger: Ledger, folder: Path, columns: dict[str, dict[str, str]]
) -> None:
    unnamed = []
    compared = {
        table: [column for column in types if (table, column) not in OTHER_COLUMNS]
        for table, types in columns.items()
    }
    for group in together(compared):
        rows = {table: row_of(ledger, table, column) for table, column in group.items()}
        updates = {}
        for table, column in group.items():
            type_ = columns[table][column]
            change = MAY_BE_AHEAD.get((table, column), CHANGES[type_]).format(column)
            where = f"WHERE ctid = '{rows[table]['ctid']}'"
            updates[table] = f"UPDATE ledger.{table} SET {column} = {change} {where}"
        for table, differences in found_after(ledger, folder, updates).items():
            key, column = key_of(table, rows[table]), group[table]
            is_named = any(
                f"{column}=" in d.key or (d.key == key and column in str(d.column).split(", "))
                for d in differences
            )
            if not is_named:
                unnamed.append((table, column, differences[:3]))
    assert unnamed == [], unnamed


def test_each_deleted_row_is_named_by_table_and_key(
    ledger: Ledger, folder: Path, columns: dict[str, dict[str, str]]
) -> None:
    unnamed = []
    by_neighbour = {"ledger_events": "leaf=0", "checkpoint": "size="}
    for group in together({table: KEYS[table][:1] for table in columns.keys() - CACHES}):
        rows = {table: row_of(ledger, table, column) for table, column in group.items()}
        deletes = {
            table: f"DELETE FROM ledger.{table} WHERE ctid = '{row['ctid']}'"
            for table, row in rows.items()
        }
        for table, differences in found_after(ledger, folder, deletes).items():
            key = by_neighbour.get(table, key_of(table, rows[table]))
            if not any(d.key.startswith(key) for d in differences):
                unnamed.append((table, key, differences[:3]))
    assert unnamed == []


def test_each_inserted_row_is_named_by_table_and_key(
    ledger: Ledger, folder: Path, columns: dict[str, dict[str, str]]
) -> None:
    unnamed = []
    for group in together({table: KEYS[table][-1:] for table in columns.keys() - UNTIL_ISSUED}):
        rows = {table: row_of(ledger, table, last) for table, last in group.items()}
        inserts = {}
        for table, last in group.items():
            types = columns[table]
            new = INSERTED.get(table, {}).get(last) or CHANGES[types[last]].replace("+ 1", "+ 1000")
            values = ", ".join(new.format(last) if name == last else name for name in types)
            inserts[table] = (
                f"INSERT INTO ledger.{table} ({', '.join(types)})"
                f" SELECT {values} FROM ledger.{table} WHERE ctid = '{rows[table]['ctid']}'"
            )
        for table, differences in found_after(ledger, folder, inserts).items():
            key = key_of(table, rows[table])
            if not any(f"{group[table]}=" in d.key and d.key != key for d in differences):
                unnamed.append((table, differences[:3]))
    assert unnamed == []


def test_a_damaged_column_that_is_outside_of_the_log_still_tells_whether_a_key_exists(
    ledger: Ledger, folder: Path
) -> None:
    row = row_of(ledger, "run_key", "wrapped")
    gone = f"UPDATE ledger.run_key SET wrapped = NULL WHERE ctid = '{row['ctid']}'"
    with altered(ledger, {"run_key": gone}):
        (difference,) = found(ledger, folder)
    assert difference[:3] == ("run_key", key_of("run_key", row), "wrapped")
    erased = "UPDATE ledger.run_key SET wrapped = '\\x01' WHERE destroyed_at IS NOT NULL"
    with altered(ledger, {"run_key": erased}):
        (difference,) = found(ledger, folder)
    assert (difference.table, difference.column) == ("run_key", "wrapped")
