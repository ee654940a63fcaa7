"""The memory, threads, CPU and context switches of processes and their descendants (Linux)."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.05  # seconds between two checks

MB = 1024  # in kilobytes, the unit of /proc
_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


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


@dataclass(frozen=True)
class Usage:
    """The CPU time and the voluntary context switches of a process and its descendants so far."""

    cpu: float  # seconds
    switches: dict[int, int]  # by thread, without threads that have ended

    def switches_since(self, before: "Usage") -> int:
        """The switches since then of the threads that still live."""
        return sum(
            count - before.switches.get(thread, 0) for thread, count in self.switches.items()
        )


def usage_of(pid: int) -> Usage:
    """Measure a process and all its descendants.

    The clock of a process has nanoseconds, and the time of its ended threads. Children that have
    ended are in the parent's figures, in ticks of 10 ms.
    """
    cpu, switches = 0.0, dict[int, int]()
    for each in (pid, *children_of(pid)):
        with contextlib.suppress(OSError):
            of_ended = Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2].split()[13:15]
            cpu += time.clock_gettime(_clock_of(each)) + sum(map(int, of_ended)) * _TICK
        for status in Path(f"/proc/{each}/task").glob("*/status"):
            with contextlib.suppress(OSError):
                count = status.read_text().rpartition("\nvoluntary_ctxt_switches:")[2].split()[0]
                switches[int(status.parent.name)] = int(count)
    return Usage(cpu, switches)


def _clock_of(pid: int) -> int:
    """The CPU clock of a process, as clock_getcpuclockid(3) returns it."""
    return ~pid << 3 | 2


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
