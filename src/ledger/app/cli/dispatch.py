"""Runs each command of ``arguments.py``, with a prepared database if the command needs one.

This module is loaded once the arguments are valid. Each command loads its further code itself:
otherwise ``ledger keys list`` would wait for the web framework.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import psycopg
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ledger.app import Role
from ledger.app.cli.arguments import ShellCommand
from ledger.app.composition import database
from ledger.app.settings import Settings, unknown_settings
from ledger.engine.log.schema.migrate import SchemaError
from ledger.engine.postgres.embedded import (
    EmbeddedPostgresError,
    forget_other_servers,
    has_database,
    running,
)
from ledger.engine.values.errors import LedgerError
from ledger.engine.values.places import full_detail
from ledger.engine.values.values import escaped
from ledger.engine.views.rebuilding.shadow import CannotBuild


def dispatch(command: ShellCommand, arguments: Mapping[str, Any]) -> int:
    """Run the command; return the exit code. A refusal is one line on standard error."""
    if sys.stdout is None and command.name != "serve":
        return _fail("Standard output is closed.")
    try:
        for line in unknown_settings(os.environ):
            _announce(f"ledger: {line}")
        settings = Settings()
        if settings.database_url is None:
            forget_other_servers()
        code = _run(settings, command, arguments)
        print(end="", flush=True)
        return code
    except ValidationError as error:
        return _fail(f"These settings are not valid: {', '.join(map(_named, error.errors()))}.")
    except (CannotBuild, database.ConfigurationError, EmbeddedPostgresError, SchemaError) as error:
        return _fail(str(error))
    except LedgerError as error:
        return _fail(full_detail(error))
    except psycopg.Error as error:
        return _fail(f"The database cannot be used: {str(error).strip().splitlines()[0]}")
    except OSError as error:
        return _fail(_line_of(error))


def _named(fault: ErrorDetails) -> str:
    """The setting's name and what is allowed, never its value; without a name for several."""
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    return f"LEDGER_{str(fault['loc'][0]).upper()} ({message[:1].lower()}{message[1:]})"


def _line_of(error: OSError) -> str:
    """The line for an error of the system.

    If standard output cannot be written, it is discarded: Python would otherwise try again at exit.
    """
    # Pipes to child processes and sockets raise other errors, so a broken pipe is the output's.
    is_output = isinstance(error, BrokenPipeError)
    try:
        print(end="", flush=True)
    except OSError:
        is_output = True
        _discard(sys.stdout)
    return f"The output cannot be written: {error.strerror}." if is_output else str(error)


def _discard(stream: TextIO) -> None:
    """Send the stream's buffered and future output to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(line: str) -> int:
    _announce(f"ledger: {escaped(line)}")
    return 1


def _announce(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        # Standard error has no reader any more, as in ``ledger serve 2>&1 | head -1``: the command
        # goes on.
        _discard(sys.stderr)


def _run(settings: Settings, command: ShellCommand, arguments: Mapping[str, Any]) -> int:
    module, _, name = command.function.partition(":")
    function = getattr(import_module(f"ledger.app.cli.{module}"), name)
    if command.needs == "nothing":
        return int(function(settings, **arguments))
    with _address(settings, command.name, begins=command.needs == "to begin") as url:
        if command.needs in ("to write", "to begin"):
            url = database.prepare_database(settings, url)
        elif command.needs != "an address":
            url = database.inspect_database(settings, url, verifies=command.needs == "to verify")
        return int(function(settings, url, **arguments))


@contextmanager
def _address(settings: Settings, purpose: str, *, begins: bool = False) -> Iterator[str]:
    """The URL of the configured database, or of the embedded one, started unless it runs.

    Raises ConfigurationError without an embedded one, unless the command ``begins`` it: in a
    mistyped data directory, the result would be an empty ledger's.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    if not begins and not has_database(settings.data_dir):
        raise database.ConfigurationError(
            f"LEDGER_DATA_DIR ({settings.data_dir.absolute()}) is no data directory of a ledger."
        )
    if begins:
        database.configured_master_key(settings)  # no database is made for a key that is refused
    with running(settings.data_dir, purpose=purpose, announce=_announce) as postgres:
        yield postgres.url


def serve(settings: Settings, host: str, port: int, workers: int, role: Role) -> int:
    """Serve until a signal. No database is made for a master key that is refused."""
    from ledger.app import supervisor

    database.configured_master_key(settings)
    supervisor.serve(settings, host, port, workers, _announce, role=role)
    return 0


def migrate(settings: Settings) -> int:
    """Bring the schema up to date; print the names of the migrations that were applied."""
    from ledger.app.composition.database import admit_reads

    with _address(settings, "migrate", begins=True) as url:
        conninfo, applied = database.migrate_database(settings, url)
        admit_reads(settings, conninfo)
    print(*applied or ["No migration was due."], sep="\n")
    return 0


def import_facts(
    settings: Settings,
    file: str,
    map_file: str | None,
    origin: str | None,
    line: str | None,
    dry_run: bool,
) -> int:
    """Import a file of any format; a dry run neither needs nor makes a database."""
    from ledger.app.cli import load
    from ledger.app.cli.files import format_of

    form = format_of(map_file, origin, line)
    if dry_run:
        return load.try_import(file, form)
    with _address(settings, "import", begins=True) as url:
        return load.import_facts(settings, database.prepare_database(settings, url), file, form)


def restore(settings: Settings, file: str) -> int:
    """Restore a backup, once the master key is known to be the backup's."""
    from ledger.app.cli.backups import restore as backups

    backups.compare_master_key(settings, file)
    with _address(settings, "restore", begins=True) as url:
        return backups.restore(settings, url, file)
