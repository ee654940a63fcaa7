"""Migrations: numbered SQL files, each applied once, by one process at a time.

The events table and its index are created by the library's DDL, which runs here and nowhere else:
at start-up it would race between processes. A file that was edited after it was applied is refused.

Before 0.1.0 the first file was 24 files, and those after it had other numbers. A ledger that commit
e6d622b brought up to date is taken over: its names become today's, and nothing else is touched. Any
other ledger of a version before 0.1.0 is refused untouched.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, dict_row, tuple_row

from ledger.engine.log import snapshots
from ledger.engine.postgres import locks
from ledger.engine.postgres.timing import LOCK_SECONDS

_BASE = """
CREATE SCHEMA IF NOT EXISTS ledger;
CREATE TABLE IF NOT EXISTS ledger.migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

# Roles belong to the cluster, so the migrations of two databases can race to create this role.
_ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ledger_api') THEN
        CREATE ROLE ledger_api NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$ BEGIN
    -- A superuser may SET ROLE to any role; another user needs membership, from PostgreSQL 16 on
    -- even as the creator of the role.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT ledger_api TO CURRENT_USER;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN NULL;  -- another user may have granted the role
END $$
"""

_POWERS = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = 'ledger_api'"

# The table of events is made after that of the migrations.
_BEGUN = """
SELECT to_regclass('ledger.migration') IS NOT NULL
    AND to_regclass('ledger.ledger_events') IS NOT NULL
"""

# Whether the ledger is of a version before 0.1.0, and the reason if it is refused. The first format
# of events was a JSON object. The digest is that of the 24 files, by their names and checksums.
BEFORE_0_1_0 = """
SELECT older.is_there AS is_older, CASE
    WHEN NOT older.is_there THEN NULL
    WHEN EXISTS (SELECT FROM ledger.ledger_events WHERE substr(state, 1, 1) <> '[') THEN
        'The ledger has events of a format that ended before 0.1.0: no later version opens it'
    WHEN older.digest <> '55bacaff9aa5b2fb93055b57b22ce8904d5d50f8c953368598a91dba23ae4805' THEN
        'The ledger is of a version before 0.1.0: run `ledger migrate` of commit e6d622b first'
    END AS reason
FROM (
    SELECT coalesce(bool_or(name = '0001_log.sql'), false) AS is_there,
        encode(sha256(convert_to(
            string_agg(name || checksum, ',' ORDER BY name COLLATE "C"), 'UTF8')), 'hex') AS digest
    FROM ledger.migration WHERE name COLLATE "C" < '0025'
) AS older
"""

# The name of the first file replaces 24 names, with the latest time at which one of these files was
# applied. The name 0025 becomes 0002, and so on.
_TAKE_OVER = """
WITH files AS (DELETE FROM ledger.migration WHERE name COLLATE "C" < '0025' RETURNING applied_at)
INSERT INTO ledger.migration (name, checksum, applied_at) SELECT %s, %s, max(applied_at) FROM files
"""
_RENUMBER = """
UPDATE ledger.migration SET name = to_char(left(name, 4)::int - 23, 'FM0000') || substr(name, 5)
WHERE name COLLATE "C" >= '0025' AND name COLLATE "C" < '0029'
"""


class SchemaError(Exception):
    """The database cannot be used as it is; the message is a reason of one line."""


def migrate(conninfo: str) -> list[str]:
    """Bring the schema up to date. Return the names of the migrations that were applied now.

    Raises SchemaError if the server is older than 15, if the encoding or the user's rights do not
    suffice, if a migration was edited after it ran, if only a newer version knows a migration, or
    if the ledger is too old.
    """
    migrations = _files()
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        _refuse_server(connection)
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.MIGRATIONS,))
        taken = _take_over(connection, migrations) if is_older(connection) else []
        _ensure_role(connection)
        connection.execute(_BASE)
        _refuse_newer(connection, {name for name, _ in migrations})
        if connection.execute("SELECT to_regclass('ledger.ledger_events')").fetchone() == (None,):
            _create_library_table(conninfo)
        applied = [name for name, sql in migrations if _apply(connection, name, sql)]
        snapshots.drop_others(connection)
        return [*taken, *applied]


def is_older(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether the ledger is of a version before 0.1.0, and can be taken over. Nothing is written.

    Raises SchemaError if it cannot. The check reads the whole log, but only of such a ledger.
    """
    if not _has_begun(connection):
        return False
    ((is_there, reason),) = connection.execute(BEFORE_0_1_0)
    if reason is not None:
        raise SchemaError(f"{reason}.")
    return bool(is_there)


