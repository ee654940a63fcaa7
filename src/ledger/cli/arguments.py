"""The commands and their options (contract, Command line). ``dispatch.py`` runs the commands.

Exit codes: 0 done, 1 refused or failed with one clear line, 2 usage, 130 interrupted by Ctrl-C.

Help and usage errors come at once: this module loads no code that only a running command needs.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime

from ledger import __version__
from ledger.domain.api_key import GRACE, LONGEST_GRACE, SINGLE_PERMISSIONS
from ledger.domain.values import ORGANIZATION_ID, TEXT, WORKSPACE_ID, is_plain, parse_bound
from ledger.service.roles import ROLES

_LONGEST_REASON = 500
"""Characters of the reason why an operator adopts the log."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the ``ledger`` command; returns the exit code."""
    _occupy_closed_streams()
    parsed = _parser().parse_args(arguments)
    parsed.check(parsed)
    try:
        from ledger.cli.dispatch import dispatch

        return dispatch(parsed)
    except KeyboardInterrupt:
        return 130


def _occupy_closed_streams() -> None:
    """Open the null device in the place of each standard stream that is closed.

    Otherwise the next file that is opened would get the stream's number. If the event loop opens
    that file, its process ends; if the file is the lock that PostgreSQL inherits, PostgreSQL's log
    replaces the lock.
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
    parser.set_defaults(check=lambda _: None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_serve(commands.add_parser("serve", help="run everything on this machine"))

    demo = commands.add_parser("demo", help="load a realistic story; print a token and an address")
    demo.set_defaults(action="demo")

    for name, text, file in (
        ("import", "record facts, one structured CloudEvent a line", "or - for standard input"),
        ("backup", "write the database to a file, while it serves", "or - for standard output"),
        (
            "restore",
            "fill an empty database from a backup; verify it",
            "as `ledger backup` wrote it",
        ),
    ):
        one = commands.add_parser(name, help=text)
        one.add_argument("file", metavar="FILE", help=f"a file, {file}")
        one.set_defaults(action=name)

    _add_keys(commands.add_parser("keys", help="API keys").add_subparsers(required=True))

    runs = commands.add_parser("runs", help="runs").add_subparsers(required=True)
    erase = runs.add_parser("erase", help="after a restore, erase again what had been erased")
    erase.add_argument(
        "--from-audit",
        required=True,
        metavar="FILE",
        help="an audit export as JSON lines, or - for standard input",
    )
    erase.set_defaults(action="runs erase")

    views = commands.add_parser("projections", help="the views").add_subparsers(required=True)
    listing = views.add_parser("list", help="show the position and the lag of each view")
    _add_json(listing, action="projections list")
    for name, text in (
        ("rebuild", "fill views anew beside the live ones, then swap"),
        ("verify", "replay the log and name every row that differs"),
    ):
        one = views.add_parser(name, help=text)
        help_ = "a view, as `projections list` shows it; all views if none is named"
        one.add_argument("names", nargs="*", type=_view, metavar="NAME", help=help_)
        one.set_defaults(action=f"projections {name}")

    _add_seal(commands.add_parser("seal", help="signing").add_subparsers(required=True))

    sealed = commands.add_parser("verify", help="compare the sealed log with the stored events")
    sealed.set_defaults(action="verify")

    migrate = commands.add_parser("migrate", help="bring the schema up to date, and nothing else")
    migrate.set_defaults(action="migrate")
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", type=_host, default="127.0.0.1", help="%(default)s unless given")
    serve.add_argument(
        "--port", type=_number(0, 65535), default=8000, help="%(default)s unless given; 0: any"
    )
    serve.add_argument(
        "--workers",
        type=_number(1, 64),
        default=1,
        metavar="N",
        help="processes that answer requests, %(default)s unless given",
    )
    serve.add_argument(
        "--role",
        choices=ROLES,
        default="all",
        help="what runs on this node, %(default)s unless given: api answers requests and leads no"
        " loop, loops answers probes only, read takes GETs only",
    )
    serve.set_defaults(action="serve")


def _add_keys(keys: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    create = keys.add_parser("create", help="create a key and print it, once")
    create.add_argument(
        "--organization",
        type=_identifier(ORGANIZATION_ID),
        metavar="ORG-…",
        help="the organization that the key has access to",
    )
    create.add_argument(
        "--workspace",
        type=_identifier(WORKSPACE_ID),
        metavar="WS-…",
        help="only this workspace of the organization",
    )
    create.add_argument("--name", type=_label, metavar="N", help="a name, shown by keys list")
    create.add_argument(
        "--permission",
        nargs="+",
        action="extend",
        choices=SINGLE_PERMISSIONS,
        metavar="P",
        help=f"may be repeated and takes several: {', '.join(SINGLE_PERMISSIONS)}",
    )
    create.add_argument(
        "--admin", action="store_true", help="allow everything, in all organizations"
    )
    create.add_argument(
        "--expires-at",
        type=_instant,
        metavar="T",
        help="refuse the key from this instant on (RFC 3339, or a date meaning 00:00Z)",
    )
    create.set_defaults(action="keys create", check=_fitting(create))
    listing = keys.add_parser("list", help="show the keys' ids and names, never the keys")
    _add_json(listing, action="keys list")
    rotate = keys.add_parser("rotate", help="give a key a new secret and print it, once")
    rotate.add_argument("id", type=_text, metavar="ID", help="the key's id, as keys list shows it")
    rotate.add_argument(
        "--grace-seconds",
        type=_number(0, int(LONGEST_GRACE.total_seconds())),
        default=int(GRACE.total_seconds()),
        metavar="S",
        help="how long the replaced secret still works, %(default)s unless given",
    )
    rotate.set_defaults(action="keys rotate")
    revoke = keys.add_parser("revoke", help="revoke a key")
    revoke.add_argument("id", type=_text, metavar="ID", help="the key's id, as keys list shows it")
    revoke.set_defaults(action="keys revoke")


def _add_seal(seal: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = seal.add_parser("status", help="show what is signed, and what each node has seen")
    _add_json(status, action="seal status")
    adopt = seal.add_parser("adopt", help="go on signing, under a new origin, the log as it is now")
    adopt.add_argument(
        "--reason",
        required=True,
        type=_reason,
        metavar="TEXT",
        help=f"recorded for good, at most {_LONGEST_REASON} characters",
    )
    adopt.set_defaults(action="seal adopt")


def _add_json(listing: argparse.ArgumentParser, action: str) -> None:
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(action=action)


def _fitting(create: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """A check that makes options of ``keys create`` that exclude each other a usage error."""

    def check(parsed: argparse.Namespace) -> None:
        tenant = parsed.organization or parsed.workspace
        if parsed.admin and (parsed.permission or tenant):
            create.error("--admin excludes --organization, --workspace and --permission")
        if not parsed.admin and not (parsed.organization and parsed.permission):
            create.error("--organization and --permission are required (or --admin)")

    return check


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
    from projections import projections

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
