"""The command ``ledger restore``: a backup into an empty database, then compared with its log."""

import os
import sys
from collections.abc import Callable
from subprocess import DEVNULL, PIPE
from typing import IO

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.app.cli import verify as log
from ledger.app.cli import views
from ledger.app.cli.input import opened
from ledger.app.cli.printing import ShowProgress, progress_bars
from ledger.app.composition import database
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.schema.migrate import refuse_older
from ledger.engine.log.vault import Vault
from ledger.engine.postgres.session import pin
from ledger.engine.postgres.tools import ToolFailed, running_tool
from ledger.engine.views.rebuilding.shadow import connect, is_outdated

_CHUNK = 1 << 18
_MB = 1 << 20

_FIRST_FOREIGN_VERSION = 170_000
_FOREIGN = b"SET transaction_timeout = 0;\n"
"""A statement at the head of each script, which servers before PostgreSQL 17 do not know."""

# Objects of extensions, such as pg_stat_statements, are in each new database of some servers.
_HELD = """
SELECT format('%s %s', what, name) FROM (
    SELECT 'the schema' AS what, nspname AS name FROM pg_namespace WHERE nspname = 'ledger'
    UNION ALL
    SELECT 'the table', c.oid::regclass::text FROM pg_class AS c
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace::regnamespace::text NOT LIKE 'pg\\_%'
        AND c.relnamespace <> 'information_schema'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_depend AS d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
) AS held LIMIT 1
"""

# Without the grants of the dump, everybody might execute every function.
_LAST = b"""
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
COMMIT;
"""

# Sessions that ended since the backup would go on.
_END_SESSIONS = "DELETE FROM ledger.session"

_END = "SELECT max(notification_id), max(recorded_at) FROM ledger.ledger_events"


def compare_master_key(settings: Settings, file: str) -> None:
    """Compare the master key with the backup's, before anything is created.

    Raises ConfigurationError if the key is missing or another one, or the file is no backup, and
    SchemaError if it is a backup of a version before 0.1.0.
    """
    key, stored = database.configured_master_key(settings), _settings_in(file)
    if "master_key" not in stored:
        raise database.ConfigurationError(f"{file} is not a backup of a ledger.")
    refuse_older({name: checksum for name, checksum in stored.items() if name.endswith(".sql")})
    if key is None:
        raise database.ConfigurationError(
            f"The master key of the backup is not known here: put it into {settings.key_file}, or"
            " set LEDGER_MASTER_KEY or LEDGER_MASTER_KEY_FILE."
        )
    if Vault(key).fingerprint != stored["master_key"]:
        raise database.ConfigurationError("The master key is not the key of this backup.")


def _settings_in(file: str) -> dict[str, str]:
    """The settings in a backup with their values, and the migrations with their checksums."""
    tables = ("--table=setting", "--table=migration")
    options = ("--data-only", "--schema=ledger", *tables, "--file=-")
    try:
        with opened(file) as (stream, _), running_tool("pg_restore", *options, stdin=stream) as run:
            assert run.stdout is not None
            rows = [line.split("\t") for line in run.stdout.read().decode().splitlines()]
    except ToolFailed as error:
        raise database.ConfigurationError(f"{file} cannot be read as a backup: {error}.") from error
    return {row[0]: row[1] for row in rows if len(row) > 1}


def restore(settings: Settings, conninfo: str, file: str) -> int:
    """Restore a backup in one transaction; return 1 if it differs from its log.

    Raises ConfigurationError, after which the database is as empty as before.
    """
    conninfo = pin(conninfo)
    with (
        psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection,
        opened(file) as (stream, size),
        progress_bars("Restoring", ["the ledger, in MB"]) as bars,
    ):
        _refuse_full(connection)
        is_older = connection.info.server_version < _FIRST_FOREIGN_VERSION
        progress = _progress_of(stream, size, *bars.values())
        try:
            _load(conninfo, stream, _FOREIGN if is_older else b"", progress)
        except ToolFailed as error:
            raise database.ConfigurationError(f"Nothing was restored: {error}.") from error
        connection.execute("ANALYZE")
        position, recorded_at = connection.execute(_END).fetchone() or (None, None)
    conninfo, _ = database.migrate_database(settings, conninfo)
    database.admit_reads(settings, conninfo)
    with connect(conninfo) as connection:
        connection.execute(_END_SESSIONS)
        outdated = [view.name for view in projections() if is_outdated(connection, view)]
    if outdated:
        views.rebuild(settings, conninfo, outdated)
    content = (
        "no event"
        if position is None
        else f"events up to {position}, of {recorded_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    print(f"Restored {file}, with {content}. Comparing it with its log:", file=sys.stderr)
    # Even where a start would refuse the schema: the differences must be named.
    inspected = database.inspect_database(settings, conninfo, verifies=True)
    codes = [log.verify(settings, inspected), views.verify(settings, inspected, [])]
    print(_next_steps(any(codes)), file=sys.stderr)
    return max(codes)


def _next_steps(differs: bool) -> str:
    found = (
        "It DIFFERS, as the lines above say. (Where a file below sealed/ is named, this node has"
        " seen events signed that the backup does not have.)"
        if differs
        else "It does not differ."
    )
    return (
        f"{found}\nGo on as docs/operating.md, Restore, says: start the nodes with this master key"
        " and with their data directories, look at `ledger seal status`, erase again what was"
        " erased since the backup, and let reporters send again what they sent since."
    )


def _refuse_full(connection: psycopg.Connection[TupleRow]) -> None:
    row = connection.execute(_HELD).fetchone()
    if row is not None:
        raise database.ConfigurationError(
            f"The database is not empty, it has {row[0]}: a backup is restored into an empty one."
        )


def _progress_of(stream: IO[bytes], size: int | None, show: ShowProgress) -> Callable[[], None]:
    """A function that shows how much of the file was read: its reader shares our position in it."""
    return lambda: show(os.lseek(stream.fileno(), 0, os.SEEK_CUR) // _MB, (size or 0) // _MB)


def _load(conninfo: str, stream: IO[bytes], left_out: bytes, progress: Callable[[], None]) -> None:
    """Execute the backup's statements in one transaction. Raises ToolFailed.

    The last statement commits, once the whole file was read well. So nothing is committed where
    psql's input ends because this process was killed.
    """
    options = ("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--output={os.devnull}")
    reading = ("--no-owner", "--no-acl", "--no-tablespaces", "--file=-")
    with running_tool("psql", *options, conninfo=conninfo, stdin=PIPE, stdout=DEVNULL) as psql:
        assert psql.stdin is not None
        psql.stdin.write(b"BEGIN;\n")
        with running_tool("pg_restore", *reading, stdin=stream) as archive:
            assert archive.stdout is not None
            head = archive.stdout.read(_CHUNK)
            psql.stdin.write(head.replace(left_out, b"", 1) if left_out else head)
            while chunk := archive.stdout.read(_CHUNK):
                psql.stdin.write(chunk)
                progress()
        psql.stdin.write(_LAST)
