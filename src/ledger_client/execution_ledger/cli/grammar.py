"""The grammar of ``elk``: how commands are described, and the meaning of their exit codes.

0: done. 1: refused, or not proved. 2: usage. 3: not found. 4: no access. 5: not reachable. 130:
interrupted.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import httpx
import msgspec
from click.shell_completion import CompletionItem

from execution_ledger import types
from execution_ledger._requests import BROKEN, VERSION, instant, unexpected
from execution_ledger.cli.asking import Connection
from execution_ledger.cli.showing import Show, say
from execution_ledger.errors import (
    Fault,
    Forbidden,
    LedgerError,
    NotConfigured,
    NotFound,
    NotReachable,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)

REFUSED, USAGE, NOT_FOUND, NO_ACCESS, NOT_REACHABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130
EXIT_CODES: Sequence[tuple[type[Exception] | tuple[type[Exception], ...], int]] = (
    (NotFound, NOT_FOUND),
    ((NotConfigured, Unauthorized, Forbidden), NO_ACCESS),
    ((NotReachable, UnexpectedAnswer, Unavailable, Fault), NOT_REACHABLE),
    ((LedgerError, OSError, ImportError, msgspec.MsgspecError), REFUSED),
    ((ValueError, httpx.InvalidURL), USAGE),
)
SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Elk(click.Group):
    """The group of all commands. It prints each error as one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An error becomes a line and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # The reader of the pipe has closed it. Nothing must be written to it at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            failure = _failure_of(error, ctx.obj)
            code = next((code for kinds, code in EXIT_CODES if isinstance(failure, kinds)), None)
            if code is None:
                raise
            say(f"elk: {failure}")
            ctx.exit(code)


def _failure_of(error: Exception, ledger: Connection | None) -> Exception:
    """The error to print; for an answer that cannot be read, an error that says so."""
    is_ours = not isinstance(error, BROKEN) or isinstance(error, LedgerError | httpx.InvalidURL)
    if is_ours or ledger is None or ledger.answer is None:
        return error
    return unexpected(ledger.answer, ledger.settings.url)


def when(value: str) -> str:
    """Convert an instant for the service: RFC 3339, a date, or ``3h`` (ago), ``in 3h``."""
    span = re.fullmatch(r"(in )?(\d{1,6}) ?(s|min|m|h|d|w)(?: ago)?", value.strip())
    if span is not None:
        away = timedelta(seconds=int(span[2]) * SECONDS[span[3]])
        return instant(datetime.now(UTC) + (away if span[1] else -away))
    if not re.match(r"\d{4}-\d\d-\d\d", value):
        raise click.BadParameter(f"{value!r} is no instant: 2026-11-01, 2026-11-01T09:00:00Z or 3h")
    return value


def _completion(words: str) -> Callable[[Any, Any, str], list[CompletionItem]]:
    """The completion of a word, or of several words with commas between them."""

    def complete(_: Any, __: Any, incomplete: str) -> list[CompletionItem]:
        before, comma, word = incomplete.rpartition(",")
        found = (each for each in words.split() if each.startswith(word))
        return [CompletionItem(f"{before}{comma}{each}") for each in found]

    return complete


