"""``elk run``: reports a command as a run of a line, for cron and shells; and ``elk run show``."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from execution_ledger._sync.client import Ledger
from execution_ledger.cli import session
from execution_ledger.cli.grammar import REFUSED, command
from execution_ledger.cli.reading import show_run
from execution_ledger.cli.showing import say
from execution_ledger.errors import Problem

TAIL_BYTES = 4_000
"""How many bytes from the end of stderr are reported, with ``--stderr-tail``."""
NOT_EXECUTABLE, NOT_FOUND, BY_SIGNAL = 126, 127, 128
"""A shell's exit codes for a command that did not start, and the base of a signal's code."""
PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Process:
    """The command, with its signals and the end of its stderr."""

    def __init__(self, words: tuple[str, ...], tells_stderr: bool) -> None:
        self._words, self._tells_stderr = words, tells_stderr
        self._process: subprocess.Popen[bytes] | None = None
        self.tail = b""
        """The end of what the command wrote to stderr."""
        self.interrupted_by: int | None = None
        """The signal that was passed on, if it asks for an end."""

    def run(self) -> int:
        """Run the command to its end, and return its exit code as a shell would."""
        pipe = subprocess.PIPE if self._tells_stderr else None
        with self._passing_signals_on():
            try:
                self._process = subprocess.Popen(self._words, stderr=pipe)
            except OSError as error:
                say(f"elk: {self._words[0]}: {error.strerror}")
                return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            if self.interrupted_by is not None:  # the signal came before the command existed
                self._process.send_signal(self.interrupted_by)
            reader = threading.Thread(target=self._copy, daemon=True)
            reader.start()
            code = self._process.wait()
            # A grandchild may keep the pipe open for ever.
            reader.join(1.0)
        return BY_SIGNAL - code if code < 0 else code

    def _copy(self) -> None:
        """Copy stderr, and store its end."""
        stream = self._process.stderr if self._process is not None else None
        while stream is not None and (piece := os.read(stream.fileno(), 65_536)):
            self.tail = (self.tail + piece)[-TAIL_BYTES:]
            with suppress(OSError):
                sys.stderr.buffer.write(piece)
                sys.stderr.buffer.flush()

    def _pass_on(self, number: int, _: object) -> None:
        if number in ENDING:
            self.interrupted_by = number
        # A terminal sends its signals to the command too.
        if self._process is not None and not (number in OF_TERMINALS and _is_in_foreground()):
            self._process.send_signal(number)

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
        # A signal that is ignored, as by nohup, stays ignored, for the command too.
        handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        before = [(number, signal.signal(number, self._pass_on)) for number in handled]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)


def _is_in_foreground() -> bool:
    with suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    return False


@contextmanager
def _ledger(spool: str | None) -> Iterator[Ledger | None]:
    """A client that logs refusals and outages; None if the settings are wrong."""
    try:
        settings = session.settings()
        ledger = Ledger(settings.url, settings.token, source=settings.source, spool=spool)
    except Exception as error:  # whatever is wrong with the settings, the command runs
        say(f"elk: the run is not reported: {error}")
        yield None
        return
    log, teller = logging.getLogger("execution_ledger"), _Teller(logging.WARNING)
    log.addHandler(teller)
    try:
        with ledger:
            yield ledger
    finally:
        log.removeHandler(teller)


class _Teller(logging.Handler):
    """Writes the client's log for a person."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"elk: {record.getMessage()}")


@command(
    "--",
    [],
    [click.Argument(["words"], nargs=-1, required=True, type=click.UNPROCESSED)],
    prints=False,
    settings={"allow_interspersed_args": False},
)
def wrapped(words: tuple[str, ...]) -> None:
    """Run a command as a run of a line."""
    ctx = click.get_current_context()
    assert ctx.parent is not None
    ctx.exit(_reported(words, **ctx.parent.params))


def _reported(
    words: tuple[str, ...], line: str, spool: str | None, stderr_tail: bool, **options: Any
) -> int:
    """Run a command and report its run. Returns the command's exit code."""
    process, stops = Process(words, stderr_tail), options.pop("stop_if_refused")
    with _ledger(spool) as ledger:
        if ledger is None:
            return process.run()
        code = REFUSED
        try:
            with ledger.run(
                line, **options, on_refused="raise" if stops else "run", tells_errors=stderr_tail
            ):
                code = process.run()
                _end(code, process)
        except Problem:
            say("elk: the command did not run.")
        except (_Failed, KeyboardInterrupt):
            pass
    return code


class _Failed(Exception):
    """The command failed. The name of a subclass is the code of the run."""


def _end(code: int, process: Process) -> None:
    """Raise the exception that ends the run; do nothing if the command succeeded."""
    if code == 0:
        return
    if process.interrupted_by is not None:
        raise KeyboardInterrupt
    name = f"exit_{code}"
    if code > BY_SIGNAL:
        with suppress(ValueError):
            name = signal.Signals(code - BY_SIGNAL).name
    raise type(name, (_Failed,), {})(process.tail.decode(errors="replace"))


class RunGroup(click.Group):
    """``elk run show RUN``, and ``elk run --line LIN -- COMMAND``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With ``--line``, all words are the command."""
        if ctx.params.get("line"):
            return "--", wrapped, ["--", *args]
        return super().resolve_command(ctx, args)


run = RunGroup(
    "run",
    commands=[show_run],
    subcommand_metavar="-- COMMAND [ARGS]... | show RUN",
    help="""Run a command as a run of a line, or show a run.

    The run begins with the command, has heartbeats, and ends with it: exit code 0 completes the
    run, another fails it with the code exit_3 (or the signal's name), a signal to elk is passed on
    and cancels it. The command's exit code is elk's own. The command runs although the ledger is
    away or refuses the run.""",
    epilog="\b\nExamples:\n  $ elk run --line LIN-26-000050 -- ./nightly.sh --all\n"
    "  0 2 * * * elk run --line LIN-26-000050 --name nightly-$(date +\\%F) -- ./nightly.sh\n"
    "  $ elk run show RUN-26-000007",
    params=[
        click.Option(["--line"], help="The line, LIN-…."),
        click.Option(["--name"], help="A name of the run at this source, by default a new one."),
        click.Option(
            ["--attempt"], type=click.IntRange(1, 1_000), help="The attempt of this name."
        ),
        click.Option(["--parent"], help="The name of the run that this one belongs to."),
        click.Option(
            ["--lease"],
            type=click.IntRange(5, 604_800),
            default=300,
            show_default=True,
            help="Seconds without a heartbeat after which the run has failed.",
        ),
        click.Option(["--stderr-tail"], is_flag=True, help="Report the end of stderr on failure."),
        click.Option(
            ["--stop-if-refused"],
            is_flag=True,
            help="Do not run, as on a paused line: exit code 1.",
        ),
        click.Option(["--spool"], help="A folder where reports outlive an outage of the ledger."),
    ],
)

COMMANDS = (run,)
