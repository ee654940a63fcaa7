"""The commands (contract, Command line), each described once. ``dispatch.py`` runs them.

Exit codes: 0 done, 1 refused or failed with one clear line, 2 usage, 130 interrupted by Ctrl-C.

Help and usage errors come at once: this module loads no code that only a running command needs.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

from ledger import __version__
from ledger.app import ROLES
from ledger.engine.values.values import (
    LINE_ID,
    ORGANIZATION_ID,
    TEXT,
    WORKSPACE_ID,
    is_plain,
    parse_bound,
)
from ledger.features.keys.model import GRACE, LONGEST_GRACE, SINGLE_PERMISSIONS

_LONGEST_REASON = 500
"""The most characters of the reason why an operator adopts the log."""

Needs = Literal["nothing", "an address", "to read", "to verify", "to write", "to begin"]
"""Why a command gets a database, if it does. A command that may begin a ledger creates a missing
embedded database. Before one that writes, the schema is brought up to date."""

_Argument = tuple[tuple[str, ...], Mapping[str, Any]]


class ShellCommand:
    """A command of the shell."""

    def __init__(
        self,
        name: str,
        help: str,
        function: str,
        needs: Needs,
        *arguments: _Argument,
        fault: Callable[[argparse.Namespace], str | None] = lambda _: None,
    ) -> None:
        """The ``function`` is ``module:function`` below ``ledger.app.cli``. Its parameters are the
        settings, the database if the command needs it, and the arguments by their names; its result
        is the exit code. The ``fault`` is the usage error of arguments that exclude each other.
        """
        self.name, self.help, self.function, self.needs = name, help, function, needs
        self.arguments, self.fault = arguments, fault


def main(arguments: Sequence[str] | None = None) -> int:
    _occupy_closed_streams()
    parsed = vars(_parser().parse_args(arguments))
    command, parser = parsed.pop("command"), parsed.pop("parser")
    fault = command.fault(argparse.Namespace(**parsed))
    if fault is not None:
        parser.error(fault)
    try:
        from ledger.app.cli.dispatch import dispatch

        return dispatch(command, parsed)
    except KeyboardInterrupt:
        return 130


def _occupy_closed_streams() -> None:
    """Open the null device in the place of each standard stream that is closed.

    Otherwise the next opened file would get the stream's number. If the event loop opens that file,
    its process ends; if it is the lock that PostgreSQL inherits, PostgreSQL's log replaces the
    lock.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        # Without this, text for standard error would go to standard output.
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ledger", description="The whole truth about work in progress."
    )
    parser.add_argument("--version", action="version", version=f"ledger {__version__}")
    rooms = {"": parser.add_subparsers(required=True, metavar="COMMAND")}
    for command in COMMANDS:
        room, _, name = command.name.rpartition(" ")
        if room not in rooms:
            group = rooms[""].add_parser(room, help=GROUPS[room])
            rooms[room] = group.add_subparsers(required=True)
        one = rooms[room].add_parser(name, help=command.help)
        for flags, options in command.arguments:
            one.add_argument(*flags, **options)
        one.set_defaults(command=command, parser=one)
    return parser


def _fault_of_new_key(parsed: argparse.Namespace) -> str | None:
    tenant = parsed.organization or parsed.workspace
    if parsed.admin and (parsed.permission or tenant):
        return "--admin excludes --organization, --workspace and --permission"
    if not parsed.admin and not (parsed.organization and parsed.permission):
        return "--organization and --permission are required (or --admin)"
    return None


def _fault_of_import(parsed: argparse.Namespace) -> str | None:
    if parsed.origin is parsed.map_file is parsed.line is None:
        return None
    # The models of facts read a map, and take a third of a second to load.
    from ledger.app.cli.files import fault_of

    return fault_of(parsed)


def _instant(text: str) -> datetime:
    try:
        return parse_bound(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _text(text: str) -> str:
    # Bytes that are not UTF-8 come from the shell as lone surrogates, which cannot be stored.
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError("is not UTF-8")
    return text


def _label(text: str) -> str:
    if not is_plain(text):
        raise argparse.ArgumentTypeError("must not have control characters")
    return _text(text)


def _reason(text: str) -> str:
    if not 1 <= len(text.strip()) <= _LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"must have 1 to {_LONGEST_REASON} characters")
    if not is_plain(text, TEXT):
        raise argparse.ArgumentTypeError("must not have control characters but tabs and line ends")
    return _text(text)


def _host(text: str) -> str:
    # The system takes an empty host for every address. More likely a shell variable was not set.
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return _text(text)


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a number from {low} to {high}")
        return int(text)

    return parse


def _view(text: str) -> str:
    from ledger.app.features import projections

    names = [view.name for view in projections()]
    if text not in names:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)}")
    return text


def _identifier(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError("is not an id of that kind")
        return text

    return parse


def _argument(*flags: str, **options: Any) -> _Argument:
    return flags, options


def _file(what: str) -> _Argument:
    return _argument("file", metavar="FILE", help=f"a file, {what}")


_JSON = _argument("--json", dest="as_json", action="store_true", help="print JSON")
_KEY = _argument("key_id", type=_text, metavar="ID", help="the key's id, as keys list shows it")
_MAP_HELP = "which column of a CSV file is which field, or the lines of deployments"
_AUDIT_HELP = "an audit export as JSON lines, or - for standard input"
_GRACE_HELP = "how long the replaced secret still works, %(default)s unless given"
_PERMISSIONS_HELP = f"may be repeated and takes several: {', '.join(SINGLE_PERMISSIONS)}"
_REASON_HELP = f"recorded for good, at most {_LONGEST_REASON} characters"
_VIEWS_HELP = "a view, as `projections list` shows it; all views if none is named"
_VIEWS = _argument("names", nargs="*", type=_view, metavar="NAME", help=_VIEWS_HELP)

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "keys": "API keys",
        "persons": "names of persons",
        "runs": "runs",
        "projections": "the views",
        "seal": "signing",
    }
)
"""The help of the words that begin several commands."""

