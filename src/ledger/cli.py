"""The command line (contract 1): one command a function, no logic.

Exit codes: 0 done, 1 refused or failed with one clear line, 2 usage.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import psycopg
from pydantic import ValidationError

from ledger import __version__
from ledger.application.facts import MAX_ITEMS
from ledger.bootstrap import ConfigurationError, prepare_database
from ledger.domain.api_key import Permission
from ledger.domain.errors import LedgerError
from ledger.domain.values import ORGANIZATION_ID, WORKSPACE_ID
from ledger.projection.shadow import CannotBuild
from ledger.settings import Settings
from ledger.store.embedded import EmbeddedPostgresError, running
from ledger.store.migrate import SchemaError
from projections import projections

_VIEWS = tuple(view.name for view in projections())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``ledger`` command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        command: Callable[[Settings, argparse.Namespace], int] = parsed.command
        return command(Settings(), parsed)
    except ValidationError as error:
        names = ", ".join(f"LEDGER_{str(e['loc'][0]).upper()}" for e in error.errors())
        return _fail(f"These settings are not valid: {names}.")
    except (
        CannotBuild,
        ConfigurationError,
        EmbeddedPostgresError,
        SchemaError,
        LedgerError,
    ) as error:
        return _fail(str(error))
    except psycopg.Error as error:
        return _fail(f"The database cannot be used: {str(error).strip().splitlines()[0]}")
    except KeyboardInterrupt:
        return 130


def _fail(line: str) -> int:
    print(f"ledger: {line}", file=sys.stderr)
    return 1


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _database(settings: Settings, purpose: str) -> Iterator[str]:
    """A prepared database: the configured one, or the embedded one, running or started for this."""
    if settings.database_url is not None:
        prepare_database(settings, settings.database_url)
        yield settings.database_url
        return
    with running(settings.data_dir, purpose=purpose, announce=_announce) as postgres:
        prepare_database(settings, postgres.url)
        yield postgres.url


def _serve(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.serve import serve

    serve(settings, parsed.host, parsed.port, parsed.workers, _announce)
    return 0


def _demo(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.commands import load_demo

    with _database(settings, "demo") as conninfo:
        return load_demo(settings, conninfo)


def _import(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.commands import import_facts

    with _database(settings, "import") as conninfo:
        return import_facts(settings, conninfo, parsed.file, MAX_ITEMS)


def _keys_create(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.commands import create_key

    with _database(settings, "keys create") as conninfo:
        return create_key(
            settings,
            conninfo,
            name=parsed.name,
            organization_id=parsed.organization,
            workspace_id=parsed.workspace,
            permissions=("admin",) if parsed.admin else tuple(dict.fromkeys(parsed.permission)),
        )


def _keys_list(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.commands import list_keys

    with _database(settings, "keys list") as conninfo:
        return list_keys(conninfo)


def _keys_revoke(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.commands import revoke_key

    with _database(settings, "keys revoke") as conninfo:
        return revoke_key(settings, conninfo, parsed.id)


def _projections_list(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.view_commands import list_projections

    with _database(settings, "projections list") as conninfo:
        return list_projections(conninfo)


def _projections_rebuild(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.view_commands import rebuild

    with _database(settings, "projections rebuild") as conninfo:
        return rebuild(conninfo, parsed.names)


def _projections_verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from ledger.view_commands import verify

    with _database(settings, "projections verify") as conninfo:
        return verify(conninfo, parsed.names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ledger", description="The whole truth about work in progress."
    )
    parser.add_argument("--version", action="version", version=f"ledger {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run everything on this machine")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=_number(0, 65535), default=8000)
    serve.add_argument("--workers", type=_number(1, 64), default=1, metavar="N")
    serve.set_defaults(command=_serve)

    demo = commands.add_parser("demo", help="load a realistic story; print a token and an address")
    demo.set_defaults(command=_demo)

    load = commands.add_parser("import", help="record facts, one structured CloudEvent a line")
    load.add_argument("file", metavar="FILE", help="a file, or - for standard input")
    load.set_defaults(command=_import)

    _add_keys(commands.add_parser("keys", help="API keys").add_subparsers(required=True))

    views = commands.add_parser("projections", help="the views").add_subparsers(required=True)
    listing = views.add_parser("list", help="where each view stands")
    listing.set_defaults(command=_projections_list)
    for name, command, text in (
        ("rebuild", _projections_rebuild, "fill views anew beside the live ones, then swap"),
        ("verify", _projections_verify, "replay the log and name every row that differs"),
    ):
        one = views.add_parser(name, help=text)
        help_ = f"of {', '.join(_VIEWS)}; all where none is named"
        one.add_argument("names", nargs="*", type=_view, metavar="NAME", help=help_)
        one.set_defaults(command=command)
    return parser


def _add_keys(keys: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    create = keys.add_parser("create", help="print a new key, once")
    create.add_argument("--organization", type=_identifier(ORGANIZATION_ID), metavar="ORG-…")
    create.add_argument("--workspace", type=_identifier(WORKSPACE_ID), metavar="WS-…")
    create.add_argument("--name", metavar="N")
    create.add_argument(
        "--permission",
        nargs="+",
        action="extend",
        choices=[p for p in get_args(Permission) if p != "admin"],
        metavar="P",
        help="may be repeated and takes several",
    )
    create.add_argument("--admin", action="store_true", help="everything, everywhere")
    create.set_defaults(command=_checked(create))
    keys.add_parser("list", help="ids and names, never the keys").set_defaults(command=_keys_list)
    revoke = keys.add_parser("revoke", help="take a key back")
    revoke.add_argument("id", metavar="ID")
    revoke.set_defaults(command=_keys_revoke)


def _checked(
    create: argparse.ArgumentParser,
) -> Callable[[Settings, argparse.Namespace], int]:
    """``keys create`` once its options fit together; otherwise a usage error."""

    def command(settings: Settings, parsed: argparse.Namespace) -> int:
        tenant = parsed.organization or parsed.workspace
        if parsed.admin and (parsed.permission or tenant):
            create.error("--admin goes without --organization, --workspace and --permission")
        if not parsed.admin and not (parsed.organization and parsed.permission):
            create.error("--organization and --permission are needed (or --admin)")
        return _keys_create(settings, parsed)

    return command


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low} to {high}")
        return int(text)

    return parse


def _view(text: str) -> str:
    if text not in _VIEWS:
        raise argparse.ArgumentTypeError(f"is none of {', '.join(_VIEWS)}")
    return text


def _identifier(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError("is not an id of that kind")
        return text

    return parse
