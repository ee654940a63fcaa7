"""The memory, threads and CPU of processes and their descendants (Linux)."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

EVERY = 0.05  # seconds between two checks

MB = 1024  # in kilobytes, the unit of /proc


def children_of(pid: int) -> Iterator[int]:
    """All descendants of a process."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from children_of(child)


def name_of(pid: int) -> str:
    """The name of a process, as it set it itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def megabytes(pid: int, field: str = "VmRSS") -> float:
    """A process's memory in use (``VmRSS``) or at its highest (``VmHWM``); 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / MB
    return 0.0


def threads_of(pid: int) -> int:
    """The number of a process's threads; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


def cpu_seconds(pids: Sequence[int]) -> float:
    """The CPU seconds of processes and of their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:17]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Watched:
    """Runs a command to its end and measures its memory."""

    def __init__(self, command: Sequence[str], env: dict[str, str], below: bool = False) -> None:
        """``below``: measure the command's descendants instead of the command itself."""
        self._command, self._env, self._below = command, env, below
        self.samples: list[tuple[float, float]] = []
        """(seconds since the start, megabytes of the largest process watched)."""
        self.peak = 0.0
        self.seconds = 0.0
        self.output = ""

    def run(self) -> int:
        """Run the command; return its exit code."""
        began = time.perf_counter()
        child = subprocess.Popen(
            self._command,
            env=os.environ | self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(child.pid, began, over), daemon=True)
        watcher.start()
        self.output, _ = child.communicate()
        self.seconds = time.perf_counter() - began
        over.set()
        watcher.join()
        return child.returncode

    def at(self, share: float) -> float:
        """The megabytes in use after this share of the time."""
        earlier = [used for moment, used in self.samples if moment <= share * self.seconds]
        return earlier[-1] if earlier else 0.0

    def _watch(self, pid: int, began: float, over: threading.Event) -> None:
        while not over.wait(EVERY):
            pids = list(children_of(pid)) if self._below else [pid]
            used = [megabytes(each) for each in pids]
            self.samples.append((time.perf_counter() - began, max(used, default=0.0)))
            self.peak = max([self.peak, *(megabytes(each, "VmHWM") for each in pids)])
