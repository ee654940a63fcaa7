"""The database that every command needs first: up to date, opened, and with its logins."""

import logging
import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow, tuple_row

from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.schema import walls
from ledger.engine.log.schema.migrate import (
    SchemaError,
    applied_in,
    migrate,
    refuse_older,
    refuse_outdated,
)
from ledger.engine.log.schema.reader import (
    BadReader,
    Reader,
    admit,
    compare,
    find_reader,
    reader_at,
    refuse_unadmitted,
    tidy,
)
from ledger.engine.log.vault import Vault, load_master_key, parse_master_key
from ledger.engine.postgres import locks
from ledger.engine.postgres.session import is_pinned, options_of, pin
from ledger.engine.views.definitions import Differing
from ledger.engine.views.definitions import compare as compare_definitions
from ledger.engine.views.mending import MENDED, mend
from ledger.engine.views.rebuilding.shadow import live_generations
from ledger.engine.views.registration import is_registered, register
from ledger.engine.views.schema import grant
from ledger.features.proof.tables import SCHEMA, Difference, Finding, as_named, findings, keep

# The first process writes its master key's fingerprint; every later process compares its own.
_FINGERPRINT = """
INSERT INTO ledger.setting (name, value) VALUES ('master_key', %s) ON CONFLICT DO NOTHING
"""

_STORED_FINGERPRINT = "SELECT value FROM ledger.setting WHERE name = 'master_key'"

_READ_ONLY = "-c default_transaction_read_only=on"

_logger = logging.getLogger(__name__)


class ConfigurationError(Exception):
    """The service cannot start like this; the message says why in one line."""


def prepare_database(settings: Settings, conninfo: str) -> str:
    """Prepare schema, views' tables and master key, before any worker starts.

    Returns the connection string for all later connections, which also pins their session settings.
    With ``LEDGER_MIGRATE=never`` the schema is only compared, and nothing needs a right to change
    it. Raises ConfigurationError, SchemaError, or psycopg.OperationalError if it is unreachable.
    """
    conninfo = pin(conninfo)
    with _connected(conninfo) as connection:
        _refuse_foreign(settings, connection)
        vault = open_vault(settings)
        if settings.migrate == "auto":
            _bring_up_to_date(settings, connection, conninfo)
        if settings.migrate == "never":
            refuse_old_schema(connection)
        connection.execute(_FINGERPRINT, (vault.fingerprint,))
        _compare_key(connection, vault)
        if settings.migrate == "auto":
            _ensure_policies(connection)
    return conninfo


def migrate_database(settings: Settings, conninfo: str) -> tuple[str, list[str]]:
    """Bring the schema up to date: tables, views' tables and policies, and nothing else.

    Returns the connection string, and the names of the migrations that were applied. Raises as
    ``prepare_database`` does. It refuses a ledger that is too old, or of another master key, before
    any change.
    """
    conninfo = pin(conninfo)
    with _connected(conninfo) as connection:
        _refuse_foreign(settings, connection)
        applied = _bring_up_to_date(settings, connection, conninfo)
        _ensure_policies(connection)
    return conninfo, applied


def inspect_database(
    settings: Settings, conninfo: str, *, serves: bool = False, verifies: bool = False
) -> str:
    """Compare what ``prepare_database`` prepares, and write nothing: works on a standby too.

    Returns a connection string whose sessions only read. The master key is compared if it is
    available; a node that ``serves`` needs it. A command that ``verifies`` names differences from
    the code itself. Raises as ``prepare_database`` does.
    """
    key = _require_key(settings) if serves else configured_master_key(settings)
    conninfo = pin(conninfo)
    conninfo = make_conninfo(conninfo, options=options_of(conninfo, _READ_ONLY))
    with _connected(conninfo) as connection:
        if verifies:
            refuse_outdated(connection)
        else:
            refuse_old_schema(connection)
        if key is not None:
            _compare_key(connection, Vault(key))
    return conninfo


def refuse_old_schema(connection: psycopg.Connection[TupleRow]) -> None:
    """Raise SchemaError unless a start would change nothing in the schema."""
    refuse_outdated(connection)
    if not is_registered(connection, projections()):
        raise SchemaError("The schema is not up to date: run `ledger migrate`.")
    for each in compare_definitions(connection, projections()).differing:
        if each.kind in MENDED and each.right is None:
            raise SchemaError(
                f"The schema is not as this version makes it ({each}): run `ledger migrate`."
            )


