"""``ledger`` commands in processes of their own, forked from one that has loaded their code.

An interpreter takes two seconds of processor time to load the code of ``ledger serve``, and half a
second for that of other commands: most of what such a test costs. A fork is a process like any
other, with an environment, standard streams and a session of its own. A test of values that are
read from the environment while the code is loaded, such as the user's name, needs an interpreter of
its own (``Installed``, and the fixture ``ledger_process``).
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ledger.app.cli.arguments import main

Entry = Callable[[Sequence[str]], int]
"""The entry point of the command, or a function of a test that alters something first."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.preloaded"])


class Forked(CONTEXT.Process):
    """A ``ledger`` command, with the methods of ``subprocess.Popen`` that the tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        errors: Path,
        entry: Entry = main,
    ) -> None:
        # By this name the ledger knows a process that it has not started itself.
        super().__init__(name="MainProcess")
        self._arguments, self._environment = arguments, dict(environment)
        self._output, self._errors, self._entry = output, errors, entry
        self.start()

    def run(self) -> None:
        """Run the command, in the new process."""
        os.setsid()
        for number, path in ((1, self._output), (2, self._errors)):
            written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(written, number)
            os.close(written)
        # The first of these processes ignores an import that fails, and would then load nothing.
        import tests.support.preloaded  # noqa: F401

        take_environment(self._environment)
        sys.exit(self._entry(self._arguments))

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return self.exitcode

    def send_signal(self, number: int) -> None:
        if self.exitcode is None:
            os.kill(self.pid, number)


def take_environment(environment: Mapping[str, str]) -> None:
    """Replace this process's variables, save the folder of the metrics (``preloaded.py``)."""
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    os.environ.clear()
    os.environ.update({**environment, "PROMETHEUS_MULTIPROC_DIR": folder})
