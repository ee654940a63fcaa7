"""Runs each command of ``arguments.py``, with a prepared database if the command needs one.

This module is loaded once the arguments are valid. Each command loads its further code itself:
otherwise ``ledger keys list`` would wait for the web framework.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import TextIO

import psycopg
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ledger.domain.errors import LedgerError
from ledger.domain.values import escaped
from ledger.intake.places import full_detail
from ledger.log.migrate import SchemaError
from ledger.postgres.embedded import (
    EmbeddedPostgresError,
    forget_other_servers,
    has_database,
    running,
)
from ledger.service.composition.database import (
    ConfigurationError,
    inspect_database,
    known_master_key,
    migrate_database,
    prepare_database,
)
from ledger.settings import Settings, unknown_settings
from ledger.views.shadow import CannotBuild


def dispatch(parsed: argparse.Namespace) -> int:
    """Run the parsed command; return the exit code. A refusal is one line on standard error."""
    if sys.stdout is None and parsed.action != "serve":
        return _fail("Standard output is closed.")
    try:
        for line in unknown_settings(os.environ):
            _announce(f"ledger: {line}")
        settings = Settings()
        if settings.database_url is None:
            forget_other_servers()
        code = _ACTIONS[parsed.action](settings, parsed)
        print(end="", flush=True)
        return code
    except ValidationError as error:
        return _fail(f"These settings are not valid: {', '.join(map(_named, error.errors()))}.")
    except (
        CannotBuild,
        ConfigurationError,
        EmbeddedPostgresError,
        SchemaError,
    ) as error:
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

    If standard output cannot be written, the output is discarded: Python would otherwise try to
    write it again at the exit.
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


@contextmanager
def _database(settings: Settings, purpose: str, *, begins: bool = False) -> Iterator[str]:
    """A prepared database, which the command may begin if it ``begins`` a ledger."""
    with _address(settings, purpose, begins=begins) as url:
        yield prepare_database(settings, url)


@contextmanager
def _seen(settings: Settings, purpose: str, *, verifies: bool = False) -> Iterator[str]:
    """A database that the command only reads: nothing is written, so it may be a standby."""
    with _address(settings, purpose) as url:
        yield inspect_database(settings, url, verifies=verifies)


@contextmanager
def _address(settings: Settings, purpose: str, *, begins: bool = False) -> Iterator[str]:
    """The address of the configured database, or of the embedded one, started unless it runs.

    Raises ConfigurationError if there is no embedded one, unless the command ``begins`` it: in a
    mistyped data directory, the answer would be that of an empty ledger.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    if not begins and not has_database(settings.data_dir):
        raise ConfigurationError(
            f"LEDGER_DATA_DIR ({settings.data_dir.absolute()}) is no data directory of a ledger."
        )
    if begins:
        known_master_key(settings)  # no database is made for a key that is refused
    with running(settings.data_dir, purpose=purpose, announce=_announce) as postgres:
        yield postgres.url


def _serve(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.service.supervisor import serve

    known_master_key(settings)  # no database is made for a key that is refused
    serve(settings, parsed.host, parsed.port, parsed.workers, _announce, role=parsed.role)
    return 0


def _migrate(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.service.composition.reading import admit_reads

    with _address(settings, "migrate", begins=True) as url:
        conninfo, applied = migrate_database(settings, url)
        admit_reads(settings, conninfo)
        for name in applied:
            print(name)
        if not applied:
            print("No migration was due.")
    return 0


def _demo(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.load import load_demo

    with _database(settings, "demo", begins=True) as conninfo:
        return load_demo(settings, conninfo)


def _import(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.line_parser import parsing
    from ledger.cli.load import import_facts

    with parsing() as parser, _database(settings, "import", begins=True) as conninfo:
        return import_facts(settings, conninfo, parsed.file, parser)


def _keys_create(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.keys import create_key

    with _database(settings, "keys create", begins=True) as conninfo:
        return create_key(
            settings,
            conninfo,
            name=parsed.name,
            organization_id=parsed.organization,
            workspace_id=parsed.workspace,
            permissions=("admin",) if parsed.admin else tuple(dict.fromkeys(parsed.permission)),
            expires_at=parsed.expires_at,
        )


def _keys_list(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.keys import list_keys

    with _seen(settings, "keys list") as conninfo:
        return list_keys(conninfo, as_json=parsed.json)


def _keys_rotate(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.keys import rotate_key

    with _database(settings, "keys rotate") as conninfo:
        return rotate_key(settings, conninfo, parsed.id, timedelta(seconds=parsed.grace_seconds))


def _keys_revoke(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.keys import revoke_key

    with _database(settings, "keys revoke") as conninfo:
        return revoke_key(settings, conninfo, parsed.id)


def _projections_list(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.views import list_projections

    with _seen(settings, "projections list") as conninfo:
        return list_projections(conninfo, as_json=parsed.json)


def _projections_rebuild(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.views import rebuild

    with _database(settings, "projections rebuild") as conninfo:
        return rebuild(conninfo, parsed.names)


def _projections_verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.views import verify

    with _seen(settings, "projections verify") as conninfo:
        return verify(conninfo, parsed.names)


def _runs_erase(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.erasures import erase_again

    with _database(settings, "runs erase") as conninfo:
        return erase_again(settings, conninfo, parsed.from_audit)


def _seal_status(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.seal import show_status

    with _seen(settings, "seal status") as conninfo:
        return show_status(conninfo, as_json=parsed.json)


def _seal_adopt(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.seal import adopt_log

    with _database(settings, "seal adopt") as conninfo:
        return adopt_log(settings, conninfo, parsed.reason)


def _verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.verify import verify

    with _seen(settings, "verify", verifies=True) as conninfo:
        return verify(settings, conninfo)


def _backup(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.backup import back_up

    with _address(settings, "backup") as url:
        return back_up(settings, url, parsed.file)


def _restore(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.cli.restore import compare_master_key, restore

    compare_master_key(settings, parsed.file)
    with _address(settings, "restore", begins=True) as url:
        return restore(settings, url, parsed.file)


_ACTIONS: Mapping[str, Callable[[Settings, argparse.Namespace], int]] = MappingProxyType(
    {
        "serve": _serve,
        "demo": _demo,
        "import": _import,
        "migrate": _migrate,
        "keys create": _keys_create,
        "keys list": _keys_list,
        "keys rotate": _keys_rotate,
        "keys revoke": _keys_revoke,
        "projections list": _projections_list,
        "projections rebuild": _projections_rebuild,
        "projections verify": _projections_verify,
        "runs erase": _runs_erase,
        "seal status": _seal_status,
        "seal adopt": _seal_adopt,
        "verify": _verify,
        "backup": _backup,
        "restore": _restore,
    }
)