def _bring_up_to_date(
    settings: Settings, connection: psycopg.Connection[TupleRow], conninfo: str
) -> list[str]:
    tidy(connection, settings.api_database_url)
    applied = migrate(conninfo)
    if applied:
        _ensure_policies(connection)
    _mend(connection, is_upgrade=bool(applied))
    if not is_registered(connection, projections(), by_this_version=True):
        register(conninfo, projections())
    return applied


def _mend(connection: psycopg.Connection[TupleRow], *, is_upgrade: bool) -> None:
    """Restore the definitions of the schema; log and store the differences.

    In an upgrade some are those of the previous version: nobody need have altered them.
    """
    started_at = datetime.now(UTC)
    mended = mend(connection, projections())
    if mended.made:
        _logger.log(
            logging.INFO if is_upgrade else logging.ERROR,
            "the schema was not as this version makes it, and was mended: %s",
            _listed(mended.made),
        )
    if mended.left:
        _logger.error("the schema is not as this version makes it: %s", _listed(mended.left))
    before = findings(connection).get(SCHEMA)
    if mended.left or (before is not None and before.differences):
        named = as_named([*map(Difference.of_object, mended.left)])
        found = mended.objects, len(mended.left), named
        keep(connection, Finding(SCHEMA, started_at, datetime.now(UTC), 0, 0, *found))


def _listed(differences: Sequence[Differing]) -> str:
    return "; ".join(map(str, differences))


def _connected(conninfo: str) -> psycopg.Connection[TupleRow]:
    """A connection whose session settings are pinned. Raises ConfigurationError."""
    connection = psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row)
    if not is_pinned(connection):
        connection.close()
        raise ConfigurationError(
            "A connection pooler before the database drops the session settings: connect to"
            " PostgreSQL itself."
        )
    return connection


def _refuse_foreign(settings: Settings, connection: psycopg.Connection[TupleRow]) -> None:
    """Raise SchemaError if the ledger is too old, ConfigurationError if its key is missing.

    Nothing is changed: a new key in place of a lost one would open no run.
    """
    refuse_older(applied_in(connection))
    is_begun = connection.execute("SELECT to_regclass('ledger.setting')").fetchone() != (None,)
    if is_begun and connection.execute(_STORED_FINGERPRINT).fetchone() is not None:
        _compare_key(connection, Vault(_require_key(settings)))


def _compare_key(connection: psycopg.Connection[TupleRow], vault: Vault) -> None:
    """Raise ConfigurationError if the database belongs to another master key."""
    row = connection.execute(_STORED_FINGERPRINT).fetchone()
    if row is not None and row != (vault.fingerprint,):
        raise ConfigurationError(
            "The master key is not the key of this database: set LEDGER_MASTER_KEY or"
            " LEDGER_MASTER_KEY_FILE."
        )


