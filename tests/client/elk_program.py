"""``elk`` as tests call it: within the test's process, in one of its own, and on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner
from execution_ledger.cli.commands import elk

from scripts.python_client.modules import PACKAGE

PROGRAM = (sys.executable, "-c", "import sys; from execution_ledger.cli import main; main()")


class Done(NamedTuple):
    """The end of a command."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


class Elk:
    """The command, with the environment of a user who has logged in nowhere."""

    def __init__(self, home: Path, **environment: str | None) -> None:
        self.home = home
        self._environment: dict[str, str | None] = {
            "ELK_URL": None,
            "ELK_TOKEN": None,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            **environment,
        }

    def having(self, **environment: str | None) -> "Elk":
        """The same with other variables; None for one that is not set."""
        return Elk(self.home, **{**self._environment, **environment})

    def __call__(self, *words: object, stdin: str | bytes = "") -> Done:
        """Run a command in this process, with pipes for its streams."""
        arguments = list(map(str, words))
        done = CliRunner().invoke(
            elk, arguments, stdin, env=self._environment, prog_name="elk", catch_exceptions=False
        )
        return Done(done.exit_code, done.stdout, done.stderr)

    def begin(self, *words: object, **more: Any) -> "subprocess.Popen[str]":
        """Begin a command in a process of its own."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        command = [*PROGRAM, *map(str, words)]
        return subprocess.Popen(command, env=self.variables(), text=True, **streams)

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a process."""
        mine = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **self._environment}
        return {name: value for name, value in mine.items() if value is not None} | more

    def on_terminal(self, *words: object, width: int = 80, typed: str = "", **more: str) -> Done:
        """Run a command on a terminal of so many columns; both streams are its output."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        variables = self.variables(TERM="xterm-256color") | more
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            if name not in more:
                variables.pop(name, None)
        process = subprocess.Popen(
            [*PROGRAM, *map(str, words)],
            env=variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        output = b""
        while piece := _read(ours):
            output += piece
            if typed and b": " in output:  # the prompt
                os.write(ours, typed.encode())
                typed = ""
        os.close(ours)
        return Done(process.wait(20), output.decode().replace("\r\n", "\n"), "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # the other side is closed
        return b""
