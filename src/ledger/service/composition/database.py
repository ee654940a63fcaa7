"""The database that every command needs first: up to date, and opened with the master key."""

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.log import walls
from ledger.log.migrate import migrate
from ledger.log.vault import Vault, load_master_key, parse_master_key
from ledger.postgres import locks
from ledger.postgres.session import is_pinned, pin
from ledger.sealing import shelf
from ledger.settings import Settings
from ledger.views.projector import register
from projections import projections

# The first process writes its master key's fingerprint; every later process compares its own.
_FINGERPRINT = """
INSERT INTO ledger.setting (name, value) VALUES ('master_key', %s) ON CONFLICT DO NOTHING
"""


class ConfigurationError(Exception):
    """The service cannot start like this; the message says why in one line."""


def prepare_database(settings: Settings, conninfo: str) -> str:
    """Prepare schema, views' tables, master key and signing key, before any worker starts.

    Return the connection string for all later connections: it also pins their session settings.

    Raises ConfigurationError, SchemaError, or psycopg.OperationalError if it is unreachable.
    """
    vault = open_vault(settings)
    conninfo = pin(conninfo)
    migrate(conninfo)
    register(conninfo, projections())
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        if not is_pinned(connection):
            raise ConfigurationError(
                "A connection pooler before the database drops the session settings: connect to"
                " PostgreSQL itself."
            )
        connection.execute(_FINGERPRINT, (vault.fingerprint,))
        row = connection.execute(
            "SELECT value FROM ledger.setting WHERE name = 'master_key'"
        ).fetchone()
        if row != (vault.fingerprint,):
            raise ConfigurationError(
                "The master key is not the key of this database: set LEDGER_MASTER_KEY or"
                " LEDGER_MASTER_KEY_FILE."
            )
        shelf.begin(connection, vault)
        _raise_walls(connection)
    return conninfo


def _raise_walls(connection: psycopg.Connection[TupleRow]) -> None:
    """Ensure the policies of the tables of migrations; ``register`` ensures those of views."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (locks.WALLS,))
        connection.execute("SET LOCAL lock_timeout = '5s'")
        walls.protect(connection)


def open_vault(settings: Settings) -> Vault:
    """The vault under the configured master key. Raises ConfigurationError for an unusable one."""
    return Vault(_master_key(settings))


def with_master_key(settings: Settings) -> Settings:
    """The settings with the master key itself, for processes that may not read its file.

    Raises ConfigurationError for an unusable key.
    """
    key = {"master_key": _master_key(settings).hex(), "master_key_file": None}
    return settings.model_copy(update=key)


def _master_key(settings: Settings) -> bytes:
    try:
        if settings.master_key is not None:
            return parse_master_key(settings.master_key)
        if settings.master_key_file is not None:
            # Never created: a new key in place of one that is missing would open no run.
            return parse_master_key(settings.master_key_file.read_text())
        return load_master_key(settings.data_dir / "master.key")
    except OSError as error:
        raise ConfigurationError(f"The master key cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(
            "The master key must be 64 hexadecimal digits (32 bytes)."
        ) from error