def _ensure_policies(connection: psycopg.Connection[TupleRow]) -> None:
    """Ensure the policies of the tables of migrations; ``register`` ensures those of views."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (locks.POLICIES,))
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


def configured_master_key(settings: Settings) -> bytes | None:
    """The configured master key; None where a start would create one. Creates nothing.

    Raises ConfigurationError for an unusable key.
    """
    is_named = settings.master_key is not None or settings.master_key_file is not None
    return _master_key(settings) if is_named or _own_file(settings).exists() else None


def _require_key(settings: Settings) -> bytes:
    key = configured_master_key(settings)
    if key is None:
        raise ConfigurationError(
            "The master key is not known here: set LEDGER_MASTER_KEY or LEDGER_MASTER_KEY_FILE."
        )
    return key


def _own_file(settings: Settings) -> Path:
    return settings.data_dir / "master.key"


def _master_key(settings: Settings) -> bytes:
    try:
        if settings.master_key is not None:
            return parse_master_key(settings.master_key)
        if settings.master_key_file is not None:
            # Never created: a new key in place of a missing one would open no run.
            _refuse_exposed(settings.master_key_file)
            return parse_master_key(settings.master_key_file.read_text())
        key = load_master_key(_own_file(settings))
        _refuse_exposed(_own_file(settings))
        return key
    except OSError as error:
        raise ConfigurationError(f"The master key cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(
            "The master key must be 64 hexadecimal digits (32 bytes)."
        ) from error


def _refuse_exposed(file: Path) -> None:
    """Raise ConfigurationError if others than the file's owner may use it.

    Where root owns the file, its group may read it. So the service, which runs as another user,
    gets a file that it cannot change (systemd's credentials, mounted secrets).
    """
    found = file.stat()
    others = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0 and os.geteuid() != 0:
        others &= ~stat.S_IRGRP
    if stat.S_ISREG(found.st_mode) and found.st_mode & others:
        raise ConfigurationError(
            f"Others than its owner may use the master key's file {file}: run `chmod 600` on it."
        )


# A rebuild locks its view's row while it grants rights on the new generation. It would otherwise
# meet, in another order, the rights that a start grants and revokes.
_KEEP_GENERATIONS = b"LOCK TABLE ledger.projection IN EXCLUSIVE MODE"


def prepare_all(
    settings: Settings, conninfo: str, announce: Callable[[str], None]
) -> tuple[str, str]:
    """Prepare the database; return the connection strings of the node and of its reads."""
    conninfo = prepare_database(settings, conninfo)
    return conninfo, prepare_reading(settings, conninfo, announce)


def find_all(settings: Settings, conninfo: str, announce: Callable[[str], None]) -> tuple[str, str]:
    """As ``prepare_all``, for a read node: compare what another node has prepared."""
    conninfo = inspect_database(settings, conninfo, serves=True)
    return conninfo, find_reading(settings, conninfo, announce)


def prepare_reading(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """Prepare the role of the API's reads; return the connection string of reads.

    ``conninfo`` comes from ``prepare_database``. ``announce`` gets one line if reads have no login
    of their own. With ``LEDGER_MIGRATE=never`` the role is only looked up. Raises
    ConfigurationError, or psycopg.OperationalError if the database is away.
    """
    if settings.migrate == "never":
        return find_reading(settings, conninfo, announce)
    return admit_reads(settings, conninfo, announce)


def admit_reads(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """As ``prepare_reading``, whatever ``LEDGER_MIGRATE`` says: give the role its rights."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.POLICIES,))
        try:
            reader = _reader(connection, settings, conninfo)
            with connection.transaction():
                connection.execute(_KEEP_GENERATIONS)
                live = [*live_generations(connection, projections())]
                with connection.pipeline():
                    admit(connection, reader)
                    for view, generation in live:
                        grant(connection, view.tables, generation, reader.role)
            if settings.api_database_url is not None:
                compare(connection, reader)
        except BadReader as error:
            raise ConfigurationError(_refusal(settings, str(error))) from error
        except psycopg.errors.UndefinedObject as error:
            reason = "The role of reads is not known to the database"
            raise ConfigurationError(_refusal(settings, reason)) from error
    _tell_of_weakness(reader, announce)
    return reader.conninfo


def find_reading(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """Find the role of the API's reads as ``prepare_reading`` left it; write nothing.

    Works on a standby. Raises as ``prepare_reading`` does.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        try:
            reader = _reader(connection, settings, conninfo, makes=False)
            refuse_unadmitted(connection, reader)
            compare(connection, reader)
        except BadReader as error:
            raise ConfigurationError(_refusal(settings, str(error))) from error
    _tell_of_weakness(reader, announce)
    return reader.conninfo


def _tell_of_weakness(reader: Reader, announce: Callable[[str], None] | None) -> None:
    if reader.weakness is not None and announce is not None:
        announce(
            f"Reads use the login of the database's user ({reader.weakness}): docs/operating.md,"
            " The login of reads, has the SQL of a role of their own."
        )


def _reader(
    connection: psycopg.Connection[tuple[object, ...]],
    settings: Settings,
    conninfo: str,
    *,
    makes: bool = True,
) -> Reader:
    if settings.api_database_url is None:
        password_of = open_vault(settings).password_of
        return find_reader(connection, conninfo, password_of, makes=makes)
    try:
        return reader_at(pin(settings.api_database_url))
    except psycopg.OperationalError as error:
        raise BadReader(f"Reads cannot log in: {str(error).strip().splitlines()[-1]}") from error


def _refusal(settings: Settings, reason: str) -> str:
    name = "LEDGER_DATABASE_URL" if settings.api_database_url is None else "LEDGER_API_DATABASE_URL"
    return f"{name}: {reason}. See docs/operating.md, The login of reads."