def refuse_outdated(connection: psycopg.Connection[TupleRow]) -> None:
    """Raise SchemaError unless ``migrate`` would apply nothing. Nothing is written."""
    _refuse_server(connection)
    migrations = _files()
    if not _has_begun(connection):
        raise SchemaError("The database has no ledger yet: run `ledger migrate`.")
    if is_older(connection):
        raise SchemaError("The schema is older than this version: run `ledger migrate`.")
    _refuse_newer(connection, {name for name, _ in migrations})
    missing = [name for name, sql in migrations if not _is_applied(connection, name, sql)]
    if missing:
        raise SchemaError(
            f"The schema is older than this version, which needs {', '.join(missing)}:"
            " run `ledger migrate`."
        )


def _has_begun(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether both tables are there: of a first start under way, or killed, one may be missing."""
    return connection.execute(_BEGUN).fetchone() == (True,)


def _take_over(
    connection: psycopg.Connection[TupleRow], migrations: Sequence[tuple[str, str]]
) -> list[str]:
    """Give an older ledger today's names. Raises SchemaError, and then nothing is changed."""
    first, sql = migrations[0]
    with connection.transaction():
        connection.execute(_TAKE_OVER, (first, _checksum(sql)))
        connection.execute(_RENUMBER)
        _refuse_newer(connection, {name for name, _ in migrations})
        for migration in migrations:
            _is_applied(connection, *migration)
    return [first]


def _refuse_server(connection: psycopg.Connection[TupleRow]) -> None:
    if connection.info.server_version < 150000:
        raise SchemaError("PostgreSQL 15 or newer is needed.")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(f"A database of the encoding UTF8 is needed, this one has {encoding}.")


def _ensure_role(connection: psycopg.Connection[TupleRow]) -> None:
    """Ensure the role ledger_api, which migrations name: it exists, and has no special powers.

    The role has rights only if reads have no login of their own (``reader.py``).
    """
    try:
        connection.execute(_ROLE)
    except psycopg.errors.InsufficientPrivilege as exc:
        user = connection.info.user
        raise SchemaError(
            f'"{user}" needs CREATEROLE, or a role ledger_api must exist: docs/operating.md, The'
            " login of reads, has the SQL."
        ) from exc
    if connection.execute(_POWERS).fetchone() != (False,):
        raise SchemaError(
            "The role ledger_api must not be SUPERUSER or have BYPASSRLS: policies bind neither."
        )


def _refuse_newer(connection: psycopg.Connection[TupleRow], known: set[str]) -> None:
    """Refuse a newer schema: a writer that does not know a table would leave it behind the log."""
    applied = connection.execute("SELECT name FROM ledger.migration").fetchall()
    if newer := {name for (name,) in applied} - known:
        raise SchemaError(
            "The database belongs to a newer version of the ledger: this one does not know"
            f" {', '.join(sorted(newer))}."
        )


def _create_library_table(conninfo: str) -> None:
    # The modules are loaded for a new ledger only: that takes longer than the statements.
    from eventsourcing.persistence import OperationalError
    from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

    store = PostgresDatastore(
        "", "", "", "", "", schema="ledger", originator_id_type="text", lock_timeout=LOCK_SECONDS
    )
    # The connection string has more parameters than the store has names for.
    store.pool.kwargs = {**conninfo_to_dict(conninfo), "row_factory": dict_row}
    try:
        PostgresApplicationRecorder(store, events_table_name="ledger_events").create_table()
    except OperationalError as error:
        raise psycopg.OperationalError(str(error)) from error
    finally:
        store.close()


def _files() -> list[tuple[str, str]]:
    folder = files("ledger.engine.log.schema") / "migrations"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql"))
    return [(name, (folder / name).read_text()) for name in names]


def _is_applied(connection: psycopg.Connection, name: str, sql: str) -> bool:
    """Whether the migration was applied. Raises SchemaError if it was changed since."""
    row = connection.execute(
        "SELECT checksum FROM ledger.migration WHERE name = %s", (name,)
    ).fetchone()
    if row is not None and row[0] != _checksum(sql):
        raise SchemaError(f"Migration {name} was changed after it had been applied.")
    return row is not None


def _apply(connection: psycopg.Connection, name: str, sql: str) -> bool:
    if _is_applied(connection, name, sql):
        return False
    with connection.transaction():
        connection.execute(sql.encode())
        connection.execute(
            "INSERT INTO ledger.migration (name, checksum) VALUES (%s, %s)", (name, _checksum(sql))
        )
    return True


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
