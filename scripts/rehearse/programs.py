"""Long-running programs on hosts: started, frozen, and killed with all their children."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scripts.rehearse.hosts import Host

_GRACE_SECONDS = 30.0


class Program:
    """A program that runs until it is ended. Its output goes to a file."""

    def __init__(
        self,
        host: Host,
        command: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.host, self.log = host, log
        self._environment = {**os.environ, **(environment or {})}
        self._command = host.command([*as_user(user), *command])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program, unless it runs."""
        if self.is_running():
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """True if the program runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The program's process. Raises AssertionError if it was never started."""
        assert self._process is not None
        return self._process.pid

    def family(self) -> list[int]:
        """The program's process and all its descendants."""
        return [self.pid, *descendants(self.pid)] if self.is_running() else []

    def stop(self) -> None:
        """Ask the program to end. If it does not, kill it with all its children."""
        family = self.family()
        if self._process is not None and self.is_running():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        send(signal.SIGKILL, [pid for pid in family if pid != self.pid or self.is_running()])
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        """Kill the program with all its children, at once."""
        send(signal.SIGKILL, self.family())
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        """Freeze the program with all its children: connections stay open, nothing is answered."""
        send(signal.SIGSTOP, self.family())

    def thaw(self) -> None:
        """Let a frozen program continue."""
        send(signal.SIGCONT, self.family())


def run(command: list[str], stdin: str | None = None) -> None:
    """Run a command to its end. Raises RuntimeError with the end of its output."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd="/", check=False
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} says: {done.stderr.strip()[-500:]}")


def as_user(user: str | None) -> list[str]:
    """The beginning of a command that runs as another user than root."""
    if user is None:
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]


def send(number: int, pids: list[int]) -> None:
    """Send a signal to processes, those that have ended excepted."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> Iterator[int]:
    """All processes that descend from one."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from descendants(child)


def name_of(pid: int) -> str:
    """The name that a process shows; empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def until(ask: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Wait for a condition; return how long it took. Raises TimeoutError after ``seconds``."""
    began = time.monotonic()
    while not ask():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - began
