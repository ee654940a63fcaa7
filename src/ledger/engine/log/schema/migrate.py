"""Migrations: numbered SQL files, each applied once, by one process at a time.

The library's DDL creates the events table and its index. It runs only here: at start-up it would
race between processes. A file that was edited after it was applied is refused.

The first file is the final schema of 0.1.0. A ledger that began with another one was made by an
earlier version, and is refused untouched.
"""

import hashlib
from collections.abc import Mapping
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

# The table of events is made after the one of the migrations.
_BEGUN = """
SELECT to_regclass('ledger.migration') IS NOT NULL
    AND to_regclass('ledger.ledger_events') IS NOT NULL
"""

_APPLIED = "SELECT name, checksum FROM ledger.migration"

MIGRATIONS = files("ledger.engine.log.schema") / "migrations"


class SchemaError(Exception):
    """The database cannot be used as it is; the message is a reason of one line."""


def migrate(conninfo: str) -> list[str]:
    """Bring the schema up to date. Return the names of the migrations that were applied now.

    Raises SchemaError if the server is older than 15, if the encoding or the user's rights do not
    suffice, if a version before 0.1.0 made the ledger, if a migration was edited after it ran, or
    if only a newer version knows a migration.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        _refuse_server(connection)
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.MIGRATIONS,))
        missing = _missing(applied_in(connection))
        _ensure_role(connection)
        connection.execute(_BASE)
        if connection.execute("SELECT to_regclass('ledger.ledger_events')").fetchone() == (None,):
            _create_library_table(conninfo)
        for name, sql in missing.items():
            _apply(connection, name, sql)
        snapshots.drop_others(connection)
        return [*missing]


def refuse_outdated(connection: psycopg.Connection[TupleRow]) -> None:
    """Raise SchemaError unless ``migrate`` would apply nothing. Nothing is written."""
    _refuse_server(connection)
    if connection.execute(_BEGUN).fetchone() != (True,):
        raise SchemaError("The database has no ledger yet: run `ledger migrate`.")
    if missing := _missing(applied_in(connection)):
        raise SchemaError(
            f"The schema is older than this version, which needs {', '.join(missing)}:"
            " run `ledger migrate`."
        )


def applied_in(connection: psycopg.Connection[TupleRow]) -> dict[str, str]:
    """The applied migrations, each with the checksum of its file."""
    if connection.execute("SELECT to_regclass('ledger.migration')").fetchone() == (None,):
        return {}
    return dict(connection.execute(_APPLIED).fetchall())


def refuse_older(applied: Mapping[str, str]) -> None:
    """Raise SchemaError if the migrations are those of a version before 0.1.0."""
    (first, sql), *_ = _files().items()
    if applied and applied.get(first) != _checksum(sql):
        raise SchemaError(
            "The ledger was made by a version before 0.1.0: no later version opens it."
        )


def _missing(applied: Mapping[str, str]) -> dict[str, str]:
    """The migrations to apply, in order. Raises SchemaError, also for a newer schema.

    A writer that does not know a table would leave it behind the log.
    """
    refuse_older(applied)
    migrations = _files()
    if newer := applied.keys() - migrations:
        raise SchemaError(
            "The database belongs to a newer version of the ledger: this one does not know"
            f" {', '.join(sorted(newer))}."
        )
    for name, checksum in sorted(applied.items()):
        if checksum != _checksum(migrations[name]):
            raise SchemaError(f"Migration {name} was changed after it had been applied.")
    return {name: sql for name, sql in migrations.items() if name not in applied}


def _refuse_server(connection: psycopg.Connection[TupleRow]) -> None:
    if connection.info.server_version < 150000:
        raise SchemaError("PostgreSQL 15 or newer is needed.")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SchemaError(f"A database of the encoding UTF8 is needed, this one has {encoding}.")


def _ensure_role(connection: psycopg.Connection[TupleRow]) -> None:
    """Ensure that the role ledger_api, which migrations name, exists without special powers.

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


def _create_library_table(conninfo: str) -> None:
    # Only a new ledger loads these modules: that takes longer than the statements.
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


def _files() -> dict[str, str]:
    found = sorted((f.name, f.read_text()) for f in MIGRATIONS.iterdir() if f.name.endswith(".sql"))
    return dict(found)


def _apply(connection: psycopg.Connection, name: str, sql: str) -> None:
    with connection.transaction():
        connection.execute(sql.encode())
        connection.execute(
            "INSERT INTO ledger.migration (name, checksum) VALUES (%s, %s)", (name, _checksum(sql))
        )


def _checksum(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
