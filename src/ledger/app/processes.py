"""The common behaviour of all processes: their end, memory, names and open files."""

import contextlib
import ctypes
import gc
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

GRACE_SECONDS = 20
"""Accepted requests may finish within this time after a signal to stop."""

_COLLECT_SECONDS = 10.0


class Lifeline:
    """Ends forked processes when their parent ends, in any way.

    It is a pipe without data. Each child closes the writing end, so the end of the parent closes it
    for all children. (The writing ends of multiprocessing's own pipes stay open: each child would
    hold those of the children before it.)
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def watch(self) -> None:
        """In a child: stop this process as soon as the parent has ended."""
        os.close(self._writing)

        def watch() -> None:
            multiprocessing.connection.wait([self._reading])
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()

    def fork(self, work: Callable[[Connection], None]) -> tuple[Connection, BaseProcess]:
        """Do a part of a command's work in a fork; return the pipe between both, and the fork.

        The fork has all code loaded, which takes a new process half a second. This process must not
        have threads yet. Ctrl-C reaches the fork too, but the command ends it.
        """
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def begin() -> None:
            self.watch()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            work(theirs)

        fork = context.Process(target=begin, daemon=True)
        fork.start()
        theirs.close()
        return ours, fork


def show_name() -> None:
    """Show this process's name in the system's list of processes: its first 15 letters."""
    name = multiprocessing.current_process().name.encode()[:15]
    with contextlib.suppress(OSError):  # no Linux
        Path("/proc/self/comm").write_bytes(name)


def allow_many_connections() -> None:
    """Raise the limit of open files as far as the system allows: each connection is a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def connections_allowed() -> int:
    """How many connections this process may have, with some files left for everything else."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(allowed // 2, allowed - 500)


def calm_collector(stopping: threading.Event | None = None) -> None:
    """Exclude the objects of the start from garbage collection, and collect cycles seldom.

    A full collection would otherwise take 40 ms. Rows and events make no cycles, yet a collection
    after each 2,000 of them took a tenth of a rebuild's time. Some objects do make cycles, such as
    an error and the frames that it passed. By these thresholds a full collection would come only
    after 200 million objects. So a thread collects now and then: this one until ``stopping`` is
    set, if given.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    if stopping is None:
        never = threading.Event()
        threading.Thread(
            target=_collect_until, args=(never,), name="collector", daemon=True
        ).start()
    else:
        _collect_until(stopping)


def _collect_until(stopping: threading.Event) -> None:
    """Collect cycles now and then, and return unused memory to the system.

    The C library keeps freed memory for later: tens of MB after a flood of requests.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    while not stopping.wait(_COLLECT_SECONDS):
        gc.collect()
        if trim is not None:
            trim(0)
