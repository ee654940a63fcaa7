"""What our processes have in common."""

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
from pathlib import Path

GRACE_SECONDS = 20
"""Accepted requests may finish within this time after a signal to stop."""

_COLLECT_SECONDS = 10.0
"""Between two full collections."""


def end_with_parent() -> None:
    """Ask this process, which was spawned, to stop as soon as its parent is gone, however."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_with(parent.sentinel)


class Lifeline:
    """Ends processes that are forked with the one that forks them, however that one ends.

    A pipe that nothing is written to. Its writing end is closed in each child (multiprocessing's
    own pipes are not: a child would hold those of the ones before it), so that it is closed for all
    when the parent is gone.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def watch(self) -> None:
        """In a child: ask this process to stop as soon as the parent is gone."""
        os.close(self._writing)
        _end_with(self._reading)


def _end_with(sentinel: int) -> None:
    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def show_name() -> None:
    """Let the system's list of processes show what this one is, as far as 15 letters go."""
    name = multiprocessing.current_process().name.encode()[:15]
    with contextlib.suppress(OSError):  # no Linux
        Path("/proc/self/comm").write_bytes(name)


def allow_many_connections() -> None:
    """As many open files as the system lets us have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def connections_allowed() -> int:
    """How many connections this process may have, with some files left for everything else."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(allowed // 2, allowed - 500)


def calm_collector() -> None:
    """Spare Python's collector what was loaded at start, and look for cycles seldom.

    A full collection then takes no 40 ms. Rows and events make no cycles: looking after each
    2,000 of them took a tenth of a rebuild's time. Some objects do make cycles, as an error and the
    frames that it passed; they must not wait for the 200 million objects that these thresholds come
    to, so a thread collects them now and then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    threading.Thread(target=_collect_now_and_then, name="collector", daemon=True).start()


def _collect_now_and_then() -> None:
    """Collect cycles, and give the system back the memory that nobody uses.

    The C library keeps what was freed for later; after a flood of requests that is tens of MB.
    """
    never = threading.Event()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    while not never.wait(_COLLECT_SECONDS):
        gc.collect()
        if trim is not None:
            trim(0)