COMMANDS = (
    ShellCommand(
        "serve", "run everything on this machine", "dispatch:serve", "nothing",
        _argument("--host", type=_host, default="127.0.0.1", help="%(default)s unless given"),
        _argument("--port", type=_number(0, 65535), default=8000,
                  help="%(default)s unless given; 0: any"),
        _argument("--workers", type=_number(1, 64), default=1, metavar="N",
                  help="processes that answer requests, %(default)s unless given"),
        _argument("--role", choices=ROLES, default="all",
                  help="what runs on this node, %(default)s unless given: api answers requests and"
                  " leads no loop, loops answers probes only, read takes GETs only")),
    ShellCommand(
        "demo", "load a realistic story; print a token and an address",
        "load:load_demo", "to begin"),
    ShellCommand(
        "import", "record facts, one structured CloudEvent a line, or CSV with --map",
        "dispatch:import_facts", "nothing", _file("or - for standard input"),
        _argument("--map", dest="map_file", metavar="FILE.toml", help=_MAP_HELP),
        _argument("--from", dest="origin", choices=("prefect",),
                  help="FILE has flow runs, as Prefect's API gives them, one a line"),
        _argument("--line", type=_identifier(LINE_ID), metavar="LIN-…",
                  help="the line of the flow runs whose deployment the map does not have"),
        _argument("--dry-run", action="store_true",
                  help="record nothing: show the first ten facts, and all that is not valid"),
        fault=_fault_of_import),
    ShellCommand(
        "backup", "write the database to a file, while it serves",
        "backups.backup:back_up", "an address", _file("or - for standard output")),
    ShellCommand(
        "restore", "fill an empty database from a backup; verify it",
        "dispatch:restore", "nothing", _file("as `ledger backup` wrote it")),
    ShellCommand(
        "keys create", "create a key and print it, once", "keys:create_key", "to begin",
        _argument("--organization", type=_identifier(ORGANIZATION_ID), metavar="ORG-…",
                  help="the organization that the key has access to"),
        _argument("--workspace", type=_identifier(WORKSPACE_ID), metavar="WS-…",
                  help="only this workspace of the organization"),
        _argument("--name", type=_label, metavar="N", help="a name, shown by keys list"),
        _argument("--permission", nargs="+", action="extend", choices=SINGLE_PERMISSIONS,
                  metavar="P", help=_PERMISSIONS_HELP),
        _argument("--admin", action="store_true",
                  help="allow everything, in all organizations"),
        _argument("--expires-at", type=_instant, metavar="T",
                  help="refuse the key from this instant on (RFC 3339, or a date meaning 00:00Z)"),
        fault=_fault_of_new_key),
    ShellCommand(
        "keys list", "show the keys' ids and names, never the keys",
        "keys:list_keys", "to read", _JSON),
    ShellCommand(
        "keys rotate", "give a key a new secret and print it, once",
        "keys:rotate_key", "to write", _KEY,
        _argument("--grace-seconds", type=_number(0, int(LONGEST_GRACE.total_seconds())),
                  default=int(GRACE.total_seconds()), metavar="S", help=_GRACE_HELP)),
    ShellCommand("keys revoke", "revoke a key", "keys:revoke_key", "to write", _KEY),
    ShellCommand(
        "persons list", "show who has signed in by the identity provider, by name",
        "persons:list_persons", "to read", _JSON),
    ShellCommand(
        "persons forget", "delete a person's name and e-mail address",
        "persons:forget_person", "to write",
        _argument("sub", type=_text, metavar="SUB",
                  help="the provider's id of the person, as persons list shows it")),
    ShellCommand(
        "runs erase", "after a restore, erase again what had been erased",
        "backups.erasures:erase_again", "to write",
        _argument("--from-audit", dest="file", required=True, metavar="FILE", help=_AUDIT_HELP)),
    ShellCommand(
        "projections list", "show the position and the lag of each view",
        "views:list_projections", "to read", _JSON),
    ShellCommand(
        "projections rebuild", "fill views anew beside the live ones, then swap",
        "views:rebuild", "to write", _VIEWS),
    ShellCommand(
        "projections verify", "replay the log and name every row that differs",
        "views:verify", "to read", _VIEWS),
    ShellCommand(
        "seal status", "show what is signed, and what each node has seen",
        "seal:show_status", "to read", _JSON),
    ShellCommand(
        "seal adopt", "go on signing, under a new origin, the log as it is now",
        "seal:adopt_log", "to write",
        _argument("--reason", required=True, type=_reason, metavar="TEXT", help=_REASON_HELP)),
    ShellCommand(
        "verify", "compare the sealed log with the stored events",
        "verify:verify", "to verify"),
    ShellCommand(
        "migrate", "bring the schema up to date, and nothing else",
        "dispatch:migrate", "nothing"),
)  # fmt: skip