FIELDS: dict[str, tuple[str, str, Any]] = {
    "as-of": ("as_of", "As it was known at this instant, such as 2026-11-01 or 3h.", when),
    "assignee": ("assignee", "Who has to act.", None),
    "by": ("group_by", "Group by one word or two, such as workspace,month.", None),
    "cause": ("blocked_cause", "The cause of an open blocker.", None),
    "external-id": ("external_id", "The name at the reporter.", None),
    "from": ("from_", "From this instant on.", when),
    "health": ("health", "The status of the health.", None),
    "line": ("service_line_id", "A line, LIN-…, or several with commas between.", None),
    "limit": ("limit", "At most so many rows.", click.IntRange(1)),
    "model": ("execution_model", "The execution model.", None),
    "organization": ("organization_id", "An organization, for administrators.", None),
    "overdue": ("overdue", "With a blocker that is past its due time.", bool),
    "parent": ("parent_run_id", "The runs that this run, RUN-…, has begun.", None),
    "product-line": ("product_line", "The product line.", None),
    "project": ("project_tag", "A project, PROJ-….", None),
    "resource": ("resource_id", "A resource.", None),
    "severity": ("severity", "The severity of the watch.", None),
    "sort": ("sort", "The order.", None),
    "state": ("state", "The state, or several: idle,blocked.", None),
    "run:status": ("status", "The status of the run.", None),
    "alert:status": ("status", "The status of the alert.", None),
    "time-zone": ("time_zone", "The zone of dates, such as Europe/Lisbon.", None),
    "to": ("to", "Up to this instant, without it.", when),
    "type": ("type", "The type of the event, or several.", None),
    "unassigned": ("unassigned", "With a blocker that nobody has.", bool),
    "watch": ("watch_id", "A watch, WCH-….", None),
    "workspace": ("workspace_id", "A workspace, WS-….", None),
}
"""The options for arguments of the API: the argument, the help, and the type.

A prefix distinguishes two options of one name.
"""

WORDS = {
    "alert:status": "open acknowledged resolved",
    "cause": "approval_gap capacity_issue policy_violation delivery_blocker",
    "health": "green amber red none",
    "model": "capacity ongoing_sla timeboxed_outcome infra_managed observability agent_runtime",
    "product-line": "talent managed_services ods infrastructure intelligence agent_gateway",
    "run:status": "pending running completed failed cancelled",
    "severity": "info warning critical",
    "sort": "state_since health_score due_at",
    "state": "running idle paused blocked closed",
    "type": " ".join(types.EVENTS),
}
"""The words that shells complete, by option. The service accepts other words too."""


def options_of(arguments: type, named: str) -> str:
    """The named options. A star stands for those of all other arguments in ``FIELDS``."""
    fields = {FIELDS[name][0] for name in named.split() if name != "*"}
    others = {field: name for name, (field, *_) in FIELDS.items() if field not in fields}
    return named.replace("*", " ".join(others[f] for f in arguments.__annotations__ if f in others))


def option(name: str) -> click.Option:
    """The option for an argument of the API."""
    field, text, kind = FIELDS[name]
    declared = [f"--{name.rpartition(':')[2]}", field]
    if kind is bool:
        return click.Option(declared, is_flag=True, flag_value="true", default=None, help=text)
    if kind is when or isinstance(kind, click.IntRange):
        return click.Option(declared, type=kind, help=text)
    return click.Option(declared, shell_complete=_completion(WORDS.get(name, "")), help=text)


def command(
    name: str,
    examples: Sequence[str],
    params: Iterable[click.Parameter] = (),
    options: str = "",
    *,
    prints: bool = True,
    settings: dict[str, Any] | None = None,
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function. Its docstring's first sentence is the help.

    ``options`` are names of ``FIELDS``. The function of a command that prints gets a ``Show``
    first.
    """
    made = [*params, *map(option, options.split())]
    if prints:
        made.append(click.Option(["--json", "is_json"], is_flag=True, help="Write JSON."))
        made.append(click.Option(["--csv", "is_csv"], is_flag=True, help="Write CSV."))

    def named(function: Callable[..., None]) -> click.Command:
        def called(**values: Any) -> None:
            if prints:
                is_json, is_csv = values.pop("is_json"), values.pop("is_csv")
                if is_json and is_csv:
                    raise click.UsageError("Give --json or --csv, not both.")
                function(Show("json" if is_json else "csv" if is_csv else None), **values)
            else:
                function(**values)

        lines = "".join(f"\n  $ {example}" for example in examples)
        return click.Command(
            name,
            callback=called,
            params=made,
            help=function.__doc__,
            epilog=f"\b\nExamples:{lines}",
            context_settings=settings,
        )

    return named


def _print_version(ctx: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set:
        click.echo(f"elk {VERSION}")
        ctx.exit()


is_printing_version = click.Option(
    ["-V", "--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Say the version of elk.",
)
